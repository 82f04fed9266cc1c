"""Loss of a sparse autoencoder and its gradients, by explicit sparse formulas."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain_xai.concepts.sae import SparseAutoencoder
from raytrain_xai.concepts.workers import ALONE, Workers


@dataclass(frozen=True)
class StepSettings:
    """Weights of the parts of the loss.

    Attributes:
        aux_weight: of the loss that revives dead latents.
        aux_latents: dead latents that take part in it at a vector, at most.
        sparsity_weight: of the variant's own penalty (L1 or L0); TopK variants have none.
    """

    aux_weight: float = 1 / 32
    aux_latents: int = 256
    sparsity_weight: float = 0.0


@dataclass(frozen=True)
class SaeStep:
    """Result of :func:`sae_step`, equal on every worker.

    Attributes:
        gradients: parameter name -> gradient of the mean loss over the vectors of all workers.
        sums: name -> () float, detached sums over the vectors of all workers: ``loss``, ``squared_error``, ``aux``,
            ``sparsity``, ``active`` (used places), ``variance`` (squared distances to the mean), ``vectors``.
        fired: (K,) int64, vectors of all workers at which each latent has a positive value.
    """

    gradients: dict[str, Tensor]
    sums: dict[str, Tensor]
    fired: Tensor


@torch.no_grad()
def sae_step(
    sae: SparseAutoencoder, x: Tensor, *, dead: Tensor | None, settings: StepSettings, workers: Workers = ALONE
) -> SaeStep:
    """Loss mean ‖x - x'‖² over all vectors of all workers, and its gradients.

    Args:
        sae: parameters equal on every worker.
        x: (N, D) float, vectors of this worker; N is the same on all of them.
        dead: (M,) int64, latents that count as dead, the same on every worker; None or empty: none.
    """
    code = sae.encode(x)
    error = sae.decode(code) - x
    total = x.shape[0] * workers.world_size
    g = error * (2 / total)
    d_values = (sae.dictionary[code.indices] * g[:, None]).sum(dim=2) * (code.values > 0)
    flat = code.indices.flatten()
    d_dictionary = torch.zeros_like(sae.dictionary).index_add_(
        0, flat, (code.values[..., None] * g[:, None]).flatten(0, 1)
    )
    d_encoder = torch.zeros_like(sae.encoder).index_add_(0, flat, (d_values[..., None] * x[:, None]).flatten(0, 1))
    gradients = {"encoder": workers.sum(d_encoder), "dictionary": workers.sum(d_dictionary)}
    fired = torch.zeros(sae.num_latents, dtype=torch.int64, device=x.device).index_add_(
        0, flat, (code.values > 0).flatten().long()
    )
    fired = workers.sum(fired)
    mean = workers.sum(x.sum(dim=0)) / total
    squared_error = workers.sum(error.square().sum())
    zero = torch.zeros_like(squared_error)
    sums = {
        "loss": squared_error, "squared_error": squared_error, "aux": zero, "sparsity": zero,
        "active": fired.sum().to(x.dtype), "variance": workers.sum((x - mean).square().sum()),
        "vectors": torch.full_like(squared_error, total),
    }  # fmt: skip
    return SaeStep(gradients, sums, fired)
