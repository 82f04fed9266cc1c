"""What the zoo knows about an architecture, and how a net is cut into a chain of stages with named taps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Cut:
    """A net as a chain.

    Attributes:
        stages: modules of the net in the order of the forward pass, from network input to logits.
        ends: the four stages whose outputs are the taps Mid1, Mid2, Mid3 and Final; none where the values between
            input and logits are no map (a class token).
        blocks: stages that are taps of their own, named by their path in the net (``layer1.0``).
    """

    stages: Sequence[nn.Module]
    ends: Sequence[nn.Module]
    blocks: Sequence[nn.Module]


@dataclass(frozen=True)
class Architecture:
    """One name of the zoo.

    Attributes:
        build: number of classes -> net with random weights; its state dict has the public keys.
        cut: the net -> its chain. The values at every tap have the shape (B, D, h, w).
        head: path in the net of the module that makes the class scores, whose parameters depend on the classes.
        is_bcos: True when every stage is dynamic-linear; the network input is then [image, 1 - image].
        image_size: side of the images of the published training, pixels.
    """

    build: Callable[[int], nn.Module]
    cut: Callable[[Any], Cut]
    head: str
    is_bcos: bool
    image_size: int = 224


def flat(*parts: nn.Module | Iterable[nn.Module]) -> list[nn.Module]:
    """Modules and groups of modules in a row; a Sequential is a group."""
    return list(chain.from_iterable([part] if not isinstance(part, Iterable) else part for part in parts))


def named_taps(net: nn.Module, cut: Cut) -> dict[str, int]:
    """Tap names with the number of stages up to each, in forward order; modules compare by identity."""
    depth = {id(stage): position + 1 for position, stage in enumerate(cut.stages)}
    path = {id(module): name for name, module in net.named_modules()}
    names = ("Mid1", "Mid2", "Mid3", "Final") if cut.ends else ()
    marks = {name: depth[id(end)] for name, end in zip(names, cut.ends, strict=True)}
    return {"Input": 0, **marks, **{path[id(block)]: depth[id(block)] for block in cut.blocks}}
