"""Scores of captions, counted by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from raytrain_xai.captioning.words import split_words
from raytrain_xai.errors import ConfigError
from raytrain_xai.insight.caption_scores import mention_scores, mentioned, vector_scores

NAMES = ("dog", "hot dog", "bear", "teddy bear", "person", "wine glass")


@pytest.mark.parametrize(
    ("caption", "named"),
    [
        ("a dog and two people", {"dog", "person"}),
        ("two hot dogs", {"hot dog"}),
        ("a hot dog and a dog", {"hot dog", "dog"}),
        ("a teddy bear", {"teddy bear"}),
        ("several bears, a wine glass", {"bear", "wine glass"}),
        ("a glass of wine", set()),
        ("", set()),
    ],
)
def test_the_longest_name_counts(caption: str, named: set[str]) -> None:
    (found,) = mentioned([split_words(caption)], NAMES)
    assert {name for name, is_named in zip(NAMES, found.tolist(), strict=True) if is_named} == named


def test_mentions_are_counted_where_they_are_annotated() -> None:
    """First image: one of two found, one wrong. Second: one wrong that its data set does not know. Third: no label."""
    named = torch.tensor([[1, 0, 1, 0], [0, 0, 1, 1], [0, 0, 0, 0]]).bool()
    present = torch.tensor([[1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]).bool()
    known = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]).bool()
    scores = mention_scores(named, present, known)
    assert scores.precision == pytest.approx(2 / 3) and scores.recall == pytest.approx(2 / 3)
    assert scores.f1 == pytest.approx(2 / 3) and scores.any_hit == 1
    silent = mention_scores(torch.zeros_like(named), present, known)
    assert (silent.precision, silent.recall, silent.f1, silent.any_hit) == (0, 0, 0, 0)
    with pytest.raises(ConfigError, match="score captions on images with labels"):
        mention_scores(named, torch.zeros_like(present), known)


def test_vector_scores_are_those_of_all_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    images = functional.normalize(torch.randn(5, 4, generator=generator), dim=1)
    captions = functional.normalize(images + 0.6 * torch.randn(5, 4, generator=generator), dim=1)
    scores = vector_scores(captions, images)
    own = [2.5 * max(float(captions[i] @ images[i]), 0) for i in range(5)]
    cross = [2.5 * max(float(captions[i] @ images[j]), 0) for i in range(5) for j in range(5) if i != j]
    first = [all(captions[i] @ images[i] > captions[i] @ images[j] for j in range(5) if j != i) for i in range(5)]
    assert scores.clip_score == pytest.approx(sum(own) / 5, rel=1e-5)
    assert scores.others == pytest.approx(sum(cross) / 20, rel=1e-5)
    assert scores.own_first == pytest.approx(sum(first) / 5)
    same = vector_scores(images[:1].expand(3, -1), images[:1].expand(3, -1))
    assert same.own_first == 0 and same.clip_score == pytest.approx(2.5, rel=1e-5)  # alike: none is nearest
    with pytest.raises(ConfigError, match="two images or more"):
        vector_scores(images[:1], images[:1])
