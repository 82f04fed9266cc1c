"""What is asked of a served model and what it answers: plain data, no HTTP and no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

Operation = Literal["predict", "explain", "trace", "intervene"]
Resolution = Literal["none", "positions", "pixels"]
Scores = tuple[float, float]  # logit, probability


@dataclass(frozen=True)
class Question:
    """What is wanted of every image of a job.

    Attributes:
        operation: predict: logits only; explain: attribution maps; trace: concepts; intervene: changed concepts.
        names: classes explained for every image.
        classes: besides, that many classes with the largest logits; explain and trace need one of both.
        top: concepts shown one by one.
        maps: where the evidence of an explained class is shown. explain knows ``none`` and ``pixels``.
        concept_maps: of every shown concept: ``positions`` of its layer costs nothing, ``pixels`` a walk back each.
        only: (tap, concept) that alone get ``concept_maps``; empty: all that are shown. They are shown in any case.
        rgba: B-cos rendering in the colours of the image, for what has pixel maps.
        origins: tell what concepts are made of, where the model has an earlier concept layer; with maps as of concepts.
        factors: tap -> concept -> factor >= 0, for intervene.
    """

    operation: Operation
    names: tuple[str, ...] = ()
    classes: int = 1
    top: int = 10
    maps: Resolution = "pixels"
    concept_maps: Resolution = "positions"
    only: tuple[tuple[str, int], ...] = ()
    rgba: bool = False
    origins: bool = False
    factors: Mapping[str, Mapping[int, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class EvidenceMap:
    """Where a value comes from; tensors on the CPU.

    Attributes:
        values: (h, w) float32, signed: pixels of the network's input or positions of a concept layer. It sums to the
            value up to ``missing``.
        missing: value - sum of ``values``.
        at: ``pixels`` or ``positions``.
        rgba: (h, w, 4) uint8 or None.
    """

    values: Tensor
    missing: float
    at: Resolution
    rgba: Tensor | None = None


@dataclass(frozen=True)
class ClassAnswer:
    """An explained class of an image; see :class:`raytrain_xai.types.ClassExplanation`.

    Attributes:
        positive_share: positive part of the map divided by its absolute sum; None without a map.
        residual: |contributions + bias - logit|; None for networks whose maps promise no sum, and without a map.
        map: of the logit without its bias; where no sum is promised, its ``missing`` says nothing about faithfulness.
    """

    index: int
    name: str
    logit: float
    probability: float
    positive_share: float | None
    residual: float | None
    map: EvidenceMap | None


@dataclass(frozen=True)
class ConceptAnswer:
    """A concept of an image and its part in a logit, or in the activation of a later concept.

    Attributes:
        activation: S, sum of its values over the image.
        contribution: signed, in units of what it is part of.
        percent: of the positive contributions of all concepts.
        map: where the contribution comes from.
        origins: the concepts one layer down that its activation is made of, largest first; empty when not asked for.
    """

    layer: str
    id: int
    name: str
    activation: float
    contribution: float
    percent: float
    map: EvidenceMap | None
    origins: tuple[ConceptAnswer, ...] = ()


@dataclass(frozen=True)
class RestAnswer:
    """All concepts that are not shown, together: number with a contribution, their signed sum, percent of positive."""

    count: int
    contribution: float
    percent: float


@dataclass(frozen=True)
class TracedClass:
    """A traced class of an image; see :class:`raytrain_xai.concept_runs.traces.ClassTrace`."""

    index: int
    name: str
    logit: float
    probability: float
    logit_without_concepts: float
    bias: float
    residual: float
    positive: float
    concepts: tuple[ConceptAnswer, ...]
    rest: RestAnswer
    concepts_for_80_percent: int
    map: EvidenceMap | None


@dataclass(frozen=True)
class ImageAnswer:
    """One image.

    Attributes:
        logits, probabilities: (C,) float32; of trace and intervene: of the network with its concept layers.
        explained: of explain.
        traced: of trace.
        active: of trace: tap -> number of active concepts.
        changed: of intervene: (C,) logits and (C,) probabilities afterwards.
        activations: of trace: (K,) float32, S of every concept of the last layer, for monitoring; None otherwise.
        omitted: what was left out because the deadline was short: ``maps``, ``concept maps``, ``origins``.
    """

    logits: Tensor
    probabilities: Tensor
    explained: tuple[ClassAnswer, ...] = ()
    traced: tuple[TracedClass, ...] = ()
    active: Mapping[str, int] = field(default_factory=dict)
    changed: tuple[Tensor, Tensor] | None = None
    activations: Tensor | None = None
    omitted: tuple[str, ...] = ()
