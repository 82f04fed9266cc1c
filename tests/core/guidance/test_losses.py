"""Localisation losses against hand-computed numbers, a loop over images in float64, and finite differences."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from raytrain_xai.guidance.losses import LOSSES, energy_loss, l1_loss, ppce_loss, rrr_loss

NAMES = sorted(LOSSES)


def loss_of_one_image(name: str, attr: Tensor, mask: Tensor) -> Tensor:
    """The definitions, pixel by pixel, for one image."""
    if not mask.any():
        return attr.new_zeros(())
    positive = torch.clamp(attr, min=0)
    if name == "energy":
        total = positive.sum()
        return 1 - positive[mask].sum() / total if total > 1e-7 else attr.new_ones(())
    biggest = attr.abs().max() if name == "rrr" else positive.max()
    scaled = (attr if name == "rrr" else positive) / (biggest if biggest > 0 else 1)
    if name == "l1":
        return (mask.to(attr.dtype) - scaled).abs().mean()
    if name == "rrr":
        return scaled[~mask].square().sum()
    inside = scaled[mask]
    return -torch.stack([value.log() if value > 0 else value.new_tensor(-100.0) for value in inside]).mean()


def random_cases(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Maps and masks with the awkward cases: empty, full, at the border, overlapping; zero and negative maps."""
    generator = torch.Generator().manual_seed(3)
    attr = torch.randn(9, 7, 8, generator=generator, dtype=dtype)
    mask = torch.zeros(9, 7, 8, dtype=torch.bool)
    mask[0, 2:5, 3:6] = True
    mask[1] = True
    mask[3, :3, :2] = True
    mask[4, 4:, 5:] = True
    mask[5, 1:5, 1:5] = True
    mask[5, 3:6, 3:8] = True
    mask[6, 0:4, 0:4] = True
    mask[7, 0:4, 0:4] = True
    mask[8, 6, 7] = True
    attr[6] = 0
    attr[7] = -attr[7].abs()
    return attr, mask


def test_energy_is_the_share_outside() -> None:
    attr = torch.tensor([[[1.0, 3.0], [-7.0, 4.0]]])
    mask = torch.tensor([[[True, False], [True, True]]])
    assert energy_loss(attr, mask).tolist() == [1 - 5 / 8]


def test_l1_compares_the_scaled_positive_map_with_the_mask() -> None:
    attr = torch.tensor([[[1.0, 2.0], [-7.0, 4.0]]])  # scaled: .25 .5 0 1
    mask = torch.tensor([[[True, False], [True, True]]])  # differences: .75 .5 1 0
    assert l1_loss(attr, mask).tolist() == [2.25 / 4]


def test_ppce_is_the_mean_negative_log_inside() -> None:
    attr = torch.tensor([[[1.0, 2.0], [-7.0, 4.0]]])  # scaled: .25 .5 0 1
    mask = torch.tensor([[[True, True], [False, True]]])
    expected = (math.log(4) + math.log(2) + 0) / 3
    assert ppce_loss(attr, mask).item() == pytest.approx(expected, rel=1e-6)
    with_floor = torch.tensor([[[True, False], [True, False]]])
    assert ppce_loss(attr, with_floor).item() == pytest.approx((math.log(4) + 100) / 2, rel=1e-6)


def test_rrr_sums_squares_of_either_sign_outside() -> None:
    attr = torch.tensor([[[1.0, 2.0], [-8.0, 4.0]]])  # scaled by 8: .125 .25 -1 .5
    mask = torch.tensor([[[True, False], [False, True]]])
    assert rrr_loss(attr, mask).tolist() == [0.25**2 + 1]


