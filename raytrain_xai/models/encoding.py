"""Encoding of images: [x, 1 - x] for B-cos networks, normalised colours for the others."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Normalise(nn.Module):
    """(x - mean) / std per colour channel, with the statistics of ImageNet that published weights expect."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) float in [0, 1] -> same shape, about [-2.2, 2.7]."""
        return (x - self.mean) / self.std


class AddInverse(nn.Module):
    """Encode RGB as (x, 1 - x): (B, 3, H, W) in [0, 1] -> (B, 6, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, 1 - x], dim=1)
