"""Optimiser state survives the way through a file bit by bit."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch
from torch import nn

from raytrain_xai.config import OptimConfig
from raytrain_xai.errors import CheckpointError
from raytrain_xai.optimizer_state import load_optimizer_tensors, optimizer_tensors
from raytrain_xai.runners.optimiser import build_optimiser


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(36, 2)).to(memory_format=torch.channels_last)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    torch.manual_seed(seed)
    optimizer.zero_grad()
    model(torch.randn(4, 3, 5, 5)).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd"])
def test_a_restored_optimiser_continues_as_if_never_stopped(name: str) -> None:
    config = OptimConfig.model_validate({"name": name, "lr": 0.01, "weight_decay": 0.1})
    straight = net()
    optimizer = build_optimiser(straight.parameters(), config)
    for seed in (1, 2):
        step(straight, optimizer, seed)
    stored = safetensors.torch.load(
        safetensors.torch.save(
            {k: v.contiguous() for k, v in optimizer_tensors(optimizer, dict(straight.named_parameters())).items()}
        )
    )
    resumed = net()
    resumed.load_state_dict({k: v.clone() for k, v in straight.state_dict().items()})
    other = build_optimiser(resumed.parameters(), config)
    load_optimizer_tensors(other, dict(resumed.named_parameters()), stored)
    for seed in (3, 4):
        step(straight, optimizer, seed)
        step(resumed, other, seed)
    pairs = zip(straight.parameters(), resumed.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_without_the_restored_state_the_next_step_differs() -> None:
    """Control: the state matters for the comparison above."""
    config = OptimConfig(lr=0.01)
    straight = net()
    optimizer = build_optimiser(straight.parameters(), config)
    step(straight, optimizer, 1)
    resumed = net()
    resumed.load_state_dict({k: v.clone() for k, v in straight.state_dict().items()})
    other = build_optimiser(resumed.parameters(), config)
    step(straight, optimizer, 2)
    step(resumed, other, 2)
    assert not torch.equal(straight[0].weight, resumed[0].weight)


def test_names_are_those_of_the_parameters() -> None:
    model = net()
    optimizer = build_optimiser(model.parameters(), OptimConfig())
    assert optimizer_tensors(optimizer, dict(model.named_parameters())) == {}
    step(model, optimizer, 1)
    names = set(optimizer_tensors(optimizer, dict(model.named_parameters())))
    quantities = ("step", "exp_avg", "exp_avg_sq")
    assert names == {f"{p}/{q}" for p in ("0.weight", "0.bias", "2.weight", "2.bias") for q in quantities}


@pytest.mark.parametrize("key", ["9.weight/exp_avg", "0.weight/exp_avg"])
def test_state_of_another_model_is_refused(key: str) -> None:
    model = net()
    optimizer = build_optimiser(model.parameters(), OptimConfig())
    with pytest.raises(CheckpointError, match=key):
        load_optimizer_tensors(optimizer, dict(model.named_parameters()), {key: torch.zeros(2, 2)})
