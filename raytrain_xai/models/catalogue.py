"""Published weights by architecture: where they are, how they are recognised, and what they reached.

Sources: the B-cos v2 release (Böhle et al., TPAMI 2024, arXiv 2306.10898), torchvision's model zoo, and the X-DNN files
of Hesse et al., NeurIPS 2021. Top-1 is what the publishers report on the ImageNet validation images (1000 classes), in
percent; it was not measured here. All were trained on ImageNet, whose own terms restrict commercial use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from raytrain_xai.errors import ConfigError

DEFAULT = "official"


@dataclass(frozen=True)
class Release:
    """Who published a set of files, where, and under which licence."""

    publisher: str
    folder: str
    license: str


@dataclass(frozen=True)
class OfficialWeights:
    """One published file.

    Attributes:
        variant: what ``model.weights`` calls it: ``official``, or another training, such as ``official-long``.
        file: name of the file, also in a mirror folder and in the cache.
        top1: published ImageNet top-1 in percent; None where the publishers do not give it.
        release: who published it.
    """

    variant: str
    file: str
    top1: float | None
    release: Release

    @property
    def url(self) -> str:
        """Address of the file."""
        return f"{self.release.folder}/{self.file}"

    @property
    def sha256(self) -> str | None:
        """First hexadecimal digits of the SHA-256 of the content, which both zoos put into the name; None: unknown."""
        digits = re.search(r"-([0-9a-f]{8,64})\.pth$", self.file)
        return digits[1] if digits else None


BCOS_V2 = Release("B-cos v2", "https://github.com/B-cos/B-cos-v2/releases/download/v0.0.1-weights", "Apache-2.0")
TORCHVISION = Release("torchvision", "https://download.pytorch.org/models", "BSD-3-Clause")
SWAG = Release("torchvision (SWAG)", "https://download.pytorch.org/models", "CC-BY-NC-4.0")
XDNN = Release(
    "X-DNN",
    "https://download.visinf.tu-darmstadt.de/data/2021-neurips-fast-axiomatic-attribution/models",
    "Apache-2.0",
)

Row = tuple[str, str, float | None]

_BCOS: dict[str, Row] = {
    "bcos_resnet18": (DEFAULT, "resnet_18-68b4160fff", 68.736),
    "bcos_resnet34": (DEFAULT, "resnet_34-a63425a03e", 72.284),
    "bcos_resnet50": (DEFAULT, "resnet_50-ead259efe4", 75.882),
    "bcos_resnet101": (DEFAULT, "resnet_101-84c3658278", 76.532),
    "bcos_resnet152": (DEFAULT, "resnet_152-42051a77c1", 76.484),
    "bcos_resnext50_32x4d": (DEFAULT, "resnext_50_32x4d-57af241ab9", 75.820),
    "bcos_densenet121": (DEFAULT, "densenet_121-b8daf96afb", 73.612),
    "bcos_densenet161": (DEFAULT, "densenet_161-9e9ea51353", 76.622),
    "bcos_densenet169": (DEFAULT, "densenet_169-7037ee0604", 75.186),
    "bcos_densenet201": (DEFAULT, "densenet_201-00ac87066f", 75.480),
    "bcos_vgg11_bnu": (DEFAULT, "vgg_11_bnu-34036029f0", 69.310),
    "bcos_convnext_tiny_pn": (DEFAULT, "convnext_tiny_pn-539b1bfb37", 77.488),
    "bcos_convnext_base_pn": (DEFAULT, "convnext_base_pn-b0495852c6", 79.650),
    "bcos_convnext_tiny_bnu": (DEFAULT, "convnext_tiny_bnu-dbd7f5ef9d", 76.826),
    "bcos_convnext_base_bnu": (DEFAULT, "convnext_base_bnu-7c32a704b3", 80.142),
    "bcos_simple_vit_ti_patch16_224": (DEFAULT, "bcos_simple_vit_ti_patch16_224-4b0824b1c1", 59.960),
    "bcos_simple_vit_s_patch16_224": (DEFAULT, "bcos_simple_vit_s_patch16_224-75e99d1f73", 69.246),
    "bcos_simple_vit_b_patch16_224": (DEFAULT, "bcos_simple_vit_b_patch16_224-1fc4750806", 74.408),
    "bcos_simple_vit_l_patch16_224": (DEFAULT, "bcos_simple_vit_l_patch16_224-9613b2ad0a", 75.060),
    "bcos_vitc_ti_patch1_14": (DEFAULT, "bcos_vitc_ti_patch1_14-ddd6193a77", 67.260),
    "bcos_vitc_s_patch1_14": (DEFAULT, "bcos_vitc_s_patch1_14-cf55c88f0c", 74.504),
    "bcos_vitc_b_patch1_14": (DEFAULT, "bcos_vitc_b_patch1_14-a13c46397b", 77.152),
    "bcos_vitc_l_patch1_14": (DEFAULT, "bcos_vitc_l_patch1_14-8739e18b8d", 77.782),
    "simple_vit_ti_patch16_224": (DEFAULT, "standard_simple_vit_ti_patch16_224-2ae8c65a39", 70.230),
    "simple_vit_s_patch16_224": (DEFAULT, "standard_simple_vit_s_patch16_224-f2934fcdcf", 74.470),
    "simple_vit_b_patch16_224": (DEFAULT, "standard_simple_vit_b_patch16_224-87074200ed", 75.300),
    "simple_vit_l_patch16_224": (DEFAULT, "standard_simple_vit_l_patch16_224-62dc536e03", 75.710),
    "vitc_ti_patch1_14": (DEFAULT, "standard_vitc_ti_patch1_14-a5d6bded37", 72.590),
    "vitc_s_patch1_14": (DEFAULT, "standard_vitc_s_patch1_14-34ecd7288e", 75.756),
    "vitc_b_patch1_14": (DEFAULT, "standard_vitc_b_patch1_14-4d374b0220", 76.790),
    "vitc_l_patch1_14": (DEFAULT, "standard_vitc_l_patch1_14-560e48f246", 77.866),
}
_BCOS_LONG: dict[str, Row] = {  # 600 epochs instead of 90, with stronger augmentation
    "bcos_resnet50": ("official-long", "resnet_50_long-ef38a88533", 79.468),
    "bcos_resnet152": ("official-long", "resnet_152_long-0b4b434939", 80.144),
    "bcos_densenet121": ("official-long", "densenet_121_long-5175461597", 77.302),
}
_TORCHVISION: dict[str, Row] = {
    "resnet18": (DEFAULT, "resnet18-f37072fd", 69.758),
    "resnet34": (DEFAULT, "resnet34-b627a593", 73.314),
    "resnet50": (DEFAULT, "resnet50-0676ba61", 76.130),
    "resnet101": (DEFAULT, "resnet101-63fe2227", 77.374),
    "resnet152": (DEFAULT, "resnet152-394f9c45", 78.312),
    "densenet121": (DEFAULT, "densenet121-a639ec97", 74.434),
    "densenet161": (DEFAULT, "densenet161-8d451a50", 77.138),
    "densenet169": (DEFAULT, "densenet169-b2777c0a", 75.600),
    "densenet201": (DEFAULT, "densenet201-c1103571", 76.896),
    "vgg11": (DEFAULT, "vgg11-8a719046", 69.020),
    "vgg11_bn": (DEFAULT, "vgg11_bn-6002323d", 70.370),
    "vgg13": (DEFAULT, "vgg13-19584684", 69.928),
    "vgg13_bn": (DEFAULT, "vgg13_bn-abd245e5", 71.586),
    "vgg16": (DEFAULT, "vgg16-397923af", 71.592),
    "vgg16_bn": (DEFAULT, "vgg16_bn-6c64b313", 73.360),
    "vgg19": (DEFAULT, "vgg19-dcbb9e9d", 72.376),
    "vgg19_bn": (DEFAULT, "vgg19_bn-c79401a0", 74.218),
    "convnext_tiny": (DEFAULT, "convnext_tiny-983f1562", 82.520),
    "convnext_small": (DEFAULT, "convnext_small-0c510722", 83.616),
    "convnext_base": (DEFAULT, "convnext_base-6075fbad", 84.062),
    "convnext_large": (DEFAULT, "convnext_large-ea097f82", 84.414),
    "vit_b_16": (DEFAULT, "vit_b_16-c867db91", 81.072),
    "vit_b_32": (DEFAULT, "vit_b_32-d86f8d99", 75.912),
    "vit_l_16": (DEFAULT, "vit_l_16-852ce7e3", 79.662),
    "vit_l_32": (DEFAULT, "vit_l_32-c7638314", 76.972),
    "squeezenet1_1": (DEFAULT, "squeezenet1_1-b8a52dc0", 58.178),
}
_TORCHVISION_V2: dict[str, Row] = {  # torchvision's newer training recipe
    "resnet50": ("official-v2", "resnet50-11ad3fa6", 80.858),
    "resnet101": ("official-v2", "resnet101-cd907fc2", 81.886),
    "resnet152": ("official-v2", "resnet152-f82ba261", 82.284),
}
_SWAG: dict[str, Row] = {"vit_h_14": (DEFAULT, "vit_h_14_lc_swag-c1eb923e", 85.708)}
_XDNN: dict[str, Row] = {"xdnn_resnet50": (DEFAULT, "xfixup_resnet50_model_best", None)}


def _entries(rows: Mapping[str, Row], release: Release, ending: str = ".pth") -> Iterable[tuple[str, OfficialWeights]]:
    for architecture, (variant, stem, top1) in rows.items():
        yield architecture, OfficialWeights(variant, stem + ending, top1, release)


def _catalogue() -> dict[str, tuple[OfficialWeights, ...]]:
    table: dict[str, tuple[OfficialWeights, ...]] = {}
    for architecture, weights in [
        *_entries(_BCOS, BCOS_V2), *_entries(_BCOS_LONG, BCOS_V2), *_entries(_TORCHVISION, TORCHVISION),
        *_entries(_TORCHVISION_V2, TORCHVISION), *_entries(_SWAG, SWAG), *_entries(_XDNN, XDNN, ".pth.tar"),
    ]:  # fmt: skip
        table[architecture] = (*table.get(architecture, ()), weights)
    return table


CATALOGUE: Mapping[str, tuple[OfficialWeights, ...]] = _catalogue()


def is_official(source: str) -> bool:
    """Whether ``model.weights`` names published weights rather than a place."""
    return source == DEFAULT or source.startswith(f"{DEFAULT}-")


def find_official(architecture: str, variant: str = DEFAULT) -> OfficialWeights:
    """Look published weights up.

    Raises:
        ConfigError: none are published for this architecture, or not this variant; lists what there is.
    """
    known = CATALOGUE.get(architecture, ())
    for weights in known:
        if weights.variant == variant:
            return weights
    if known:
        raise ConfigError(
            f"no weights {variant!r} of {architecture} are published, only {', '.join(w.variant for w in known)}"
        )
    raise ConfigError(
        f"no weights of {architecture} are published; train it, or give a file or a run as model.weights "
        "(`raytrain-xai models list` shows what is published)"
    )
