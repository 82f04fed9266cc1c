"""Optimiser and learning rate. The rate is a function of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from raytrain_xai.config import OptimConfig

_SGD_MOMENTUM = 0.9


def build_optimiser(parameters: Iterable[nn.Parameter], config: OptimConfig) -> torch.optim.Optimizer:
    """Adam (L2 in the gradient), AdamW (decoupled decay) or SGD with momentum 0.9."""
    match config.name:
        case "adam":
            return torch.optim.Adam(parameters, lr=config.lr, weight_decay=config.weight_decay)
        case "adamw":
            return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
        case "sgd":
            return torch.optim.SGD(parameters, lr=config.lr, momentum=_SGD_MOMENTUM, weight_decay=config.weight_decay)


def learning_rate(config: OptimConfig, step: int, num_steps: int) -> float:
    """Rate of optimiser step ``step`` (from 0) of ``num_steps``.

    Linear warm-up from lr / warmup_steps to lr, then constant, or half a cosine down to 0 after the last step.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = (step - config.warmup_steps) / max(num_steps - config.warmup_steps, 1)
    return config.lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def apply_gradients(optimizer: torch.optim.Optimizer, config: OptimConfig, rate: float, norm: Tensor) -> None:
    """One update at ``rate``; gradients are scaled down first where their total L2 ``norm`` () exceeds clip_norm."""
    if config.clip_norm is not None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        torch.nn.utils.clip_grads_with_norm_(parameters, config.clip_norm, norm)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
