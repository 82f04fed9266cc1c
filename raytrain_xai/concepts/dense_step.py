"""Gradients of the variants without a bound on the number of active latents.

About half of all latents are active before the penalty has worked, so their training step is made of dense products,
for part of the vectors at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain_xai.concepts.sae import JumpReluSae, ReluSae
from raytrain_xai.concepts.workers import Workers


@dataclass(frozen=True)
class MainPart:
    """Reconstruction and penalty: what this worker's vectors and this shard's latents add to the step.

    Attributes:
        gradients: parameter name -> gradient.
        error: (N, D) x' - x.
        fired: (K,) int64, vectors at which each latent has a positive value.
        penalty: () sum of all values (ReLU) or number of active latents (JumpReLU); 0 for TopK variants.
    """

    gradients: dict[str, Tensor]
    error: Tensor
    fired: Tensor
    penalty: Tensor


def dense_part(sae: ReluSae | JumpReluSae, x: Tensor, *, total: int, weight: float, shards: Workers) -> MainPart:
    """Gradients of (sum ‖x - x'‖² + weight · penalty) / total.

    Args:
        x: (N, D).
        total: vectors of all workers.
    """
    gradients = {name: torch.zeros_like(parameter) for name, parameter in sae.named_parameters()}
    fired = torch.zeros(sae.num_latents, dtype=torch.int64, device=x.device)
    penalty, error = x.new_zeros(()), torch.empty_like(x)
    is_jump = isinstance(sae, JumpReluSae)
    thresholds = sae.log_threshold.exp() if is_jump else x.new_zeros(())
    for part, out in zip(x.split(sae.rows_at_once), error.split(sae.rows_at_once), strict=True):
        products = part @ sae.encoder.T
        active = products > thresholds
        values = products * active
        out.copy_(shards.sum(values @ sae.dictionary)).sub_(part)
        g = out * (2 / total)
        at_values = g @ sae.dictionary.T
        gradients["dictionary"].addmm_(values.T, g)
        fired.add_(active.sum(dim=0))
        if is_jump:
            # Window of width ε: d value / dθ = -θ/ε and d active / dθ = -1/ε inside, 0 outside; d/d log θ = θ · d/dθ.
            inside = (products - thresholds).abs() < sae.bandwidth / 2
            slope = (inside * (thresholds * at_values + weight / total)).sum(dim=0)
            gradients["log_threshold"].sub_(slope * thresholds / sae.bandwidth)
            penalty.add_(active.sum())
        else:
            at_values.add_(weight / total)
            penalty.add_(values.sum())
        gradients["encoder"].addmm_(at_values.mul_(active).T, part)
    return MainPart(gradients, error, fired, penalty)
