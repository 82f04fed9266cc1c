"""Faithful concept traces of images as plain data: what :mod:`raytrain_xai.concept_runs.tracing` returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class PixelTrace:
    """What the pixels add to one traced value; tensors on the CPU.

    Attributes:
        map: (H, W) float32, signed.
        rgba: (H, W, 4) uint8.
        missing: traced value - sum of the map: rounding in convolutional networks, in transformers the share of what
            was added to the pixels (position code, class token).
    """

    map: Tensor
    rgba: Tensor
    missing: float


@dataclass(frozen=True)
class Rest:
    """All concepts that are not shown, together.

    Attributes:
        count: those with a contribution other than 0.
        contribution: their sum, ``positive`` and ``negative`` its two parts.
        percent: of the positive contributions of all concepts.
    """

    count: int
    contribution: float
    positive: float
    negative: float
    percent: float


@dataclass(frozen=True)
class TracedConcept:
    """A concept of one image, whatever it contributes to.

    Attributes:
        layer: tap.
        id: number in the dictionary.
        name: given by the user or proposed by the catalogue; ``concept 12`` without.
        activation: S, sum of its values over the image, > 0.
        pixels: where S comes from.
        origins: what S is made of one layer down; None in the first concept layer.
    """

    layer: str
    id: int
    name: str
    activation: float
    pixels: PixelTrace
    origins: Origins | None


@dataclass(frozen=True)
class Share:
    """A concept's part in a logit, or in the activation of a later concept.

    Attributes:
        concept: whose part it is.
        contribution: signed, in units of what it is part of.
        percent: of the positive contributions of all concepts.
    """

    concept: TracedConcept
    contribution: float
    percent: float


@dataclass(frozen=True)
class Origins:
    """What the activation of a concept is made of.

    Attributes:
        layer: the concept layer before.
        concepts: the ones with the largest contributions.
        rest: the others.
        residual: |sum of all contributions - activation|.
    """

    layer: str
    concepts: tuple[Share, ...]
    rest: Rest
    residual: float


@dataclass(frozen=True)
class ClassTrace:
    """Why the network, seeing concepts only, gave one class its logit.

    Attributes:
        name, index: class name and position in the logits.
        logit, probability: of the network with its concept layers.
        logit_without_concepts: of the network as it was trained.
        bias: part of the logit that belongs to no concept.
        residual: |contributions of all concepts + bias - logit|.
        positive: sum of the positive contributions, what percentages refer to.
        concepts: largest contribution first.
        weighted: for each of ``concepts``, where its contribution comes from; a concept's own trace counts all its
            positions alike, this one as the class uses them.
        rest: the concepts not shown, ``rest_pixels`` where their contribution comes from.
        pixels: where the logit without its bias comes from, through all concepts.
        concepts_for_80_percent: concepts that carry 80 % of the positive contribution.
    """

    name: str
    index: int
    logit: float
    probability: float
    logit_without_concepts: float
    bias: float
    residual: float
    positive: float
    concepts: tuple[Share, ...]
    weighted: tuple[PixelTrace, ...]
    rest: Rest
    rest_pixels: PixelTrace
    pixels: PixelTrace
    concepts_for_80_percent: int


@dataclass(frozen=True)
class Trace:
    """One image.

    Attributes:
        logits, probabilities: (C,) float32, of the network with its concept layers.
        active: tap -> number of concepts with an activation above 0.
        classes: the explained classes, largest logit first.
    """

    logits: Tensor
    probabilities: Tensor
    active: Mapping[str, int]
    classes: tuple[ClassTrace, ...]
