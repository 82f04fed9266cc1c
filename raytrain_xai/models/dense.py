"""The dense layer, shared by the B-cos and the torchvision DenseNets."""

from __future__ import annotations

import torch
from torch import Tensor

from raytrain_xai.models.chain import Chain
from raytrain_xai.models.linearise import Pullback, linearise, linearise_chain


class DenseLayer(Chain):
    """x -> cat(x, f(x)) with f the modules in a row: what a DenseNet does at each layer, as one step of a chain.

    Source: Huang et al., CVPR 2017 (arXiv 1608.06993). The usual form keeps a list of all earlier outputs and
    concatenates it anew in every layer, which moves the same number of bytes.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, C + growth, h, w)."""
        return torch.cat([x, super().forward(x)], dim=1)


@linearise.register(DenseLayer)
def _(module: DenseLayer, x: Tensor) -> tuple[Tensor, Pullback]:
    new, pull_new = linearise_chain(module, x)
    channels = x.shape[1]

    def pullback(g: Tensor, rows: Tensor | None) -> Tensor:
        return g[:, :channels] + pull_new(g[:, channels:], rows)

    return torch.cat([x, new], dim=1), pullback
