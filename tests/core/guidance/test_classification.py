"""Classification metrics by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from raytrain_xai.guidance.classification import (
    class_accuracy,
    group_accuracy,
    mean_average_precision,
    micro_scores,
    top_accuracy,
)


def test_micro_scores_by_hand() -> None:
    scores = torch.tensor([[0.0, -1.0, 2.0], [-0.5, 3.0, 1.0]])  # 0 is a positive decision
    labels = torch.tensor([[True, True, False], [False, True, False]])  # TP 2, FP 2, FN 1, TN 1
    assert micro_scores(scores, labels) == {"f1": 4 / 7, "precision": 2 / 4, "recall": 2 / 3, "accuracy": 3 / 6}


def test_micro_scores_equal_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(200, 7, generator=generator)
    labels = torch.rand(200, 7, generator=generator) > 0.7
    truth, predicted = labels.numpy(), (scores >= 0).numpy()
    actual = micro_scores(scores, labels)
    assert actual["f1"] == pytest.approx(f1_score(truth, predicted, average="micro"), abs=1e-12)
    assert actual["precision"] == pytest.approx(precision_score(truth, predicted, average="micro"), abs=1e-12)
    assert actual["recall"] == pytest.approx(recall_score(truth, predicted, average="micro"), abs=1e-12)


def test_micro_scores_without_any_positive() -> None:
    scores = torch.full((3, 2), -1.0)
    none = micro_scores(scores, torch.zeros(3, 2, dtype=torch.bool))
    assert none == {"f1": 0.0, "precision": 0.0, "recall": 0.0, "accuracy": 1.0}


@pytest.mark.parametrize("scale", [1.0, 200.0])
def test_map_equals_scikit_learn(scale: float) -> None:
    """Also for logits of a size at which a float32 sigmoid would make them all equal, and with ties."""
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(150, 6, generator=generator) * scale
    scores[:40] = scores[:40].round()
    labels = torch.rand(150, 6, generator=generator) > 0.8
    labels[:, 4] = False  # a class without positives is left out
    expected = [average_precision_score(labels[:, c].numpy(), scores[:, c].numpy()) for c in (0, 1, 2, 3, 5)]
    assert mean_average_precision(scores, labels) == pytest.approx(np.mean(expected), abs=1e-6)


def test_map_of_one_class_and_of_none() -> None:
    scores = torch.tensor([[3.0], [2.0], [1.0]])
    assert mean_average_precision(scores, torch.tensor([[True], [False], [True]])) == pytest.approx((1 + 2 / 3) / 2)
    assert mean_average_precision(scores, torch.zeros(3, 1, dtype=torch.bool)) is None


def test_accuracy_by_class_and_group() -> None:
    labels = torch.eye(2, dtype=torch.bool)[torch.tensor([0, 0, 1, 1, 1])]
    scores = torch.tensor([[2.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.0, 1.0], [5.0, 1.0]])  # right: yes no yes yes no
    groups = torch.tensor([0, 0, 2, -1, 2])
    assert class_accuracy(scores, labels) == 3 / 5
    assert group_accuracy(scores, labels, groups, 4) == [0.5, None, 0.5, None]


def test_top_accuracy_by_hand() -> None:
    """The class of the rows is ranked first, second and third of four."""
    scores = torch.tensor([[4.0, 1.0, 2.0, 3.0], [4.0, 1.0, 2.0, 3.0], [4.0, 1.0, 2.0, 3.0]])
    labels = torch.eye(4, dtype=torch.bool)[[0, 3, 2]]
    assert [top_accuracy(scores, labels, k) for k in (1, 2, 3, 4)] == [1 / 3, 2 / 3, 1.0, 1.0]
    assert top_accuracy(scores, labels, 1) == class_accuracy(scores, labels)
