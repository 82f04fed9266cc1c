"""Loss of a Matryoshka autoencoder and its gradients, by explicit sparse formulas.

L = (1/G) Σ_j mean ‖x - x'_j‖² / mean ‖x - mean x‖² + aux_weight · revival, x'_j the reconstruction by the first j of G
groups. Both terms are shares of a variance, so that the weight, and the norm to which gradients are clipped, mean the
same whatever the length of the vectors. The published code neither divides by the variance nor by G once, but by G²
(a weight of 1/G, and a mean over prefixes); Adam does not see the factor, only the two relations do.

What is large here: the N x K products, as BatchTopK compares all of them, and the G errors of every vector, (N, G, D).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from raytrain_xai.concepts.entries import Entries, combine_entries, latent_sums
from raytrain_xai.concepts.matryoshka import MatryoshkaSae
from raytrain_xai.concepts.revive import revive_rows
from raytrain_xai.concepts.selection import batch_topk_entries, smallest_used
from raytrain_xai.concepts.step import SaeStep, StepSettings
from raytrain_xai.concepts.workers import ALONE, Workers

_MEDIAN_STEPS = 100  # of Weiszfeld, as in public code
_NEAREST = 1e-8  # distance, relative to the mean one, below which a vector weighs no more


@torch.no_grad()
def matryoshka_step(
    sae: MatryoshkaSae, x: Tensor, *, dead: Tensor | None, settings: StepSettings, workers: Workers = ALONE
) -> SaeStep:
    """Loss and gradients of a batch. No graph is kept; the threshold moves towards the smallest value used.

    The k·N largest products of the whole batch are kept, N its vectors over all workers, positive ones only. Gradients
    reach the encoder, its bias and, through x - b, the decoder's bias also from the revival of dead latents.

    Args:
        sae: parameters equal on every worker.
        x: (N, D) float, vectors of this worker as their encoder gives them; N is the same on all workers.
        dead: (M,) int64, latents that count as dead, equal on all workers; may be empty. None leaves revival out.
        settings: ``sparsity_weight`` has no meaning here.
        workers: those that share out the vectors.
    Returns:
        ``squared_error`` is that of the full reconstruction, ``loss`` is L times the number of vectors.
    Source: Bussmann et al. 2025, arXiv 2503.17547; revival of Gao et al. 2024, arXiv 2406.04093.
    """
    total = x.shape[0] * workers.world_size
    variance, length = _spread(x, workers)
    per_square = torch.where(variance > 0, 1 / (sae.num_groups * variance), 0)  # loss per unit of squared error
    entries = batch_topk_entries(sae, x, workers, ALONE)
    sae.follow(smallest_used(entries, workers, ALONE))
    errors, gradients = _prefixes(sae, x, entries, per_square)
    last, aux = errors[:, -1], torch.zeros_like(variance)
    if dead is not None and settings.aux_weight and len(dead):
        aux = _revive(sae, x, last, dead, gradients, settings=settings, workers=workers)
    gradients["decoder_bias"] -= gradients["encoder_bias"] @ sae.encoder  # x - b falls as b grows
    packed = torch.stack([errors.square().sum(), last.square().sum(), (last * x).sum()])
    all_squared, squared_error, product = workers.sum(packed).unbind()
    fired = workers.sum(entries.fired())
    sums = {
        "loss": (per_square * all_squared + settings.aux_weight * aux) * total, "squared_error": squared_error,
        "aux": aux * total, "sparsity": torch.zeros_like(aux), "active": fired.sum().to(x.dtype), "variance": variance,
        "vectors": torch.full_like(aux, total), "length": length, "rebuilt": squared_error + 2 * product + length,
    }  # fmt: skip
    return SaeStep({name: workers.sum(gradients[name]) for name, _ in sae.named_parameters()}, sums, fired)


@torch.no_grad()
def geometric_median(x: Tensor, workers: Workers = ALONE) -> Tensor:
    """The point with the smallest sum of distances to all vectors, by Weiszfeld's iteration from their mean.

    Where the decoder bias starts: outliers move it less than they move the mean.

    Args:
        x: (N, D) float, vectors of this worker.
        workers: those that hold other vectors.
    Returns:
        (D,), equal on all workers.
    """
    total = x.shape[0] * workers.world_size
    point = workers.sum(x.sum(dim=0)) / total
    mean_distance = workers.sum((x - point).norm(dim=1).sum()) / total
    if not mean_distance > 0:  # all vectors are one
        return point
    for _ in range(_MEDIAN_STEPS):
        weights = 1 / (x - point).norm(dim=1).clamp(min=float(_NEAREST * mean_distance))
        packed = workers.sum(torch.cat([weights @ x, weights.sum().view(1)]))
        point = packed[:-1] / packed[-1]
    return point


def _spread(x: Tensor, workers: Workers) -> tuple[Tensor, Tensor]:
    """Squared distances to the mean, and squared lengths, summed over the vectors of all workers."""
    total = x.shape[0] * workers.world_size
    packed = workers.sum(torch.cat([x.sum(dim=0), x.square().sum().view(1)]))
    length = packed[-1]
    return (length - packed[:-1].square().sum() / total).clamp(min=0), length


def _prefixes(sae: MatryoshkaSae, x: Tensor, entries: Entries, per_square: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Errors x'_j - x of the prefixes, (N, G, D), and the gradients of ``per_square`` times the sum of their squares.

    That of the decoder bias lacks what reaches it through the products.
    """
    by_group = _by_group(sae, entries)
    partial, pullback = combine_entries(by_group, sae.dictionary)
    errors = partial.view(x.shape[0], sae.num_groups, -1).cumsum(dim=1)
    errors += (sae.decoder_bias - x)[:, None]
    g = (2 * per_square) * errors.flip(1).cumsum(dim=1).flip(1)  # a group takes part in its own and all later prefixes
    at_groups = g.flatten(0, 1)
    of_values = pullback(at_groups) * (entries.values > 0)
    gradients = {
        "encoder": latent_sums(entries)(of_values, x - sae.decoder_bias),
        "dictionary": latent_sums(by_group)(entries.values, at_groups),
        "encoder_bias": torch.zeros_like(sae.encoder_bias).index_add_(0, entries.latents, of_values),
        "decoder_bias": g[:, 0].sum(dim=0),  # where the first group is, all prefixes are
    }
    return errors, gradients


