"""The JSON of the API, version 1, about images that are divided by text, and what concepts add to it."""

from __future__ import annotations

from serve.schemas import Answer, ImageInfo, Meta


class ConceptPart(Answer):
    id: int
    name: str
    contribution: float
    """Signed part of the score of the segment."""


class OtherParts(Answer):
    count: int
    contribution: float


class Segment(Answer):
    """The pixels that got one label, connected or not."""

    label: str
    index: int
    """Of the label in the request, from 0; the map has ``index`` + 1."""
    share: float
    """Of the pixels."""
    score: float
    """Mean cosine of label and pixels, -1 to 1: the sum of ``concepts``, ``rest`` and ``bias``."""
    concepts: list[ConceptPart]
    """Largest absolute contribution first."""
    rest: OtherParts
    """All other concepts."""
    bias: float
    """Part of the score that belongs to no concept."""
    residual: float
    """|score - the sum|."""


class LabelMap(Answer):
    """Which pixel got which label, over the part of the image that the encoder sees."""

    height: int
    width: int
    data: str
    """base64 of a grey PNG: 0 background, ``index`` + 1 of a label."""


class ActiveConcept(Answer):
    id: int
    name: str
    peak: float
    """Largest value over the patches."""


class Patches(Answer):
    """Concepts of every patch."""

    height: int
    """Patches from top to bottom."""
    width: int
    concepts: list[ActiveConcept]
    """All that are active, largest peak first."""
    cells: list[list[tuple[int, float]]]
    """Of every patch, row by row from the top: id and value of its concepts, largest first."""


class SegmentedImage(Answer):
    image: ImageInfo
    labels: list[str]
    segments: list[Segment]
    """Of the labels that got a pixel, the largest first."""
    map: LabelMap | None
    """null without labels."""
    patches: Patches | None
    """null where they are not asked for."""


class Segmentations(Meta):
    segmentations: list[SegmentedImage]
