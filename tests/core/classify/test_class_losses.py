"""Classification losses by hand, against torch and against the published implementation."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from bcos.modules.losses import BinaryCrossEntropyLoss, UniformOffLabelsBCEWithLogitsLoss
from torch import Tensor

from raytrain_xai.classify.losses import classification_loss, smooth


def draw(batch: int = 6, classes: int = 5) -> tuple[Tensor, Tensor]:
    """Logits and mixed targets: two classes share an image."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(batch, classes, generator=generator, dtype=torch.float64) * 3
    share = torch.rand(batch, 1, generator=generator, dtype=torch.float64)
    classes_of = torch.rand(batch, classes, generator=generator).argsort(dim=1)
    hot = F.one_hot(classes_of[:, :2], classes).double()
    return logits, share * hot[:, 0] + (1 - share) * hot[:, 1]


def test_off_label_bce_by_hand() -> None:
    """Two classes: targets (1, 1/2) at logits (0, 0) cost log 2 each, whatever the second target is."""
    loss = classification_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), "off_label_bce")
    assert loss.item() == pytest.approx(math.log(2))
    # Four classes at the logit bias -log 3: an absent class is answered with probability 1/4, and has no gradient.
    logits = torch.full((1, 4), -math.log(3), requires_grad=True)
    classification_loss(logits, torch.tensor([[0.0, 1.0, 0.0, 0.0]]), "off_label_bce").backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.tensor([[0.0, -0.75 / 4, 0.0, 0.0]]), atol=1e-7, rtol=1e-6)


def test_agrees_with_the_published_losses() -> None:
    logits, targets = draw()
    count = len(logits)
    off_label = classification_loss(logits, targets, "off_label_bce")
    torch.testing.assert_close(off_label / count, UniformOffLabelsBCEWithLogitsLoss()(logits, targets))
    for smoothing in (0.0, 0.1):
        plain = classification_loss(logits, targets, "bce", smoothing)
        torch.testing.assert_close(plain / count, BinaryCrossEntropyLoss(smoothing=smoothing)(logits, targets))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_torchs(smoothing: float) -> None:
    logits, targets = draw()
    expected = F.cross_entropy(logits, targets, label_smoothing=smoothing)
    torch.testing.assert_close(classification_loss(logits, targets, "cross_entropy", smoothing) / len(logits), expected)


def test_smoothing_by_hand_keeps_the_sum() -> None:
    smoothed = smooth(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), 0.2)
    torch.testing.assert_close(smoothed, torch.tensor([[0.85, 0.05, 0.05, 0.05]]))


def test_the_default_is_the_mean_over_classes_bit_for_bit() -> None:
    logits, targets = (value.float() for value in draw(64, 20))
    assert torch.equal(
        classification_loss(logits, targets, "bce"),
        F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / 20,
    )


@pytest.mark.parametrize("name", ["bce", "off_label_bce", "cross_entropy"])
def test_parts_add_up_and_half_precision_is_widened(name: str) -> None:
    logits, targets = draw()
    whole = classification_loss(logits, targets, name, 0.1)  # type: ignore[arg-type]
    parts = [classification_loss(logits[i : i + 2], targets[i : i + 2], name, 0.1) for i in (0, 2, 4)]  # type: ignore[arg-type]
    torch.testing.assert_close(sum(parts), whole)
    assert classification_loss(logits.bfloat16(), targets.float(), name).dtype == torch.float32  # type: ignore[arg-type]
