"""Running modules one after the other.

In evaluation without gradients, what can be done in one step is: a layer may take its neighbour in
(:meth:`DynamicLinear.joined`), as a B-cos convolution takes in the norm behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn


class DynamicLinear(nn.Module):
    """Base of layers whose explanation differs from their gradient: a block that holds one needs a rule."""

    def joined(self, following: nn.Module | None) -> tuple[nn.Module, int] | None:  # noqa: ARG002
        """A module that computes in one step, without a gradient, what this one and perhaps ``following`` compute.

        Returns:
            The module and how many modules of the chain it stands for, 1 or 2; None: run this one as it is.
        """
        return None


class Chain(nn.Sequential):
    """As ``nn.Sequential``, run by :func:`run_chain`."""

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """(B, ...) -> (B, ...)."""
        return run_chain(self, x)


def run_chain(modules: Iterable[nn.Module], x: Tensor) -> Tensor:
    """Apply modules one after the other."""
    for module in steps(modules):
        x = module(x)
    return x


def steps(modules: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The modules of a chain as they are run now: joined where nothing needs a gradient."""
    if torch.is_grad_enabled():
        yield from modules
        return
    chain = list(modules)
    position = 0
    while position < len(chain):
        module = chain[position]
        following = chain[position + 1] if position + 1 < len(chain) else None
        join = module.joined(following) if isinstance(module, DynamicLinear) else None
        step, length = (module, 1) if join is None else join
        yield step
        position += length
