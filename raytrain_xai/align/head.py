"""What is trained: a head from patch features to the space of texts, and the line from a score to a class logit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_SCALE, _SHIFT = 2.7, -5.0  # at the start: a score of .34 is a logit of 0


class AlignHead(nn.Module):
    """Patch features to vectors that are compared with text vectors: 1x1 conv, GELU, 1x1 conv.

    Args:
        in_dim: C, channels of the backbone.
        hidden: channels between.
        dim: D of the text space.
    """

    def __init__(self, in_dim: int, hidden: int, dim: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(in_dim, hidden, 1)
        self.project = nn.Conv2d(hidden, dim, 1)
        self.log_scale = nn.Parameter(torch.tensor(_SCALE))
        self.shift = nn.Parameter(torch.tensor(_SHIFT))
        self.text_mean: Tensor
        self.register_buffer("text_mean", torch.zeros(dim))

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, D, h, w), of any length."""
        return self.project(nn.functional.gelu(self.expand(features)))

    def class_logits(self, scores: Tensor) -> Tensor:
        """Scores of images in [-1, 1] -> logits of a sigmoid, exp(log_scale) · score + shift; any shape."""
        return self.log_scale.exp() * scores + self.shift
