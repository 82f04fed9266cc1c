"""What is asked of a served encoder with named concepts and what it answers: plain data, no HTTP and no files."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from raytrain_xai.concepts.code import SparseCode


@dataclass(frozen=True)
class SegmentQuestion:
    """What is wanted of every image of a job.

    Attributes:
        labels: texts that pixels are given to; none: only the concepts of patches are told.
        background: texts that compete with the labels; where one of them wins is background.
        background_score: instead, cosine that a label has to exceed; None: every pixel gets a label.
        top: concepts of a segment shown one by one.
    """

    labels: tuple[str, ...] = ()
    background: tuple[str, ...] = ()
    background_score: float | None = None
    top: int = 5


@dataclass(frozen=True)
class ConceptPart:
    """A concept and its signed part of the score of a segment."""

    id: int
    name: str
    contribution: float


@dataclass(frozen=True)
class SegmentAnswer:
    """The pixels of an image that got one label, connected or not.

    ``score`` is the sum of the contributions of ``concepts``, of ``rest`` and of ``bias``.

    Attributes:
        label: place in the question.
        share: of the pixels, in (0, 1].
        score: mean cosine with the text, in [-1, 1].
        bias: what the decoder's bias adds.
        concepts: with the largest absolute contribution first.
        rest: number of further concepts with a contribution, and their signed sum.
        residual: |score - the sum|.
    """

    label: int
    share: float
    score: float
    bias: float
    concepts: tuple[ConceptPart, ...]
    rest: tuple[int, float]
    residual: float


@dataclass(frozen=True)
class ImageSegments:
    """One image; tensors on the CPU.

    Attributes:
        labels: (S, S) uint8, 0 background, c + 1 for label c; None without labels.
        segments: of the labels that got a pixel, largest first.
        code: (h w, k), concepts of the patches row by row.
        size: (h, w).
        names: concept -> name, of those in ``code`` that are used.
    """

    labels: Tensor | None
    segments: tuple[SegmentAnswer, ...]
    code: SparseCode
    size: tuple[int, int]
    names: dict[int, str]
