"""A trained run that answers questions about images: a classifier, with or without its concept layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from raytrain_xai.attribution.tapped import contract_channels, tapped_pass
from raytrain_xai.concept_runs.model import ConceptModel, load_concepts
from raytrain_xai.concepts.layer import ConceptLayer
from raytrain_xai.concepts.pixels import PIXELS_AT_ONCE
from raytrain_xai.data.transforms import centre_image
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.explain import Explainer
from raytrain_xai.models.bcos_layers import BcosConv2d, BcosLinear, logit_bias
from raytrain_xai.models.network import Network
from raytrain_xai.run_folder import open_run, read_config
from raytrain_xai.serving.checks import check_question
from raytrain_xai.serving.explaining import answer_without_concepts
from raytrain_xai.serving.jobs import ImageAnswer, Operation, Question
from raytrain_xai.serving.live_names import LiveNames
from raytrain_xai.serving.pace import Hurry, Pace
from raytrain_xai.serving.tracing import answer_with_concepts

_PLAIN: tuple[Operation, ...] = ("predict", "explain")
_WITH_CONCEPTS: tuple[Operation, ...] = ("trace", "intervene")
_TOLERANCE = 1e-3  # of the largest part of a sum; float32 leaves 1e-6 to 1e-4, whatever the depth


def split_key(text: str) -> tuple[str, str | None]:
    """Name and version of ``NAME@VERSION``; no version for ``NAME``."""
    name, at, version = text.partition("@")
    return name, version if at else None


@dataclass(frozen=True)
class ModelKey:
    """A version of a model."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class RunAddress:
    """Where a version comes from.

    Attributes:
        run: classifier or concept run, local or s3://.
        also: concept runs of the same network at other layers.
        weight: share of the images that name no version, relative to the other versions; >= 0.
    """

    run: str
    also: tuple[str, ...] = ()
    weight: float = 1.0


