"""Bridge, pooling, losses, schedule and draws of the alignment against hand-made numbers and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raytrain_xai.align.bridge import bridge
from raytrain_xai.align.draws import drawn_rows
from raytrain_xai.align.losses import distillation_sums, multiclass_sum, multilabel_sum
from raytrain_xai.align.pooling import attention_scores, patch_cosines, similarity_pool
from raytrain_xai.align.schedule import one_cycle


def test_bridge_mixes_the_texts_of_the_classes_by_their_chances() -> None:
    """Scores 0 and log 3 are chances 1/4 and 3/4."""
    features = torch.tensor([0.0, math.log(3.0)]).view(1, 2, 1, 1)
    texts = torch.tensor([[4.0, 0.0, 8.0], [0.0, 4.0, 8.0]])
    found = bridge(features, torch.eye(2), torch.zeros(2), texts)
    torch.testing.assert_close(found.flatten(), torch.tensor([1.0, 3.0, 8.0]))


def test_bridge_adds_the_bias_of_the_classifier() -> None:
    features = torch.zeros(1, 2, 1, 1)
    found = bridge(features, torch.eye(2), torch.tensor([0.0, math.log(3.0)]), torch.eye(2))
    torch.testing.assert_close(found.flatten(), torch.tensor([0.25, 0.75]))


def test_cosines_do_not_know_the_length_of_patches() -> None:
    patches = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    texts = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    torch.testing.assert_close(patch_cosines(patches, texts).flatten(), torch.tensor([0.6, -0.8]))


def test_attention_lies_between_mean_and_maximum() -> None:
    """Weights of s and s + log(3) / t are 1/4 and 3/4."""
    gap = math.log(3.0) / 10
    cosines = torch.tensor([0.1, 0.1 + gap]).view(1, 1, 1, 2)
    assert float(attention_scores(cosines, 10.0)) == pytest.approx(0.1 + 0.75 * gap)
    assert float(attention_scores(cosines, 0.0)) == pytest.approx(0.1 + 0.5 * gap)
    assert float(attention_scores(cosines, 1e6)) == pytest.approx(0.1 + gap)


def slow_similarity_pool(values: Tensor, features: Tensor, threshold: float) -> Tensor:
    """One patch at a time, from the formula."""
    pooled = torch.empty_like(values)
    for image in range(len(values)):
        flat, looks = values[image].flatten(1), features[image].flatten(1)
        looks = looks - looks.mean(dim=1, keepdim=True)
        columns = []
        for p in range(flat.shape[1]):
            weights = F.cosine_similarity(looks[:, p : p + 1], looks, dim=0)
            weights[weights < threshold] = 0
            columns.append((flat * weights).sum(dim=1) / weights.sum())
        pooled[image] = torch.stack(columns, dim=1).view_as(values[image])
    return pooled


def test_similarity_pooling_is_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    values, features = torch.randn(2, 3, 2, 4, generator=generator), torch.randn(2, 5, 2, 4, generator=generator)
    expected = slow_similarity_pool(values, features, 0.3)
    torch.testing.assert_close(similarity_pool(values, features, 0.3), expected, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(expected, values)


def test_patches_without_looks_keep_their_values() -> None:
    """All features equal: centred they are nothing, and nothing is like nothing."""
    values = torch.arange(4.0).view(1, 1, 2, 2)
    torch.testing.assert_close(similarity_pool(values, torch.ones(1, 3, 2, 2)), values)


def test_distillation_counts_patches_by_the_length_of_the_bridge() -> None:
    """Targets of length 1 and 3 at right angles and opposite: (1 · 1 + 3 · 2) and 4."""
    target = torch.tensor([[1.0, 0.0], [0.0, 3.0]]).T.view(1, 2, 1, 2)
    predicted = torch.tensor([[0.0, 5.0], [0.0, -1.0]]).T.view(1, 2, 1, 2)
    total, weight = distillation_sums(predicted, target)
    assert (float(total), float(weight)) == pytest.approx((7.0, 4.0))


def test_label_losses_are_those_of_torch() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, scores = torch.randn(3, 4, generator=generator), torch.rand(3, 4, generator=generator)
    several = (torch.rand(3, 4, generator=generator) > 0.5).float()
    one = torch.tensor([2, 0, 3])
    expected = 3 * F.binary_cross_entropy_with_logits(logits, several)
    torch.testing.assert_close(multilabel_sum(logits, several), expected)
    expected = F.cross_entropy(30 * scores, one, reduction="sum")
    torch.testing.assert_close(multiclass_sum(scores, F.one_hot(one, 4).float(), 30.0), expected)


@pytest.mark.parametrize("num_steps", [10, 350])
def test_one_cycle_is_that_of_torch(num_steps: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=num_steps, cycle_momentum=False)
    for step in range(num_steps):
        assert one_cycle(step, num_steps) == pytest.approx(theirs.get_last_lr()[0], abs=1e-9), step
        optimizer.step()
        if step < num_steps - 1:
            theirs.step()


def test_one_cycle_of_one_step_is_the_largest_rate() -> None:
    assert one_cycle(0, 1) == 1.0


def test_draws_go_through_a_set_before_they_repeat() -> None:
    rows = np.concatenate([drawn_rows(7, 3, step=step, key=(0, 1)) for step in range(14)])  # 6 passes of 7
    for first in range(0, 42, 7):
        assert sorted(rows[first : first + 7].tolist()) == list(range(7))
    assert len({tuple(rows[first : first + 7]) for first in range(0, 42, 7)}) > 1


def test_draws_differ_by_seed_and_set() -> None:
    draws = [tuple(drawn_rows(50, 20, step=0, key=key)) for key in ((0, 0), (0, 1), (1, 0))]
    assert len(set(draws)) == 3
