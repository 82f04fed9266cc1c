"""Bias-free sparse autoencoders: a vector as a sum of few dictionary rows, each with a positive weight.

u = select(W x), x' = V u with encoder W (K, D) and dictionary V; neither has a bias, so that everything in x' is owned
by a concept (Parchami-Araghi et al., NeurIPS 2025, arXiv 2510.25512). Variants differ in ``select`` only, which for
given x is a 0/1 mask.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from raytrain_xai.concepts.code import SparseCode, combine
from raytrain_xai.errors import ConfigError


class SparseAutoencoder(nn.Module, ABC):
    """Base of all variants.

    Attributes:
        encoder: (K, D).
        dictionary: (K, D), rows of length 1: the decoder, row-major, so that a latent is one contiguous row.
    """

    def __init__(self, dim: int, num_latents: int) -> None:
        super().__init__()
        if dim < 1 or num_latents < 1:
            raise ConfigError(f"a dictionary needs at least one latent and one dimension, got {num_latents} x {dim}")
        rows = functional.normalize(torch.randn(num_latents, dim), dim=1)
        self.dictionary = nn.Parameter(rows)
        self.encoder = nn.Parameter(rows.detach().clone())

    @property
    def dim(self) -> int:
        """D, length of the vectors."""
        return self.encoder.shape[1]

    @property
    def num_latents(self) -> int:
        """K."""
        return self.encoder.shape[0]

    @abstractmethod
    def select(self, preactivation: Tensor) -> SparseCode:
        """(N, K) products with the encoder -> code (N, k)."""

    def encode(self, x: Tensor) -> SparseCode:
        """(..., D) -> code (..., k)."""
        code = self.select(x.reshape(-1, x.shape[-1]) @ self.encoder.T)
        shape = (*x.shape[:-1], code.values.shape[-1])
        return SparseCode(code.values.view(shape), code.indices.view(shape), code.num_latents)

    def decode(self, code: SparseCode) -> Tensor:
        """Code (..., k) -> (..., D)."""
        return combine(code.values, code.indices, self.dictionary)

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> reconstruction (..., D)."""
        return self.decode(self.encode(x))


class TopKSae(SparseAutoencoder):
    """u = TopK_k(ReLU(W x)): the k largest products, negative ones as 0."""

    def __init__(self, dim: int, num_latents: int, k: int) -> None:
        super().__init__(dim, num_latents)
        if not 1 <= k <= num_latents:
            raise ConfigError(f"k must be between 1 and the {num_latents} latents, got {k}")
        self.k = k

    def select(self, preactivation: Tensor) -> SparseCode:
        """See :class:`SparseAutoencoder`; values in descending order."""
        top = preactivation.topk(self.k, dim=-1)
        return SparseCode(top.values.clamp(min=0), top.indices, self.num_latents)
