"""How good captions are: whether they name what is there, and whether their vectors lie near those of the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain_xai.captioning.sentences import plural
from raytrain_xai.captioning.words import split_words
from raytrain_xai.errors import ConfigError

_CLIP_SCORE_FACTOR = 2.5


@dataclass(frozen=True)
class MentionScores:
    """Categories that captions name, against those that are annotated; all in [0, 1].

    Attributes:
        precision: of the categories named in a caption, the share that is annotated; 0 where none is named.
        recall: of the annotated categories, the share that is named.
        f1: harmonic mean of both.
        any_hit: share of the images with a category in whose captions at least one is right.
    """

    precision: float
    recall: float
    f1: float
    any_hit: float


def mentioned(captions: Sequence[Sequence[str]], categories: Sequence[str]) -> Tensor:
    """Which categories captions name, in the singular or the plural.

    At every word the longest name counts: "a hot dog" names no dog, "a teddy bear" no bear.

    Args:
        captions: words of B captions.
        categories: C names of one word or more.
    Returns:
        (B, C) bool on the CPU.
    """
    spoken: dict[tuple[str, ...], set[int]] = {}
    for column, name in enumerate(categories):
        for form in (name, plural(name)):
            spoken.setdefault(split_words(form), set()).add(column)
    longest = max((len(form) for form in spoken), default=0)
    found = torch.zeros(len(captions), len(categories), dtype=torch.bool)
    for row, words in enumerate(captions):
        found[row, sorted(_named(tuple(words), spoken, longest))] = True
    return found


def _named(words: tuple[str, ...], spoken: dict[tuple[str, ...], set[int]], longest: int) -> set[int]:
    named: set[int] = set()
    at = 0
    while at < len(words):
        size = next((n for n in range(longest, 0, -1) if words[at : at + n] in spoken), 0)
        named |= spoken.get(words[at : at + size], set())
        at += max(size, 1)
    return named


def mention_scores(named: Tensor, present: Tensor, known: Tensor) -> MentionScores:
    """Counts over all images (micro averages).

    Args:
        named: (B, C) bool, by the captions.
        present: (B, C) bool, annotated.
        known: (B, C) bool, categories of which the data set of an image says whether they are there; others are not
            judged.
    Raises:
        ConfigError: shapes differ, or nothing is annotated.
    """
    if named.shape != present.shape or not present.any():
        raise ConfigError(
            f"expected annotated categories for {tuple(named.shape)} (images, categories), got {tuple(present.shape)} "
            f"with {int(present.sum())} in all; score captions on images with labels"
        )
    hits, said, there = (named & present).sum(), (named & known).sum(), present.sum()
    annotated = present.any(dim=1)
    return MentionScores(
        precision=float(hits / said.clamp(min=1)),
        recall=float(hits / there),
        f1=float(2 * hits / (said + there)),
        any_hit=float((named & present).any(dim=1)[annotated].float().mean()),
    )


@dataclass(frozen=True)
class VectorScores:
    """Vectors of captions against vectors of images.

    Attributes:
        clip_score: mean of 2.5 max(cos, 0) (Hessel et al. 2021, arXiv 2104.08718), with the encoder that wrote the
            captions in the place of CLIP; to be compared within one encoder only.
        others: the same for the captions of the other images, over all pairs; what a caption scores without looking.
        own_first: share of the captions whose own image is strictly nearest of all images.
    """

    clip_score: float
    others: float
    own_first: float


def vector_scores(captions: Tensor, images: Tensor) -> VectorScores:
    """Unit vectors of captions (B, D) and of their images (B, D), row by row.

    Raises:
        ConfigError: fewer than two, or not one caption for each image.
    """
    if captions.shape != images.shape or len(captions) < 2:
        raise ConfigError(
            f"expected a caption for each of two images or more, got vectors {tuple(captions.shape)} for "
            f"{tuple(images.shape)}"
        )
    cosines = captions @ images.T
    scores = _CLIP_SCORE_FACTOR * cosines.clamp(min=0)
    own, total = scores.diagonal().sum(), scores.sum()
    pairs = len(captions) * (len(captions) - 1)
    rivals = cosines.masked_fill(torch.eye(len(captions), dtype=torch.bool, device=cosines.device), -torch.inf)
    return VectorScores(
        clip_score=float(own / len(captions)),
        others=float((total - own) / pairs),
        own_first=float((cosines.diagonal() > rivals.amax(dim=1)).float().mean()),
    )
