"""What concepts add to the cosine between a text and the reconstruction of image patches.

A patch with code z is reconstructed as x = b + Σ_k z_k v_k, so its cosine with a unit text vector t is a sum over its
few active concepts and the bias:

    cos(x, t) = (b·t + Σ_k z_k v_k·t) / ‖x‖.

A score that is a weighted sum of the cosines of patches, Σ_p w_p cos(x_p, t), is therefore the sum over concepts of
(Σ_p w_p z_pk / ‖x_p‖) (v_k·t), and of a share of the bias. Nothing is approximated (Insight / CFM, 2026; there for a
single patch before the softmax).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from raytrain_xai.concepts.code import SparseCode, sum_per_latent
from raytrain_xai.errors import DataError

_SHORTEST = 1e-12  # of a vector that has a direction


@dataclass(frozen=True)
class PatchView:
    """Patches of some images, as an encoder sees them or as their concepts say them again.

    P = h w patches, row by row.

    Attributes:
        vectors: (B, P, D) float, of any length.
        size: (h, w).
        code: (B, P, k), of which ``vectors`` are the reconstruction; None for the encoder's own vectors.
        foreground: (B, P) float32 in (0, 1), above 0.5 where the encoder finds a thing; None where it was not asked.
    """

    vectors: Tensor
    size: tuple[int, int]
    code: SparseCode | None = None
    foreground: Tensor | None = None

    @property
    def inverse_length(self) -> Tensor:
        """(B, P) float: 1 / ‖x‖; a vector without length has the cosine 0 with every text."""
        return 1 / torch.linalg.vector_norm(self.vectors, dim=-1).clamp(min=_SHORTEST)

    def cosines(self, texts: Tensor) -> Tensor:
        """Unit texts (C, D) -> (B, C, P) float in [-1, 1].

        Raises:
            DataError: texts of another length than the patches.
        """
        if texts.shape[1] != self.vectors.shape[2]:
            raise DataError(
                f"text vectors have {texts.shape[1]} dimensions, patches {self.vectors.shape[2]}: they are of another "
                "encoder; embed the texts with the one of this model"
            )
        return (functional.normalize(self.vectors, dim=-1, eps=_SHORTEST) @ texts.T).transpose(1, 2)


@dataclass(frozen=True)
class Contributions:
    """R scores, each of one text, as sums.

    Attributes:
        concept: (R, K) float, signed; what each concept adds. 0 for a concept that does not act.
        bias: (R,) float, what the decoder's bias adds.
    """

    concept: Tensor
    bias: Tensor

    @property
    def score(self) -> Tensor:
        """(R,): the sums."""
        return self.concept.sum(dim=1) + self.bias


def attribute(pooled: Tensor, share: Tensor, texts: Tensor, *, dictionary: Tensor, bias: Tensor) -> Contributions:
    """Contributions to weighted sums of cosines.

    Args:
        pooled: (R, K) float, :func:`pool_code` of each score's weights.
        share: (R,) float, Σ_p w_p / ‖x_p‖.
        texts: (R, D) float, the unit text vector of each score.
        dictionary: (K, D).
        bias: (D,).
    """
    return Contributions(pooled * (texts @ dictionary.T), share * (texts @ bias))


def pool_code(code: SparseCode, weights: Tensor) -> Tensor:
    """Weighted sums of codes over patches: code (R, P, k), weights (R, P) -> (R, K)."""
    return sum_per_latent(code.values * weights[..., None].to(code.values.dtype), code.indices, code.num_latents)


def strongest_code(code: SparseCode) -> tuple[Tensor, Tensor]:
    """Largest value of each concept over patches and where it is: (B, P, k) -> (B, K) float, >= 0, and (B, K) int64.

    The patch is that of the largest value, the first of equal ones; 0 for a concept that acts nowhere.
    """
    num_images, num_patches, k = code.values.shape
    values, indices = code.values.flatten(1), code.indices.flatten(1)
    peak = values.new_zeros(num_images, code.num_latents).scatter_reduce(1, indices, values, "amax")
    patch = torch.arange(num_patches, device=values.device).repeat_interleave(k).expand_as(indices)
    is_peak = (values == peak.gather(1, indices)) & (values > 0)
    first = torch.full_like(peak, num_patches, dtype=torch.int64)
    first = first.scatter_reduce(1, indices, torch.where(is_peak, patch, num_patches), "amin")
    return peak, torch.where(peak > 0, first, 0)
