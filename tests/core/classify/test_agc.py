"""Adaptive gradient clipping by hand and against the published implementation."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import bcos
import pytest
import torch
from torch import nn

from raytrain_xai.classify.agc import clip_units_


def published_clipping() -> Callable[..., None]:
    """``bcos.training.agc.adaptive_clip_grad_``; the package around that file needs Lightning."""
    file = Path(bcos.__file__).parent / "training" / "agc.py"
    spec = importlib.util.spec_from_file_location("published_agc", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.adaptive_clip_grad_


def test_units_by_hand() -> None:
    """Weights of lengths 5, 1e-4 (taken as 1e-3) and 2; gradients of lengths .04, 1 and .04; factor .01."""
    weight = nn.Parameter(torch.tensor([[3.0, 4.0], [1e-4, 0.0], [0.0, 2.0]]))
    weight.grad = torch.tensor([[0.0, 0.04], [0.6, 0.8], [0.04, 0.0]])
    clip_units_([weight], 0.01)
    torch.testing.assert_close(weight.grad, torch.tensor([[0.0, 0.04], [0.6e-5, 0.8e-5], [0.02, 0.0]]))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_agrees_with_the_published_code(memory_format: torch.memory_format) -> None:
    def network() -> nn.Module:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1))
        net.to(memory_format=memory_format)
        net.register_parameter("scale", nn.Parameter(torch.full((8, 1, 1), 1e-6)))  # of ConvNeXt: one unit
        for parameter in net.parameters():
            parameter.grad = torch.randn_like(parameter) * 0.1
        return net

    ours, theirs = network(), network()
    before = [p.grad.clone() for p in ours.parameters() if p.grad is not None]
    clip_units_(ours.parameters(), 0.05)
    published_clipping()(theirs.parameters(), clip_factor=0.05)
    changed = 0
    for a, b, old in zip(ours.parameters(), theirs.parameters(), before, strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=0)
        changed += not torch.equal(a.grad, old)
    assert changed >= 4, "the bound is not idle"


def test_no_gradient_is_zero_gradient_and_missing_ones_are_left_out() -> None:
    used, unused = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2))
    used.grad = torch.zeros(2, 2)
    clip_units_([used, unused], 0.01)
    assert torch.equal(used.grad, torch.zeros(2, 2)) and unused.grad is None
    clip_units_([unused], 0.01)
