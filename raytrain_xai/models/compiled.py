"""Compiled prediction, for services that see many images of one size.

Compiling takes a minute or more for each new size of batch or image; the result is a native program for this
machine that fuses what lies between the convolutions, over folded filters (:mod:`.folding`).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from raytrain_xai.models.folding import Version, version_of
from raytrain_xai.models.network import Network


class CompiledForward:
    """Logits of a network in evaluation mode by a compiled program, without gradients.

    A change of the network's parameters or statistics is seen and compiled in. Not exact to the bit: sums are taken
    in another order.

    Args:
        network: in evaluation mode, and kept there.
    Raises:
        ValueError: the network is in training mode.
    """

    def __init__(self, network: Network) -> None:
        if network.training:
            raise ValueError("compile a network in evaluation mode; call network.eval() first")
        self._network = network
        self._version: Version | None = None
        self._program: Callable[[Tensor], Tensor] | None = None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8, or float in [0, 1] -> logits (B, K)."""
        version = version_of([*self._network.net.parameters(), *self._network.net.buffers()])
        if self._program is None or version != self._version:
            self._network(images[:1])  # folds the filters as they are now
            # A function of its own, for the compiler keeps programs by function.
            self._program = torch.compile(lambda x: self._network(x), options={"freezing": True}, dynamic=False)
            self._version = version
        return self._program(images)
