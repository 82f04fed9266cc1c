"""Stochastic depth: how often, by which factor, and which probability each block gets."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raytrain_xai.errors import ConfigError
from raytrain_xai.models.linearise import linearise
from raytrain_xai.models.stochastic_depth import StochasticDepth, set_stochastic_depth


def test_drops_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    out = StochasticDepth(0.25).train()(torch.ones(4000, 2, 3, 3))
    factors = out.flatten(1)
    assert torch.equal(factors.amin(1), factors.amax(1))  # one draw per image
    assert set(factors[:, 0].tolist()) == {0.0, torch.tensor(1 / 0.75).item()}
    # 4000 draws: the standard error of the mean is sqrt(0.25 / 0.75 / 4000) = 0.009
    assert factors[:, 0].mean().item() == pytest.approx(1, abs=0.04)


def test_identity_in_evaluation_and_without_probability() -> None:
    x = torch.randn(2, 3)
    for module in (StochasticDepth(0.5).eval(), StochasticDepth(0.0).train()):
        out, pullback = linearise(module, x)
        assert out is module(x) is x
        assert pullback(x, torch.tensor([1, 0])) is x


def test_linear_view_has_the_factors_of_the_forward() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 3)
    out, pullback = linearise(StochasticDepth(0.5).train(), x)
    rows = torch.tensor([3, 3, 9, 0])
    torch.testing.assert_close(pullback(x[rows], rows), out[rows])
    assert 0 < (out == 0).all(1).sum() < 16


def test_grows_linearly_with_depth() -> None:
    net = nn.Sequential(*[nn.Sequential(nn.Linear(2, 2), StochasticDepth()) for _ in range(5)])
    set_stochastic_depth(net, 0.4)
    assert [block[1].p for block in net] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    assert not net.state_dict().keys() - {f"{i}.0.{key}" for i in range(5) for key in ("weight", "bias")}


def test_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="0 <= p < 1, got 1"):
        set_stochastic_depth(nn.Sequential(StochasticDepth()), 1.0)
    with pytest.raises(ConfigError, match="Linear has no blocks"):
        set_stochastic_depth(nn.Linear(1, 1), 0.1)
    set_stochastic_depth(nn.Linear(1, 1), 0.0)