def _by_group(sae: MatryoshkaSae, entries: Entries) -> Entries:
    """The same entries with a row of its own for each group of a vector: row · G + group, still ascending."""
    rows = entries.rows * sae.num_groups + sae.groups_of(entries.latents)
    return replace(entries, rows=rows, num_rows=entries.num_rows * sae.num_groups)


def _revive(
    sae: MatryoshkaSae, x: Tensor, error: Tensor, dead: Tensor, gradients: dict[str, Tensor], *,
    settings: StepSettings, workers: Workers,
) -> Tensor:  # fmt: skip
    """Add the gradients of the revival to those of encoder, dictionary and encoder bias; returns its loss ()."""
    encoder = torch.cat([sae.encoder[dead], sae.encoder_bias[dead, None]], dim=1)
    seen = torch.cat([x - sae.decoder_bias, x.new_ones(x.shape[0], 1)], dim=1)
    revival = revive_rows(
        encoder, sae.dictionary[dead], seen, error, settings.aux_latents,
        rows_at_once=sae.rows_at_once, workers=workers, shards=ALONE,
    )  # fmt: skip
    for name, gradient in (
        ("encoder", revival.encoder[:, :-1]),
        ("encoder_bias", revival.encoder[:, -1]),
        ("dictionary", revival.dictionary),
    ):
        gradients[name].index_add_(0, dead, gradient, alpha=settings.aux_weight)
    return revival.loss
