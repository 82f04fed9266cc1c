"""The encoder that is trained here: patch features of a frozen classifier, brought into the space of MiniLM.

``embedded`` comes with the package as the trained head (float16) and a JSON description; backbone and text encoder are
those of their packages, and are refused when they are not the ones that the head was trained with. It is a small
encoder: what its 1000 ImageNet names, COCO and VOC taught it is what it tells apart, and it does not replace CLIP.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from raytrain_xai.align.head import AlignHead
from raytrain_xai.align.pooling import THRESHOLD, similarity_pool
from raytrain_xai.align_config import AlignRunConfig
from raytrain_xai.checkpoint import read_checkpoint_of
from raytrain_xai.config_text import validated
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.language.backbone import Backbone, load_backbone
from raytrain_xai.language.fingerprint import fingerprint_of
from raytrain_xai.language.minilm import MiniLm, check_minilm, load_minilm
from raytrain_xai.run_folder import open_run, read_config
from raytrain_xai.storage import Location, write_bytes

WEIGHTS, ABOUT = "embedded.safetensors", "embedded.json"
ENCODER = "encoder"
"""Key of the description below in the state of a checkpoint."""
_EMBEDDED = "embedded"


class AlignedEncoder:
    """A :class:`raytrain_xai.language.encoder.LanguageEncoder`; the text encoder is read at the first text.

    Args:
        name: how it was asked for.
        head: trained.
        backbone: that it was trained with.
        about: see :func:`describe`.
    """

    def __init__(self, name: str, head: AlignHead, backbone: Backbone, about: Mapping[str, Any]) -> None:
        self.name = name
        self.dim = len(head.text_mean)
        self.multiple = backbone.multiple
        self.image_size: int = about["image_size"]
        self.logit_scale: float = about["logit_scale"]
        self.text_mean = head.text_mean
        self.device = backbone.device
        self.fingerprint = fingerprint_of(head.state_dict(), dict(about))
        self._head = head
        self._backbone = backbone
        self._threshold: float = about["similarity_threshold"]
        self._text_fingerprint: str = about["text_fingerprint"]
        self._minilm: MiniLm | None = None

    @torch.no_grad()
    def patches(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB -> (B, D, h, w) float32, averaged over patches that look alike, not normalised.

        Raises:
            DataError: no such images.
        """
        features = self._backbone.features(images)
        return similarity_pool(self._head(features), features, self._threshold)

    def text(self, texts: Sequence[str]) -> Tensor:
        """M texts -> (M, D) float32 of unit length.

        Raises:
            CheckpointError: the installed text encoder is not the one that this encoder was aligned with.
        """
        if self._minilm is None:
            minilm = load_minilm(self.device)
            _check("text encoder", minilm.fingerprint, self._text_fingerprint, self.name)
            self._minilm = minilm
        return self._minilm.text(texts)


def describe(config: AlignRunConfig, backbone: Backbone, text: MiniLm) -> dict[str, Any]:
    """What has to be known of an aligned encoder besides its head; JSON values."""
    return {
        "backbone": backbone.name, "backbone_fingerprint": backbone.fingerprint, "text": config.text,
        "text_fingerprint": text.fingerprint, "hidden": config.hidden, "dim": text.dim,
        "image_size": config.image_size, "logit_scale": config.loss.scale, "similarity_threshold": THRESHOLD,
    }  # fmt: skip


def load_embedded(*, device: torch.device | str = "cpu") -> AlignedEncoder:
    """The encoder of the package.

    Raises:
        ConfigError: a package that it needs is missing.
        CheckpointError: an installed package is not the one that it was aligned with.
    """
    folder = files("raytrain_xai.language") / "assets"
    about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    weights = safetensors.torch.load((folder / WEIGHTS).read_bytes())
    return _build(_EMBEDDED, weights, about, device)


def load_aligned(run: str, *, device: torch.device | str = "cpu", which: str = "selected") -> AlignedEncoder:
    """The encoder of a run of ``job: align``.

    Args:
        which: see :func:`raytrain_xai.checkpoint.load_network`.
    Raises:
        ConfigError: no run, a run of another job, or a package that it needs is missing.
        CheckpointError: no such checkpoint, or an installed package is not the one that it was aligned with.
    """
    at = open_run(run)
    raw = read_config(at)
    if raw.get("job") != "align":
        raise ConfigError(f"{run} is a run of job {raw.get('job', 'classify')}; an encoder comes from one of align")
    validated(AlignRunConfig, raw, at.child("config.yaml").uri)
    checkpoint = read_checkpoint_of(at, which)
    return _build(run, checkpoint.model, checkpoint.state[ENCODER], device)


def pack_encoder(run: str, dest: Location) -> None:
    """Write the head of a run as the package holds it: float16 weights and their description.

    Raises:
        ConfigError, CheckpointError: see :func:`load_aligned`.
    """
    checkpoint = read_checkpoint_of(open_run(run), "selected")
    if ENCODER not in checkpoint.state:
        raise ConfigError(f"{run} is no run of job align, only its encoders are packed")
    halves = {name: value.half().contiguous() for name, value in checkpoint.model.items()}
    write_bytes(dest.child(WEIGHTS), safetensors.torch.save(halves))
    write_bytes(dest.child(ABOUT), json.dumps(checkpoint.state[ENCODER], indent=1, sort_keys=True).encode())


def _build(
    name: str, weights: Mapping[str, Tensor], about: Mapping[str, Any], device: torch.device | str
) -> AlignedEncoder:
    check_minilm()  # now, and not after an hour of patches at the first text
    backbone = load_backbone(about["backbone"], device=device)
    _check(f"backbone {backbone.name}", backbone.fingerprint, about["backbone_fingerprint"], name)
    head = AlignHead(backbone.dim, about["hidden"], about["dim"])
    try:
        head.load_state_dict({key: value.float() for key, value in weights.items()})
    except RuntimeError as error:
        raise CheckpointError(f"the head of encoder {name} does not fit: {' '.join(str(error).split())}") from error
    return AlignedEncoder(name, head.to(device).eval().requires_grad_(False), backbone, about)


def _check(part: str, found: str, expected: str, name: str) -> None:
    if found != expected:
        raise CheckpointError(
            f"encoder {name} was aligned with another {part} (SHA-256 {expected[:12]}, installed {found[:12]}); "
            "install the version it was trained with, or align again"
        )
