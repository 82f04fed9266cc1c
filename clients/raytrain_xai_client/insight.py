"""What an encoder with named concepts answers; the OpenAPI document of the service says more of every field."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from raytrain_xai_client.answers import ImageInfo


@dataclass(frozen=True)
class ConceptPart:
    """A concept and its signed part of a score."""

    id: int
    name: str
    contribution: float


@dataclass(frozen=True)
class OtherParts:
    """All other concepts together."""

    count: int
    contribution: float


@dataclass(frozen=True)
class Segment:
    """The pixels of one label; ``score`` is the sum of ``concepts``, ``rest`` and ``bias`` up to ``residual``."""

    label: str
    index: int
    share: float
    score: float
    concepts: tuple[ConceptPart, ...]
    rest: OtherParts
    bias: float
    residual: float


@dataclass(frozen=True)
class LabelMap:
    """Which pixel got which label."""

    height: int
    width: int
    data: str

    @property
    def png(self) -> bytes:
        """A grey PNG: 0 background, ``index`` + 1 of a label."""
        return base64.b64decode(self.data)


@dataclass(frozen=True)
class ActiveConcept:
    """A concept of an image with its largest value."""

    id: int
    name: str
    peak: float


@dataclass(frozen=True)
class Patches:
    """Concepts of every patch, row by row from the top: ``cells`` are pairs of id and value, largest first."""

    height: int
    width: int
    concepts: tuple[ActiveConcept, ...]
    cells: tuple[tuple[tuple[int, float], ...], ...]


@dataclass(frozen=True)
class SegmentedImage:
    """An image divided by labels, and the concepts of its patches; what was not asked for is None."""

    image: ImageInfo
    labels: tuple[str, ...]
    segments: tuple[Segment, ...]
    map: LabelMap | None
    patches: Patches | None


@dataclass(frozen=True)
class FoundImage:
    """An image that a search found; ``picture`` is for :meth:`Client.fetch`, ``box`` in shares of the sides."""

    number: int
    id: str
    picture: str
    score: float
    concepts: tuple[ConceptPart, ...]
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class FoundImages:
    """Images of the index of a split, best first; ``indexed``: how many were searched."""

    model: str
    version: str
    request_id: str
    split: str
    indexed: int
    images: tuple[FoundImage, ...]
