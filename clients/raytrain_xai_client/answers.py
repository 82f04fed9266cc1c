"""What the service answers about images; the OpenAPI document of the service says more of every field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

from raytrain_xai_client.maps import EvidenceMap, RgbaPicture

_One = TypeVar("_One", covariant=True)


@dataclass(frozen=True)
class ImageInfo:
    """An image as the service understood it; ``seen``: left, top, right, bottom of what the network sees, pixels."""

    sha256: str
    width: int
    height: int
    seen: tuple[float, float, float, float]


@dataclass(frozen=True)
class ClassScore:
    """A class and its evidence."""

    index: int
    name: str
    logit: float
    probability: float


@dataclass(frozen=True)
class Prediction:
    """Classes of an image, largest logit first."""

    image: ImageInfo
    classes: tuple[ClassScore, ...]


@dataclass(frozen=True)
class ExplainedClass(ClassScore):
    """A class with the places that speak for and against it."""

    positive_share: float | None
    residual: float | None
    map: EvidenceMap | None
    rgba: RgbaPicture | None = None


@dataclass(frozen=True)
class Explanation(Prediction):
    """Heatmaps of an image; ``omitted`` names what was left out and why."""

    explained: tuple[ExplainedClass, ...]
    omitted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Concept:
    """A concept of an image and its signed part of the logit, or of the activation it is an origin of."""

    layer: str
    id: int
    name: str
    activation: float
    contribution: float
    percent: float
    map: EvidenceMap | None = None
    rgba: RgbaPicture | None = None
    origins: tuple[Concept, ...] = ()


@dataclass(frozen=True)
class Rest:
    """All concepts that are not shown, together."""

    count: int
    contribution: float
    percent: float


@dataclass(frozen=True)
class TracedClass(ClassScore):
    """A class as the sum of its concepts: concepts + rest + bias = logit up to ``residual``."""

    logit_without_concepts: float
    bias: float
    residual: float
    positive: float
    concepts: tuple[Concept, ...]
    rest: Rest
    concepts_for_80_percent: int
    map: EvidenceMap | None
    rgba: RgbaPicture | None = None


@dataclass(frozen=True)
class Trace(Prediction):
    """Concepts of an image; ``active``: layer -> number of active ones."""

    traced: tuple[TracedClass, ...]
    active: dict[str, int]
    omitted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """What is done to a concept: 0 switches it off, 1 keeps it; no layer means the last concept layer."""

    concept: int
    factor: float
    layer: str | None = None


@dataclass(frozen=True)
class Intervention(Prediction):
    """Classes before (``classes``) and after (``changed``) concepts were changed."""

    changed: tuple[ClassScore, ...]


@dataclass(frozen=True)
class Timing:
    """Milliseconds in the service."""

    decode: float
    queue_and_compute: float
    render: float
    total: float


@dataclass(frozen=True)
class Answers(Sequence[_One], Generic[_One]):
    """Answers about the images of a request, in their order."""

    model: str
    version: str
    request_id: str
    timing_ms: Timing
    images: tuple[_One, ...]

    @overload
    def __getitem__(self, index: int) -> _One: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[_One, ...]: ...
    def __getitem__(self, index: int | slice) -> _One | tuple[_One, ...]:
        return self.images[index]

    def __len__(self) -> int:
        return len(self.images)

    def __iter__(self) -> Iterator[_One]:
        return iter(self.images)


@dataclass(frozen=True)
class Problem:
    """Why there is no answer."""

    status: int
    detail: str
    request_id: str = ""


@dataclass(frozen=True)
class BatchLine(Generic[_One]):
    """One image of a batch: ``answer``, or the ``problem`` that kept it from being answered."""

    index: int
    version: str | None
    answer: _One | None
    problem: Problem | None
