"""Learning rates by hand, and updates against torch's own formula."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raytrain_xai.config import OptimConfig
from raytrain_xai.runners.loop import step_seed
from raytrain_xai.runners.optimiser import apply_gradients, build_optimiser, learning_rate


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.25), (1, 0.5), (3, 1.0), (4, 1.0), (5, 0.8535534), (6, 0.5), (7, 0.1464466), (8, 0.0), (9, 0.0)],
)
def test_warm_up_then_half_a_cosine(step: int, rate: float) -> None:
    """4 steps of warm-up, then cos from 0 to pi over steps 4 to 8."""
    config = OptimConfig(lr=1.0, schedule="cosine", warmup_steps=4)
    assert learning_rate(config, step, 8, 1) == pytest.approx(rate, abs=1e-6)


def test_constant_rate() -> None:
    assert {learning_rate(OptimConfig(lr=0.3), step, 10, 1) for step in range(10)} == {0.3}


def test_warm_up_and_cosine_are_torchs() -> None:
    """LinearLR from 1 % over 5 steps, then CosineAnnealingLR: the schedule of the published recipes, step by step."""
    config = OptimConfig(lr=0.2, schedule="cosine", warmup_epochs=0.5, warmup_start=0.01)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
    warm_up = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=5)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=25)
    expected = []
    for step in range(30):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        (warm_up if step < 5 else cosine).step()
    assert [learning_rate(config, step, 30, 10) for step in range(30)] == pytest.approx(expected, rel=1e-9)


def test_steps_of_the_rate_count_epochs_of_the_run() -> None:
    """A tenth every two epochs of three steps; the warm-up takes its time from the first of them."""
    config = OptimConfig(lr=1.0, schedule="step", step_epochs=2, warmup_steps=2)
    rates = [learning_rate(config, step, 15, 3) for step in range(15)]
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 1] + [0.1] * 6 + [0.01] * 3)


def test_adaptive_clipping_is_relative_to_the_weights() -> None:
    weight = nn.Parameter(torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    config = OptimConfig(name="sgd", lr=1.0, agc=0.01)
    optimizer = build_optimiser([weight], config)
    weight.grad = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    apply_gradients(optimizer, config, 1.0, torch.tensor(2.0))
    torch.testing.assert_close(weight.detach(), torch.tensor([[2.95, 4.0], [0.3, 0.395]]))


@pytest.mark.parametrize(("clip_norm", "moved"), [(None, 5.0), (10.0, 5.0), (1.0, 1.0)])
def test_clipping_bounds_the_norm_of_the_update(clip_norm: float | None, moved: float) -> None:
    """Gradient (3, 4) has norm 5; one SGD step at rate 1 moves by the clipped norm."""
    weight = nn.Parameter(torch.zeros(2))
    optimizer = build_optimiser([weight], OptimConfig(name="sgd", lr=0.1))
    weight.grad = torch.tensor([3.0, 4.0])
    apply_gradients(optimizer, OptimConfig(name="sgd", lr=0.1, clip_norm=clip_norm), 1.0, torch.tensor(5.0))
    assert weight.detach().norm().item() == pytest.approx(moved, rel=1e-5)


def test_adam_adds_decay_to_the_gradient_and_adamw_to_the_weight() -> None:
    """With zero gradient AdamW shrinks by lr · decay; Adam normalises the decay to a full step of lr."""
    for name, expected in (("adamw", 1 - 0.1 * 0.5), ("adam", 1 - 0.1)):
        weight = nn.Parameter(torch.ones(1))
        optimizer = build_optimiser(
            [weight], OptimConfig.model_validate({"name": name, "lr": 0.1, "weight_decay": 0.5})
        )
        weight.grad = torch.zeros(1)
        optimizer.step()
        assert weight.item() == pytest.approx(expected, abs=1e-6)


def test_seeds_of_steps_parts_and_workers_differ() -> None:
    seeds = {step_seed(s, t, p, r) for s in range(6) for t in range(50) for p in range(4) for r in range(8)}
    assert len(seeds) == 6 * 50 * 4 * 8
    assert all(0 <= seed < 2**64 for seed in seeds)
