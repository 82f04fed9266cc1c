"""Random numbers as functions of what they are for, instead of a generator's state.

A draw that depends on (seed, step, sample) alone is the same on any worker and after any restart, and a whole batch of
them is a few integer operations on the device.
"""

from __future__ import annotations

import torch
from torch import Tensor

_MASK32 = 0xFFFFFFFF


def uniform(index: Tensor, *salts: int | Tensor) -> Tensor:
    """One number per index, uniform in [0, 1), from a 32-bit avalanche of (index, salts).

    Args:
        index: int64, for example sample numbers; the low 32 bits count.
        salts: integers, or int64 tensors like ``index``; each of them, and their order, changes the draw.
    Returns:
        float64 of the shape of ``index``, multiples of 2^-32.
    """
    value = index & _MASK32
    for salt in salts:
        value = _hash(value, salt)
    return value.to(torch.float64) / 2**32


def _hash(value: Tensor, salt: int | Tensor) -> Tensor:
    """32-bit avalanche of (value, salt), int64 -> int64 in [0, 2^32)."""
    mixed = (value ^ (salt * 0x9E3779B1 & _MASK32)) & _MASK32
    for multiplier in (0x7FEB352D, 0x2C1B3C6D):
        mixed = ((mixed ^ (mixed >> 16)) * multiplier) & _MASK32
    return mixed ^ (mixed >> 16)
