"""Exponential moving average of a network's weights, which often classifies better than the weights themselves.

Source: Polyak and Juditsky, 1992, in the form of torchvision's recipes, which the published B-cos trainings use:
normalisation statistics are averaged too, and during warm-up the average is a copy. (These recipes scale 1 - decay by
batch size · every_steps / epochs; here the decay is that of an update.)
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from raytrain_xai.models.network import Network


class AveragedNetwork:
    """A second network that follows the first.

    Args:
        network: the one that is trained.
        decay: share of the average that an update keeps, 0 < decay < 1.
        every_steps: optimiser steps between updates.
        first_step: until this optimiser step the average is a copy.
    """

    def __init__(self, network: Network, *, decay: float, every_steps: int, first_step: int) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False).eval()
        self._decay = decay
        self._every_steps = every_steps
        self._first_step = first_step

    def after_step(self, network: Network, step: int) -> None:
        """Take in the weights after optimiser step ``step`` (from 0). Equal on all workers, as the weights are."""
        if (step + 1) % self._every_steps == 0:
            self.follow(network, 1.0 if step < self._first_step else 1 - self._decay)

    @torch.no_grad()
    def follow(self, network: Network, share: float = 1.0) -> None:
        """average ← average + share · (weights - average); integer buffers (batch counters) are copied."""
        average, weights = self.network.net.state_dict(), network.net.state_dict()
        moving: list[Tensor] = []
        targets: list[Tensor] = []
        for name, value in average.items():
            if value.is_floating_point() and share < 1:
                moving.append(value)
                targets.append(weights[name])
            else:
                value.copy_(weights[name])
        if moving:
            torch._foreach_lerp_(moving, targets, share)  # pyright: ignore[reportPrivateUsage] - has no other name