class ServedModel:
    """A loaded version; answers may be asked from several threads.

    Args:
        key: name and version.
        explainer: network without concepts, on the device that is to be used.
        concepts: its concept layers, whose names may change while it is served; None for a model without.

    Attributes:
        pace: what its answers take, learned from those it gave.
    """

    def __init__(self, key: ModelKey, explainer: Explainer, concepts: ConceptModel | None) -> None:
        self.key = key
        self.explainer = explainer
        explainer.network.to(memory_format=torch.channels_last)  # convolutions on CPUs run up to twice as fast
        self.concepts = concepts
        self.pace = Pace()

    @classmethod
    def load(cls, key: ModelKey, address: RunAddress, device: torch.device | str = "cpu") -> Self:
        """Read a run.

        Raises:
            ConfigError: not a run, or ``also`` does not fit it.
            CheckpointError: no checkpoint, or it is damaged.
        """
        if read_config(open_run(address.run)).get("job") == "concepts":
            concepts = load_concepts([address.run, *address.also], device=device)
            names = {tap: LiveNames(open_run(run)) for tap, run in concepts.origins.items()}
            return cls(key, concepts.explainer, replace(concepts, names=names))
        if address.also:
            raise ConfigError(f"{address.run} is a classifier's run, so it has no further concept runs: {address.also}")
        return cls(key, Explainer.load(address.run, device=device), None)

    @property
    def layers(self) -> Mapping[str, ConceptLayer]:
        """Tap -> concept layer, in forward order; empty for a model without concepts."""
        return {} if self.concepts is None else self.concepts.layers

    @property
    def operations(self) -> tuple[Operation, ...]:
        """What it can be asked."""
        return _PLAIN if self.concepts is None else (*_PLAIN, *_WITH_CONCEPTS)

    @property
    def nbytes(self) -> int:
        """Parameters and buffers of network and concept layers, and the copies of filters that evaluation keeps."""
        network = self.explainer.network.net
        modules: list[nn.Module] = [network, *self.layers.values()]
        kept = sum(value.nbytes for module in modules for value in (*module.parameters(), *module.buffers()))
        folded = (
            module.linear.weight.nbytes for module in network.modules() if isinstance(module, (BcosConv2d, BcosLinear))
        )
        return kept + sum(folded)

    def prepare(self, picture: Image.Image) -> Tensor:
        """What the network sees of an RGB picture of any size: (3, S, S) uint8 on the CPU."""
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        return centre_image(pixels, self.explainer.image_size, self.explainer.shorter)

    def seen(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Part of a picture that the network sees: left, top, right, bottom in pixels."""
        return self.explainer.seen(width, height)

    def check(self, question: Question) -> None:
        """See :func:`~raytrain_xai.serving.checks.check_question`."""
        check_question(question, self.explainer, self.layers)

    def answer(
        self, images: Tensor, questions: Sequence[Question], deadlines: Sequence[float | None]
    ) -> list[ImageAnswer]:
        """Answer one question per image; all that ask alike share a forward pass and a walk back.

        Args:
            images: (B, 3, S, S) uint8 as :meth:`prepare` makes them.
            questions: one per image, each checked by :meth:`check`.
            deadlines: time.monotonic() of each, None for no hurry. What takes longer, as far as is known from earlier
                answers, is left out, and the answer says so.
        Raises:
            CheckpointError: the network answers with non-finite logits.
        """
        found: dict[int, ImageAnswer] = {}
        step = max(1, PIXELS_AT_ONCE // self.explainer.image_size**2)
        for operations in (_PLAIN, _WITH_CONCEPTS):
            asked = [image for image, question in enumerate(questions) if question.operation in operations]
            for start in range(0, len(asked), step):
                part = asked[start : start + step]
                hurry = Hurry(self.pace, [deadlines[image] for image in part])
                chosen = images[part].to(self.explainer.device)
                found |= zip(part, self._answer(chosen, [questions[image] for image in part], hurry), strict=True)
        return [found[image] for image in range(len(questions))]

    def self_check(self) -> None:
        """Explain a fixed picture, and see that the explanation adds up to what is explained.

        Raises:
            CheckpointError: logits or maps are not finite, or a sum that must hold does not.
        """
        image = synthetic_picture(self.explainer.image_size)[None]
        (explained,) = self.answer(image, [Question("explain")], [None])
        shown = explained.explained[0].map
        assert shown is not None
        if not bool(shown.values.isfinite().all()):
            raise CheckpointError(f"{self.key} explains with values that are not finite; its weights are broken")
        if self.explainer.network.is_bcos:
            _require_sum(str(self.key), *_last_sum(self.explainer.network, image.to(self.explainer.device)))
        if self.concepts is not None:
            (traced,) = self.answer(image, [Question("trace", maps="none")], [None])
            pair = traced.traced[0]
            _require_sum(f"{self.key} with its concepts", pair.residual, max(abs(pair.logit), pair.positive))

    def warm_up(self) -> None:
        """Do once everything that takes longer the first time: fold filters, choose kernels, learn durations."""
        image = synthetic_picture(self.explainer.image_size)[None]
        is_bcos = self.explainer.network.is_bcos
        asked = [Question("predict"), Question("explain", rgba=is_bcos)]
        if self.concepts is not None:
            asked += [Question("trace", concept_maps="pixels", origins=True), Question("intervene")]
        for question in asked:
            self.answer(image, [question], [None])
        self.pace = Pace()  # what the first time took says nothing
        for question in asked:
            self.answer(image, [question], [None])

    def _answer(self, images: Tensor, questions: Sequence[Question], hurry: Hurry) -> list[ImageAnswer]:
        if questions[0].operation in _PLAIN:
            return answer_without_concepts(self.explainer, images, questions, hurry)
        assert self.concepts is not None
        return answer_with_concepts(self.concepts, images, questions, hurry)


def synthetic_picture(size: int) -> Tensor:
    """(3, size, size) uint8: colour gradients with a bright disc, the same on every machine."""
    ramp = torch.linspace(0, 255, size)
    y, x = torch.meshgrid(ramp, ramp, indexing="ij")
    disc = ((x - 127.5).square() + (y - 127.5).square() < 64**2).float() * 100
    return torch.stack([x, y, 255 - (x + y) / 2]).add(disc).clamp(max=255).to(torch.uint8)


@torch.no_grad()
def _last_sum(network: Network, images: Tensor) -> tuple[float, float]:
    """|contributions + bias - logit| of the strongest class at the last tap, and the size of what was added.

    At the last tap the sum holds for every B-cos network; at the input, transformers add a position code.
    """
    tapped = tapped_pass(network, images, max(network.taps, key=network.depth))
    target = tapped.logits.argmax(dim=1)
    parts = contract_channels(tapped.features, tapped.gradient(target)).double()
    gap = parts.sum() + logit_bias(network.net) - tapped.logits[0, target[0]]
    return float(gap.abs()), max(float(parts.abs().sum()), float(tapped.logits[0, target[0]].abs()))


def _require_sum(what: str, gap: float, size: float) -> None:
    if not gap <= _TOLERANCE * max(size, 1.0):
        raise CheckpointError(
            f"the explanation of {what} misses its logit by {gap:.3g}, expected at most {_TOLERANCE} of {size:.3g}; "
            "its weights are broken"
        )
