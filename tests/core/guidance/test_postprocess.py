"""Orders of post-processing: what is clamped and scaled before the resize, and what is not."""

from __future__ import annotations

import pytest
import torch

from raytrain_xai.guidance.postprocess import localise_map

ATTR = torch.tensor([[[-4.0, 2.0], [0.0, 1.0]]])


@pytest.mark.parametrize("loss", ["energy", "l1", "ppce", "rrr", None])
def test_canonical_order_keeps_the_signed_map(loss: str | None) -> None:
    assert torch.equal(localise_map(ATTR, (2, 2), loss, "canonical"), ATTR)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (None, [[-4.0, 2.0], [0.0, 1.0]]),
        ("energy", [[-4.0, 2.0], [0.0, 1.0]]),
        ("rrr", [[-1.0, 0.5], [0.0, 0.25]]),
        ("l1", [[0.0, 1.0], [0.0, 0.5]]),
        ("ppce", [[0.0, 1.0], [0.0, 0.5]]),
    ],
)
def test_paper_code_clamps_and_scales_by_loss(loss: str | None, expected: list[list[float]]) -> None:
    assert localise_map(ATTR, (2, 2), loss, "paper_code").tolist() == [expected]


def test_resize_is_bilinear_without_aligned_corners() -> None:
    line = torch.tensor([[[0.0, 4.0]]])
    assert localise_map(line, (1, 4), None, "canonical").tolist() == [[[0.0, 1.0, 3.0, 4.0]]]


def test_orders_differ_where_signs_meet() -> None:
    line = torch.tensor([[[-4.0, 4.0]]])
    signed = localise_map(line, (1, 4), "l1", "canonical").clamp(min=0)
    clamped = localise_map(line, (1, 4), "l1", "paper_code")
    assert signed.tolist() == [[[0.0, 0.0, 2.0, 4.0]]]
    assert clamped.tolist() == [[[0.0, 0.25, 0.75, 1.0]]]


def test_map_of_zeros_stays_zero() -> None:
    zeros = torch.zeros(2, 3, 3, requires_grad=True)
    maps = localise_map(zeros, (6, 6), "rrr", "paper_code")
    maps.sum().backward()
    assert not maps.any()
    assert zeros.grad is not None and torch.isfinite(zeros.grad).all()


def test_half_precision_becomes_float32_and_double_stays() -> None:
    assert localise_map(ATTR.bfloat16(), (4, 4), "l1", "canonical").dtype == torch.float32
    assert localise_map(ATTR.double(), (4, 4), "l1", "paper_code").dtype == torch.float64


def test_gradient_passes_through_clamp_maximum_and_resize() -> None:
    attr = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: localise_map(a, (5, 7), "l1", "paper_code"), (attr,))
