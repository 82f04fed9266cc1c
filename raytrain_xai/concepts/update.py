"""One optimiser step of a sparse autoencoder whose dictionary rows stay on the unit sphere."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from raytrain_xai.concepts.sae import SparseAutoencoder
from raytrain_xai.concepts.workers import ALONE, Workers


def build_adam(sae: SparseAutoencoder) -> torch.optim.Adam:
    """Adam (β .9, .999) over all parameters, in one pass over memory; its rate is given at every update."""
    return torch.optim.Adam(sae.parameters(), fused=True)


@torch.no_grad()
def project_gradients(sae: SparseAutoencoder, gradients: Mapping[str, Tensor], shards: Workers = ALONE) -> Tensor:
    """Take from the gradient of each dictionary row its part along the row, in place.

    Args:
        gradients: parameter name -> gradient.
        shards: workers that hold other rows of the same dictionary; not those that hold the same rows.
    Returns:
        () total L2 norm of all gradients afterwards, over all shards.
    """
    rows, gradient = sae.dictionary, gradients["dictionary"]
    along = torch.bmm(rows[:, None], gradient[:, :, None]).squeeze(2)  # (K, 1)
    gradient.addcmul_(along, rows, value=-1)
    norm = torch.nn.utils.get_total_norm(gradients.values())
    return shards.sum(norm.square()).sqrt()


@torch.no_grad()
def apply_update(
    sae: SparseAutoencoder,
    gradients: Mapping[str, Tensor],
    norm: Tensor,
    optimizer: torch.optim.Optimizer,
    *,
    lr: float,
    clip_norm: float | None,
) -> None:
    """Clip, update, and put the dictionary rows back to length 1.

    Args:
        gradients: after :func:`project_gradients`; scaled in place.
        norm: () their total L2 norm; scaled down to ``clip_norm`` where larger, None: never.
        optimizer: of :func:`build_adam`.
        lr: rate of this step.
    """
    for name, parameter in sae.named_parameters():
        parameter.grad = gradients[name]
    if clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(sae.parameters(), clip_norm, norm)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    sae.zero_grad(set_to_none=True)
    sae.dictionary.div_(sae.dictionary.norm(dim=1, keepdim=True))