@pytest.mark.parametrize("name", NAMES)
def test_batch_equals_a_loop_over_images(name: str) -> None:
    attr, mask = random_cases(torch.float64)
    looped, batched = attr.clone().requires_grad_(), attr.clone().requires_grad_()
    expected = torch.stack([loss_of_one_image(name, one, region) for one, region in zip(looped, mask, strict=True)])
    actual = LOSSES[name](batched, mask)
    torch.testing.assert_close(actual, expected, rtol=1e-13, atol=1e-13)
    weights = torch.arange(1.0, 10.0, dtype=torch.float64)
    (expected * weights).sum().backward()
    (actual * weights).sum().backward()
    assert looped.grad is not None and batched.grad is not None
    torch.testing.assert_close(batched.grad, looped.grad, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", NAMES)
def test_gradient_equals_finite_differences_through_the_maximum(name: str) -> None:
    attr, mask = random_cases(torch.float64)
    attr = attr[[0, 1, 3, 4, 5]].clone()
    attr = torch.where(attr.abs() < 0.05, 0.05, attr).requires_grad_()  # away from the kink at 0
    assert torch.autograd.gradcheck(lambda a: LOSSES[name](a, mask[[0, 1, 3, 4, 5]]), (attr,), eps=1e-7, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_empty_region_costs_nothing(name: str) -> None:
    attr = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = LOSSES[name](attr, torch.zeros(2, 5, 5, dtype=torch.bool))
    loss.sum().backward()
    assert loss.tolist() == [0, 0]
    assert attr.grad is not None and not attr.grad.any()


@pytest.mark.parametrize(("name", "value"), [("energy", 1.0), ("l1", 0.25), ("ppce", 100.0), ("rrr", 0.0)])
def test_map_of_zeros_has_a_defined_loss_and_no_gradient(name: str, value: float) -> None:
    attr = torch.zeros(1, 4, 4, requires_grad=True)
    mask = torch.zeros(1, 4, 4, dtype=torch.bool)
    mask[:, :2, :2] = True
    loss = LOSSES[name](attr, mask)
    assert loss.tolist() == [value]
    loss.sum().backward()
    assert attr.grad is not None and torch.equal(attr.grad, torch.zeros_like(attr))


@pytest.mark.parametrize(
    ("name", "scale"),
    [(name, scale) for name in NAMES for scale in (1e-30, 1e-3, 1e3, 1e20) if (name, scale) != ("energy", 1e-30)],
)
def test_scale_of_the_map_does_not_matter(name: str, scale: float) -> None:
    attr, mask = random_cases(torch.float32)
    scaled = (attr * scale).requires_grad_()
    loss = LOSSES[name](scaled, mask)
    torch.testing.assert_close(loss, LOSSES[name](attr, mask), rtol=2e-5, atol=1e-6)
    loss.sum().backward()
    assert scaled.grad is not None and torch.isfinite(scaled.grad).all()


def test_energy_below_its_threshold_counts_as_none() -> None:
    attr = torch.full((1, 2, 2), 2e-8, requires_grad=True)  # sums to 8e-8
    mask = torch.tensor([[[True, True], [True, False]]])
    loss = energy_loss(attr, mask)
    assert loss.tolist() == [1]
    loss.sum().backward()
    assert attr.grad is not None and not attr.grad.any()
    assert energy_loss(attr * 2, mask).item() == pytest.approx(0.25)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_maps_are_computed_in_float32(name: str) -> None:
    attr, mask = random_cases(torch.float32)
    half = attr.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = LOSSES[name](half, mask)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, LOSSES[name](half.float(), mask))
    loss.sum().backward()
    assert half.grad is not None and half.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_non_finite_attribution_is_not_hidden(name: str, bad: float) -> None:
    attr = torch.rand(2, 4, 4, generator=torch.Generator().manual_seed(1)) + 0.5
    attr[1, 0, 0] = bad
    mask = torch.zeros(2, 4, 4, dtype=torch.bool)
    mask[:, :2, :2] = True
    loss = LOSSES[name](attr, mask)
    assert torch.isfinite(loss[0])
    assert not torch.isfinite(loss[1])


def test_energy_is_zero_when_all_lies_inside() -> None:
    attr = torch.zeros(1, 6, 6)
    attr[0, 1:3, 1:3] = 0.3
    attr[0, 5, 5] = -2  # negative attribution is not energy
    mask = torch.zeros(1, 6, 6, dtype=torch.bool)
    mask[0, 1:3, 1:3] = True
    assert energy_loss(attr, mask).tolist() == [0]


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"mask must be bool, got torch.float32"):
        energy_loss(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match=r"\(1, 2, 2\) and \(1, 2, 3\)"):
        l1_loss(torch.zeros(1, 2, 2), torch.zeros(1, 2, 3, dtype=torch.bool))
