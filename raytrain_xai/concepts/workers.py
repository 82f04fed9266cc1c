"""What a training step needs from the other workers of a job."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Workers(Protocol):
    """Processes that take a step together. Every method is a collective: all of them call it, equally often."""

    @property
    def rank(self) -> int:
        """Number of this worker, from 0."""
        ...

    @property
    def world_size(self) -> int:
        """How many there are."""
        ...

    def sum(self, values: Tensor) -> Tensor:
        """Element-wise sum over the workers, of tensors of one shape; the argument may be overwritten."""
        ...

    def gather(self, values: Tensor) -> Tensor:
        """Tensors of one shape (n, ...) in the order of the ranks -> (world_size · n, ...)."""
        ...


class _Alone:
    rank = 0
    world_size = 1

    def sum(self, values: Tensor) -> Tensor:
        return values

    def gather(self, values: Tensor) -> Tensor:
        return values


ALONE: Workers = _Alone()
"""One process without others."""
