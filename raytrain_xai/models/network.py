"""A classifier as a chain of stages with named taps, the form every part of this package works on."""

from __future__ import annotations

import difflib
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Self

import torch
from torch import Tensor, nn

from raytrain_xai.errors import ConfigError
from raytrain_xai.models.chain import run_chain
from raytrain_xai.models.linearise import Pullback, linearise_chain


class Network(nn.Module):
    """An image classifier cut into stages.

    Args:
        net: owns the parameters; its ``state_dict`` has the public keys (torchvision, B-cos v2), checkpoints hold it.
        encode: float image in [0, 1] (B, 3, H, W) -> network input: (B, 6, H, W) for B-cos, normalised RGB otherwise.
        stages: modules of ``net`` in the order of the forward pass, from network input to logits.
        taps: tap name -> number of stages below it; ``Input`` is 0.
        name: architecture name.
        num_classes: length of the logits.
        is_bcos: True when every stage is dynamic-linear, so that explanations are exact.
        head: path in ``net`` of the module that makes the class scores.
        frozen_norms: keep normalisation layers on their stored statistics, also in training.
    """

    def __init__(
        self, net: nn.Module, *, encode: nn.Module, stages: Sequence[nn.Module], taps: Mapping[str, int], name: str,
        num_classes: int, is_bcos: bool, head: str, frozen_norms: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.net = net
        self.encoder = encode
        self._stages = list(stages)  # a plain list: the modules are registered once, inside ``net``
        self.taps = dict(taps)
        self.name = name
        self.num_classes = num_classes
        self.is_bcos = is_bcos
        self.head = head
        self.frozen_norms = frozen_norms
        self.train(self.training)

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """Modules from network input to logits, in forward order."""
        return tuple(self._stages)

    @property
    def default_attribution(self) -> str:
        """``bcos`` for B-cos networks, ``ixg`` for the others."""
        return "bcos" if self.is_bcos else "ixg"

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8, or float in [0, 1] -> logits (B, C)."""
        return self._run(self.encode(images), 0, len(self._stages))

    def encode(self, images: Tensor) -> Tensor:
        """Network input, in the type of the parameters."""
        if not images.is_floating_point():
            images = images.to(self.dtype).div_(255)
        return self.encoder(images.to(self.dtype))

    def features(self, images: Tensor, layer: str) -> Tensor:
        """Values at a tap, (B, D, h, w)."""
        return self._run(self.encode(images), 0, self.depth(layer))

    def linearise_from(self, features: Tensor, layer: str) -> tuple[Tensor, Pullback]:
        """Logits (B, C) and the walk from them back to ``features`` (B, D, h, w) at a tap."""
        return linearise_chain(self._stages[self.depth(layer) :], features)

    def depth(self, layer: str) -> int:
        """Number of stages below a tap.

        Raises:
            ConfigError: no such tap; the message lists them.
        """
        if layer not in self.taps:
            near = difflib.get_close_matches(layer, self.taps, n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise ConfigError(f"{self.name} has no layer {layer!r}; {hint}its layers are {', '.join(self.taps)}")
        return self.taps[layer]

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return next(self.net.parameters()).dtype

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``; normalisation layers stay in evaluation mode when their statistics are frozen."""
        super().train(mode)
        if self.frozen_norms:
            for norm in self.norms():
                norm.eval()
        return self

    def norms(self) -> list[nn.Module]:
        """Normalisation layers, which hold running statistics."""
        return [module for module in self.net.modules() if "Norm" in type(module).__name__]

    def _run(self, x: Tensor, start: int, stop: int) -> Tensor:
        return run_chain(self._stages[start:stop], x)


@contextmanager
def evaluation_mode(network: Network) -> Generator[None]:
    """A network in evaluation mode, back in the mode it was in when this is left."""
    was_training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(was_training)
