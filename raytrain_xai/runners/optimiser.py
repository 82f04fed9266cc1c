"""Optimiser and learning rate. The rate is a function of the step, so that resuming needs no scheduler state."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from raytrain_xai.classify.agc import clip_units_
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


def num_warmup_steps(config: OptimConfig, steps_per_epoch: int) -> int:
    """Optimiser steps of the warm-up, given in steps or in epochs."""
    return config.warmup_steps or round(config.warmup_epochs * steps_per_epoch)


def learning_rate(config: OptimConfig, step: int, num_steps: int, steps_per_epoch: int) -> float:
    """Rate of optimiser step ``step`` (from 0) of ``num_steps``.

    Linear warm-up to lr, from lr / (warm-up steps) or from ``warmup_start`` · lr; then constant, or half a cosine down
    to 0 after the last step, or lower by ``step_factor`` after every ``step_epochs`` epochs of the run. Warm-up and
    cosine move at every step, also where the published recipes move them once an epoch.
    """
    warmup = num_warmup_steps(config, steps_per_epoch)
    if step < warmup:
        if config.warmup_start is None:
            return config.lr * (step + 1) / warmup
        return config.lr * (config.warmup_start + (1 - config.warmup_start) * step / warmup)
    match config.schedule:
        case "constant":
            return config.lr
        case "step":
            return config.lr * config.step_factor ** (step // (steps_per_epoch * config.step_epochs))
        case "cosine":
            progress = (step - warmup) / max(num_steps - warmup, 1)
            return config.lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def apply_gradients(optimizer: torch.optim.Optimizer, config: OptimConfig, rate: float, norm: Tensor) -> None:
    """One update at ``rate``, after clipping.

    Gradients are scaled down where their total L2 ``norm`` () exceeds clip_norm, or unit by unit by ``config.agc``.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if config.clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, config.clip_norm, norm)
    if config.agc is not None:
        clip_units_(parameters, config.agc)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
