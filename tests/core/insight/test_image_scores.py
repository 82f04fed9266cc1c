"""Average precision against scikit-learn, and scores of images."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import average_precision_score

from raytrain_xai.insight.image_scores import image_scores, mean_average_precision
from raytrain_xai.ranking import average_precision


@pytest.mark.parametrize("distinct", [1000, 4], ids=["all different", "many equal"])
def test_average_precision_is_that_of_scikit_learn(distinct: int) -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randint(distinct, (60, 5), generator=generator) / distinct
    labels = (torch.rand(60, 5, generator=generator) > 0.7).float()
    expected = [average_precision_score(labels[:, i], scores[:, i]) for i in range(5)]
    assert average_precision(scores, labels).tolist() == pytest.approx(expected, abs=1e-12)


def test_by_hand() -> None:
    """Positives at ranks 1 and 3: (1 + 2/3) / 2."""
    scores, labels = torch.tensor([[0.9], [0.5], [0.4]]), torch.tensor([[1.0], [0.0], [1.0]])
    assert float(average_precision(scores, labels)) == pytest.approx(5 / 6)


def test_classes_with_few_images_have_no_say() -> None:
    scores = torch.tensor([[0.9, 0.1], [0.5, 0.2], [0.4, 0.3]])
    labels = torch.tensor([[1.0, 1.0], [0.0, 0.0], [1.0, 0.0]])
    assert mean_average_precision(scores, labels, 2) == pytest.approx(5 / 6)
    assert mean_average_precision(scores, labels, 1) == pytest.approx((5 / 6 + 1 / 3) / 2)
    assert math.isnan(mean_average_precision(scores, labels, 3))


def test_an_image_is_its_best_patches() -> None:
    """One patch of two shows the text: far above the mean of 1/2."""
    patches = torch.tensor([[2.0, 0.0], [0.0, 7.0]]).view(1, 2, 1, 2)
    scores = image_scores(patches, torch.eye(2))
    expected = math.exp(10) / (math.exp(10) + 1)
    torch.testing.assert_close(scores, torch.full((1, 2), expected))
