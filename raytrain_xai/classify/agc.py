"""Adaptive gradient clipping: no unit's gradient may be long relative to the unit's weights.

Source: Brock et al., ICML 2021 (arXiv 2102.06171), equation 3. As in the published B-cos trainings the classifier is
clipped too, which the paper leaves out, and a parameter with a single axis (biases, gains) counts as one unit.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_SHORTEST_WEIGHTS = 1e-3  # units shorter than this are clipped as if they had this length: new ones have to grow
_TINY = 1e-6


@torch.no_grad()
def clip_units_(parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Scale the gradient of each unit down to ``factor`` · max(‖w‖, 1e-3) where it is longer; in place.

    The norms of all units of a network are compared in one vector, so that besides them a step costs a few kernels,
    not a few per parameter.

    Args:
        parameters: those without a gradient are left out. A unit is an output channel: an index of the first axis.
        factor: longest gradient relative to the weights, > 0; published: .01.
    """
    parameters = [p for p in parameters if p.grad is not None]
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients:
        return
    lengths = [_unit_norms(gradient) for gradient in gradients]
    length, weight = torch.cat(lengths), torch.cat([_unit_norms(p) for p in parameters])
    longest = weight.clamp_(min=_SHORTEST_WEIGHTS).mul_(factor)
    scale = torch.where(length > longest, longest / length.clamp(min=_TINY), 1.0)
    scales = scale.split([len(part) for part in lengths])
    factors = [s.to(g.dtype).view(-1, *[1] * (g.dim() - 1)) for s, g in zip(scales, gradients, strict=True)]
    torch._foreach_mul_(gradients, factors)  # pyright: ignore[reportPrivateUsage] - it has no other name


def _unit_norms(values: Tensor) -> Tensor:
    """L2 norm per unit, (O,), or (1,) for a parameter with at most one axis longer than 1; float32 or wider."""
    dtype = torch.promote_types(values.dtype, torch.float32)
    if sum(side > 1 for side in values.shape) <= 1:
        return torch.linalg.vector_norm(values, dtype=dtype)[None]
    return torch.linalg.vector_norm(values, dim=tuple(range(1, values.dim())), dtype=dtype)
