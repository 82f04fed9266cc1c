"""The JSON of the API, version 1, about images that are divided by text and found by it, and what concepts add."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field

from serve.schemas import Answer, Body, ImageInfo, Meta


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


class FoundImage(Answer):
    """An image of the index that the service searches."""

    number: int
    id: str
    """Of the image in its data set."""
    picture: str
    """Address of a small JPEG."""
    score: float
    """Largest value of the concepts, or mean cosine of the patches with the text."""
    concepts: list[ConceptPart]
    """Largest first: the concept that was asked for with its value, or those that add most to the cosine."""
    box: tuple[float, float, float, float]
    """Left, top, right, bottom as shares of the sides of the part that the encoder sees: the patch at which the first
    of ``concepts`` is strongest."""


class FoundImages(Answer):
    model: str
    version: str
    request_id: str
    split: str
    indexed: int
    """Images that were searched."""
    images: list[FoundImage]
    """Best first."""


class Search(Body):
    """What is looked for: concepts or a text."""

    model_config = ConfigDict(json_schema_extra={"example": {"text": "a red bus", "count": 12}})
    text: Annotated[str | None, Field(min_length=1, max_length=200)] = None
    concepts: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], Field(max_length=64)] = ()
    """Instead: the strongest of these in an image counts."""
    split: Annotated[str | None, Field(max_length=40)] = None
    """Of the indexed ones; without it val, test or train, whichever comes first."""
    count: Annotated[int, Field(ge=1, le=200)] = 24
    """Images, at most."""
    top: Annotated[int, Field(ge=1, le=64)] = 5
    """Concepts told of each image that a text finds."""


class Segmentations(Meta):
    segmentations: list[SegmentedImage]
