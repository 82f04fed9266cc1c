"""Selection of checkpoints that are best in the trade of several metrics."""

from __future__ import annotations

import torch
from torch import Tensor

RESOLUTION = 0.005  # differences below half a percentage point are noise between epochs


_CHUNK = 1024  # points compared with each other at a time: the memory of n points grows with n, not with its square


def pareto_front(points: Tensor, resolution: float | None = RESOLUTION) -> Tensor:
    """Which points no other point beats.

    A point is off the front when another is at least as good in every metric and better in one; of points that are
    equal only the first stays, as in the released code of Rao et al., ICCV 2023 (the paper keeps all models that are
    not dominated).

    Args:
        points: (n, m) float, one row per checkpoint in the order in which they were made; higher is better
            (F1, EPG, IoU).
        resolution: values are rounded to multiples of it first, .005 as in that code; None compares them as they are.
    Returns:
        (n,) bool, True on the front.
    Raises:
        ValueError: not two-dimensional, or a value is NaN or infinite, which has no place in an order.
    """
    if points.dim() != 2:
        raise ValueError(f"expected points of shape (n, m), got {tuple(points.shape)}")
    if not bool(torch.isfinite(points).all()):
        raise ValueError("points hold NaN or infinite metrics; leave those checkpoints out")
    exact = points.to(torch.float64)
    steps = (exact if resolution is None else (exact / resolution).round()) + 0.0  # -0 is 0
    distinct, place = steps.unique(dim=0, return_inverse=True)  # sorted by the first metric, then by the next
    on_front = torch.zeros(len(distinct), dtype=torch.bool, device=points.device)
    front = distinct[:0]
    for start in range(len(distinct), 0, -_CHUNK):  # whoever beats a point comes after it in this order
        rows = torch.arange(max(start - _CHUNK, 0), start, device=points.device)
        rows = rows[~_is_beaten(distinct[rows], front)]
        rows = rows[~_is_beaten(distinct[rows], distinct[rows])]
        on_front[rows] = True
        front = torch.cat([front, distinct[rows]])
    number = torch.arange(len(points), device=points.device)
    first = torch.full((len(distinct),), len(points), device=points.device).scatter_reduce(0, place, number, "amin")
    return on_front[place] & (first[place] == number)


def _is_beaten(points: Tensor, others: Tensor) -> Tensor:
    """(n,) bool: whether one of ``others`` is at least as good everywhere and not the same; points are distinct."""
    at_least = torch.ones(len(points), len(others), dtype=torch.bool, device=points.device)
    is_equal = at_least.clone()
    for own, other in zip(points.T, others.T, strict=True):
        at_least &= other[None] >= own[:, None]
        is_equal &= other[None] == own[:, None]
    return (at_least & ~is_equal).any(dim=1)
