"""Selection of checkpoints that are best in the trade of several metrics."""

from __future__ import annotations

import torch
from torch import Tensor

RESOLUTION = 0.005  # differences below half a percentage point are noise between epochs


def pareto_front(points: Tensor) -> Tensor:
    """Which points no other point beats.

    Values are rounded to multiples of 0.005 first. A point is off the front when another is at least as good in every
    metric and better in one; of points that are equal after rounding only the first stays, as in the released code of
    Rao et al., ICCV 2023 (the paper keeps all models that are not dominated).

    Args:
        points: (n, m) float, one row per checkpoint in the order in which they were made; higher is better
            (F1, EPG, IoU).
    Returns:
        (n,) bool, True on the front.
    Raises:
        ValueError: not two-dimensional, or a value is NaN or infinite, which has no place in an order.
    """
    if points.dim() != 2:
        raise ValueError(f"expected points of shape (n, m), got {tuple(points.shape)}")
    if not bool(torch.isfinite(points).all()):
        raise ValueError("points hold NaN or infinite metrics; leave those checkpoints out")
    steps = (points.to(torch.float64) / RESOLUTION).round()
    at_least = (steps[None] >= steps[:, None]).all(dim=2)  # [a, b]: b is as good as a everywhere
    is_equal = at_least & at_least.T
    is_earlier = torch.ones_like(at_least).tril(diagonal=-1)  # [a, b]: b was made before a
    return ~(at_least & (~is_equal | is_earlier)).any(dim=1)
