"""Matryoshka sparse autoencoders: nested dictionaries, whose first groups of latents must reconstruct on their own.

z = ReLU(W (x - b) + c), x' = b + V z with encoder W and dictionary V (K, D), decoder bias b and encoder bias c. The
latents are cut into groups; the loss asks for a reconstruction by the first group alone, by the first two, and so on:
early groups hold coarse concepts and later ones refine them (Bussmann et al. 2025, arXiv 2503.17547). Sparsity is
BatchTopK in training and a threshold in use (Bussmann et al. 2024, arXiv 2412.06410).

With biases a code is not proportional to its vector: short vectors get few latents. Where only directions matter, as in
cosines with texts, ``unit_inputs`` brings every vector to length 1 first, and x' stands for x / ‖x‖.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from raytrain_xai.concepts.code import SparseCode, combine
from raytrain_xai.concepts.sae import SparseAutoencoder, above, checked_k, follow_smallest
from raytrain_xai.errors import ConfigError


class MatryoshkaSae(SparseAutoencoder):
    """A BatchTopK autoencoder with biases whose latents come in nested groups.

    The code of a vector depends on this vector alone: what exceeds the threshold, never what is large within a batch.
    (The published code selects per batch where it is not told otherwise, so that an explanation of an image depends on
    the images beside it.)

    Attributes:
        encoder, dictionary: (K, D), see :class:`~raytrain_xai.concepts.sae.SparseAutoencoder`; rows of the dictionary
            have length 1.
        encoder_bias: (K,).
        decoder_bias: (D,), what an empty code stands for.
        threshold: () running mean of the smallest value that a training batch used; 0 before the first step.
        group_sizes: (G,) int64, latents of each group, their sum is K.
        k: active latents of a vector in training, on average over a batch.
        unit_inputs: vectors are brought to length 1 before they are encoded.
    """

    threshold: Tensor
    group_sizes: Tensor

    def __init__(
        self, dim: int, num_latents: int, k: int, group_sizes: Sequence[int], *, unit_inputs: bool = False
    ) -> None:  # fmt: skip
        """
        Raises:
            ConfigError: sizes that do not add up, or k outside of 1 to K.
        """
        super().__init__(dim, num_latents)
        if not group_sizes or min(group_sizes) < 1 or sum(group_sizes) != num_latents:
            raise ConfigError(
                f"groups of {list(group_sizes)} latents do not make up the {num_latents} there are; every group needs "
                "one or more"
            )
        self.k = checked_k(k, num_latents)
        self.unit_inputs = unit_inputs
        self.encoder_bias = nn.Parameter(torch.zeros(num_latents))
        self.decoder_bias = nn.Parameter(torch.zeros(dim))
        self.register_buffer("threshold", torch.zeros(()))
        self.register_buffer("group_sizes", torch.tensor(group_sizes, dtype=torch.int64))

    @property
    def num_groups(self) -> int:
        """G."""
        return self.group_sizes.shape[0]

    def groups_of(self, latents: Tensor) -> Tensor:
        """Group in [0, G) of each latent, of any shape, int64."""
        return torch.bucketize(latents, self.group_sizes.cumsum(0), right=True)

    def inputs(self, x: Tensor) -> Tensor:
        """What a code of x (..., D) reconstructs: x itself, or its direction; 0 has none and stays."""
        return functional.normalize(x, dim=-1) if self.unit_inputs else x

    def encode(self, x: Tensor) -> SparseCode:
        """See :meth:`~raytrain_xai.concepts.sae.SparseAutoencoder.encode`; of :meth:`inputs`."""
        return super().encode(self.inputs(x))

    def preactivation(self, x: Tensor) -> Tensor:
        """(N, D) -> W (x - b) + c, (N, K)."""
        return torch.addmm(self.encoder_bias, x - self.decoder_bias, self.encoder.T)

    def select(self, preactivation: Tensor) -> SparseCode:
        """What exceeds the threshold. The width is that of the fullest vector: one device sync."""
        return above(preactivation, self.threshold.clamp(min=0))  # a negative one was never estimated: ReLU alone

    def decode(self, code: SparseCode) -> Tensor:
        """Code (..., k) -> b + V z, (..., D)."""
        return combine(code.values, code.indices, self.dictionary) + self.decoder_bias

    def prefix(self, code: SparseCode, num_groups: int) -> SparseCode:
        """The part of a code that lies in the first groups; same shape, other places are 0."""
        is_kept = self.groups_of(code.indices) < num_groups
        return SparseCode(code.values * is_kept, code.indices, code.num_latents)

    def follow(self, smallest: Tensor) -> None:
        """Move the threshold towards the smallest value () that a training batch used; infinite if it used none.

        Published: momentum .999 from the 1000th step on. Here it is .99 from the first one, which is the same at the
        end of a long run and right at the end of a short one.
        """
        follow_smallest(self.threshold, smallest)
