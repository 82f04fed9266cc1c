"""Sparse probes against scikit-learn, and the identities that make their answers explanations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from small_encoder import random_images, small_model
from torch import Tensor

from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.sae import above
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.insight.probe import PathPlan, contributions, coverage, pool_images, walk_path


def drawn(num_classes: int, *, exclusive: bool, seed: int = 0) -> tuple[Tensor, SparseCode, Tensor]:
    """60 images of 15 concepts, one of which is never active; labels follow the first ones with noise."""
    generator = torch.Generator().manual_seed(seed)
    dense = torch.rand(60, 15, generator=generator) * torch.linspace(0.5, 6, 15)
    dense *= torch.rand(60, 15, generator=generator) < 0.4
    dense[:, 14] = 0
    scores = dense[:, :num_classes] / dense[:, :num_classes].mean(dim=0) + torch.rand(
        60, num_classes, generator=generator
    )
    if exclusive:
        labels = torch.nn.functional.one_hot(scores.argmax(dim=1), num_classes).float()
    else:
        labels = (scores > scores.median(dim=0).values).float()
    return dense, above(dense, torch.zeros(())), labels


def by_scikit(dense: Tensor, target: np.ndarray, penalty: float) -> np.ndarray:
    scale = dense.square().mean(dim=0).sqrt()
    scaled = torch.where(scale > 0, dense / scale, 0.0).double().numpy()
    model = LogisticRegression(
        l1_ratio=1, C=1 / (len(dense) * penalty), fit_intercept=False, solver="saga", tol=1e-9, max_iter=100_000
    )
    found = model.fit(scaled, target).coef_
    return np.divide(found, scale.numpy(), out=np.zeros_like(found), where=scale.numpy() > 0)


def test_labels_of_their_own_equal_scikit_learn() -> None:
    dense, code, labels = drawn(3, exclusive=False)
    for point in list(walk_path(code, labels, "multilabel", PathPlan(2, 0.1, 1e-4, 20_000)))[1:]:
        assert point.violation <= 1e-4
        for c in range(3):
            expected = by_scikit(dense, labels[:, c].numpy(), point.penalty)[0]
            np.testing.assert_allclose(point.weights[:, c].numpy(), expected, rtol=1e-3, atol=3e-3)


def test_competing_classes_meet_the_conditions_of_the_minimum() -> None:
    """The problem is convex: where its subgradient, in float64 from dense codes, holds 0, there is the minimum."""
    dense, code, labels = drawn(3, exclusive=True)
    scale = dense.double().square().mean(dim=0).sqrt()[:, None]
    for point in list(walk_path(code, labels, "multiclass", PathPlan(2, 0.1, 1e-4, 20_000)))[1:]:
        weights = point.weights.double().requires_grad_()
        torch.nn.functional.cross_entropy(dense.double() @ weights, labels.argmax(dim=1)).backward()
        assert weights.grad is not None
        limit, is_used = point.penalty * scale.expand(-1, 3), weights != 0
        torch.testing.assert_close(
            weights.grad[is_used], -(limit * weights.sign())[is_used].detach(), atol=1e-4, rtol=1e-3
        )
        assert (weights.grad.abs() <= limit + 1e-4)[~is_used].all()
        assert 3 < is_used.sum() < 42


def test_the_path_starts_empty_and_grows() -> None:
    _, code, labels = drawn(4, exclusive=False)
    points = list(walk_path(code, labels, "multilabel", PathPlan(4, 0.1)))
    used = [int(point.concepts_per_class.sum()) for point in points]
    assert used[0] == 0
    assert used[-1] > used[1] > 0
    assert points[-1].penalty == pytest.approx(points[0].penalty / 10)
    assert all(point.violation <= 1e-3 for point in points)
    assert all((point.weights[14] == 0).all() for point in points)


def test_what_is_not_solved_says_so() -> None:
    _, code, labels = drawn(4, exclusive=False)
    last = list(walk_path(code, labels, "multilabel", PathPlan(2, 1e-3, 1e-7, 3)))[-1]
    assert last.steps == 3
    assert last.violation > 1e-7


def test_contributions_sum_to_the_logits_and_coverage_to_their_positive_parts() -> None:
    dense, code, labels = drawn(3, exclusive=False)
    weights = list(walk_path(code, labels, "multilabel", PathPlan(2, 0.2)))[-1].weights
    positive = torch.zeros(15, 3)
    for c in range(3):
        parts = contributions(weights, code, torch.full((60,), c))
        torch.testing.assert_close(parts.sum(dim=1), dense @ weights[:, c], atol=1e-5, rtol=0)
        positive[:, c] = (dense * weights[:, c]).clamp(min=0).sum(dim=0)
    torch.testing.assert_close(coverage(weights, code), positive)


def test_images_are_the_largest_values_of_their_patches() -> None:
    code, _ = small_model().codes(random_images(4, 32, 32))
    assert torch.equal(pool_images(code).dense(), code.dense().amax(dim=1))


def test_wrong_labels_are_refused() -> None:
    _, code, labels = drawn(3, exclusive=False)
    with pytest.raises(DataError, match="exactly one"):
        next(walk_path(code, labels, "multiclass", PathPlan()))
    with pytest.raises(DataError, match="60 images"):
        next(walk_path(code, labels[:5], "multilabel", PathPlan()))
    with pytest.raises(DataError, match="no concept"):
        next(walk_path(SparseCode(0 * code.values, code.indices, 15), labels, "multilabel", PathPlan()))
    with pytest.raises(ConfigError, match="penalties"):
        PathPlan(penalties=1)
