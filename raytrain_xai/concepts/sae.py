"""Bias-free sparse autoencoders: a vector as a sum of few dictionary rows, each with a positive weight.

u = select(W x), x' = V u with encoder W (K, D) and dictionary V; neither has a bias, so that everything in x' is owned
by a concept (Parchami-Araghi et al., NeurIPS 2025, arXiv 2510.25512). Variants differ in ``select`` only, which for
given x is a 0/1 mask.

Training sees x / σ, σ² the mean of ‖x‖². TopK and ReLU codes are homogeneous, u(αx) = α u(x) for α > 0, so what they
learned holds for x itself; a threshold is relative to σ, so the variants that have one keep σ as ``scale``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional

from raytrain_xai.concepts.code import SparseCode, combine, stack_codes
from raytrain_xai.errors import ConfigError

PRODUCTS_AT_ONCE = 2**24  # encoder products held at a time: 64 MiB of float32

_MOMENTUM = 0.99  # of the threshold estimate, per step


class SparseAutoencoder(nn.Module, ABC):
    """Base of all variants.

    Attributes:
        encoder: (K, D).
        dictionary: (K, D), the decoder, row-major, so that a latent is one contiguous row; rows have length 1 in
            training, in use all the same one (:attr:`~raytrain_xai.concepts.usage.LatentUsage.gain`).
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

    @property
    def rows_at_once(self) -> int:
        """Vectors whose products with all latents are held at a time."""
        return max(1, PRODUCTS_AT_ONCE // self.num_latents)

    @abstractmethod
    def select(self, preactivation: Tensor) -> SparseCode:
        """(N, K) products with the encoder -> code (N, k), each vector by itself."""

    def preactivation(self, x: Tensor) -> Tensor:
        """(N, D) -> products with the encoder (N, K), what :meth:`select` chooses from."""
        return x @ self.encoder.T

    def encode(self, x: Tensor) -> SparseCode:
        """(..., D) -> code (..., k); the products with all K latents exist for part of the vectors at a time."""
        rows = x.reshape(-1, x.shape[-1]).split(self.rows_at_once)
        code = stack_codes([self.select(self.preactivation(part)) for part in rows])
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
        self.k = checked_k(k, num_latents)

    def select(self, preactivation: Tensor) -> SparseCode:
        """See :class:`SparseAutoencoder`; values in descending order."""
        top = preactivation.topk(min(self.k, self.num_latents), dim=-1)  # part of a dictionary may have fewer than k
        return SparseCode(top.values.clamp(min=0), top.indices, self.num_latents)


class BatchTopKSae(SparseAutoencoder):
    """Training keeps the k·N largest products of a batch of N vectors; afterwards all above a threshold are used.

    So k is an average: rich vectors get more concepts than plain ones. The threshold is a running mean of the smallest
    value that a batch used (Bussmann et al. 2024, arXiv 2412.06410), here without the encoder and decoder bias, and
    over about the last 100 steps: with the momentum of .999 of public code it is, in a run of a few hundred steps,
    still that of the first ones.

    Attributes:
        threshold: () in units of ``scale``; 0 before the first step.
        scale: () σ of the vectors; 1 until it is set.
    """

    threshold: Tensor
    scale: Tensor

    def __init__(self, dim: int, num_latents: int, k: int) -> None:
        super().__init__(dim, num_latents)
        self.k = checked_k(k, num_latents)
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def select(self, preactivation: Tensor) -> SparseCode:
        """Products above the threshold. The width is that of the fullest vector: one device sync."""
        return above(preactivation, self.threshold * self.scale)

    def follow(self, smallest: Tensor) -> None:
        """Move the threshold towards the smallest value () that a training batch used; infinite if it used none."""
        follow_smallest(self.threshold, smallest)


class ReluSae(SparseAutoencoder):
    """u = ReLU(W x), made sparse by a penalty on the sum of u in training."""

    def select(self, preactivation: Tensor) -> SparseCode:
        """All positive products. The width is that of the fullest vector: one device sync."""
        return above(preactivation, preactivation.new_zeros(()))


class JumpReluSae(SparseAutoencoder):
    """u_k = (W x)_k where it exceeds a threshold learned for each latent, else 0.

    Training penalises the number of active latents; thresholds get their gradient through a window around them
    (Rajamanoharan et al. 2024, arXiv 2407.14435), here without the encoder and decoder bias.

    Attributes:
        log_threshold: (K,) logarithm of the thresholds in units of ``scale``.
        scale: () σ of the vectors; 1 until it is set.
        bandwidth: width of the window, in units of ``scale``.
    """

    scale: Tensor

    def __init__(self, dim: int, num_latents: int, *, bandwidth: float, initial_threshold: float) -> None:
        super().__init__(dim, num_latents)
        if bandwidth <= 0 or initial_threshold <= 0:
            raise ConfigError(f"bandwidth and threshold must be positive, got {bandwidth} and {initial_threshold}")
        self.bandwidth = bandwidth
        self.log_threshold = nn.Parameter(torch.full((num_latents,), math.log(initial_threshold)))
        self.register_buffer("scale", torch.ones(()))

    def select(self, preactivation: Tensor) -> SparseCode:
        """Products above their thresholds. The width is that of the fullest vector: one device sync."""
        return above(preactivation, self.log_threshold.exp() * self.scale)


def above(preactivation: Tensor, threshold: Tensor) -> SparseCode:
    """Products (N, K) that exceed ``threshold`` () or (K,), >= 0 -> code (N, most in a row), at least one place."""
    active = preactivation > threshold
    width = max(1, int(active.sum(dim=1).max())) if len(active) else 1
    top = preactivation.masked_fill(~active, 0).topk(width, dim=1)
    return SparseCode(top.values, top.indices, preactivation.shape[1])


def follow_smallest(threshold: Tensor, smallest: Tensor) -> None:
    """Move a threshold (), in place, towards the smallest value () used, a running mean over about the last 100 calls.

    A threshold of 0 has not followed anything yet and takes the value; an infinite value changes nothing.
    """
    smallest = smallest.to(threshold.dtype)
    moved = torch.where(threshold == 0, smallest, torch.lerp(smallest, threshold, _MOMENTUM))
    threshold.copy_(torch.where(smallest.isfinite(), moved, threshold))


def checked_k(k: int, num_latents: int) -> int:
    """``k`` active latents of ``num_latents``.

    Raises:
        ConfigError: it is not between 1 and their number.
    """
    if not 1 <= k <= num_latents:
        raise ConfigError(f"k must be between 1 and the {num_latents} latents, got {k}")
    return k
