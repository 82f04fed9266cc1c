"""Measures of how important each concept of an image is for a logit, compared by deleting concepts in their order."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from raytrain_xai.concepts.code import SparseCode, sum_per_latent
from raytrain_xai.concepts.intervene import intervene, logits_of_code
from raytrain_xai.concepts.trace import ConceptPass, activations, contributions
from raytrain_xai.models.network import Network

MEASURES = ("contribution", "saliency", "random", "sobol")


def importance(
    measure: str, network: Network, passed: ConceptPass, tap: str, target: Tensor, *, seed: int = 0, designs: int = 4
) -> Tensor:
    """Importance of every concept for one logit per image by one of ``MEASURES``.

    contribution: (d logit / d u) · u in the linear map of the image, summed over positions (Parchami-Araghi et al.,
    NeurIPS 2025); saliency: the ordinary gradient of the logit with respect to the concept's values, summed over the
    positions where it is active; sobol: :func:`sobol_total`; random: uniform.

    Args:
        network, passed, tap: as made by :func:`~raytrain_xai.concepts.trace.concept_pass`.
        target: (B,) int64.
        seed: of random and sobol.
        designs: of sobol.
    Returns:
        (B, K) float; concepts that are not active in an image have the lowest value of their row, minus infinity.
    """
    code = passed.at(tap).code
    match measure:
        case "contribution":
            values = contributions(passed, tap, target)
        case "saliency":
            values = _saliency(network, passed, tap, target)
        case "random":
            generator = torch.Generator().manual_seed(seed)
            values = torch.rand(len(target), code.num_latents, generator=generator).to(target.device)
        case "sobol":
            values = sobol_total(network, passed, tap, target, designs=designs, seed=seed)
        case _:
            raise ValueError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
    return values.masked_fill(activations(code) <= 0, -torch.inf)


def _saliency(network: Network, passed: ConceptPass, tap: str, target: Tensor) -> Tensor:
    code = passed.at(tap).code
    with torch.enable_grad():
        values = code.values.detach().requires_grad_()
        logits = logits_of_code(network, passed, tap, SparseCode(values, code.indices, code.num_latents))
        (gradient,) = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), values)
    return sum_per_latent(gradient * (code.values > 0), code.indices, code.num_latents)


def sobol_total(
    network: Network, passed: ConceptPass, tap: str, target: Tensor, *, designs: int = 4, seed: int = 0,
    rows_at_once: int = 64,
) -> Tensor:  # fmt: skip
    """Total Sobol indices of the active concepts: the share of the logit's variance that a concept takes part in.

    Concepts are multiplied by independent factors, uniform in [0, 1]. With two quasi-random designs A and B of n rows,
    T_i = mean over rows of (f(A) - f(A with column i of B))² / (2 · var f). Costs n · (active concepts + 1) runs of the
    network above the layer for an image, so it is a study, not a service.

    Args:
        designs: n.
        seed: of the scrambling.
        rows_at_once: interventions that run together.
    Returns:
        (B, K) float >= 0, 0 for concepts that are not active.
    Source: Jansen, Computer Physics Communications 117 (1999), for total indices; used on concepts as in Fel et al.,
        NeurIPS 2021 (arXiv 2111.04138).
    """
    active = activations(passed.at(tap).code) > 0
    total = torch.zeros_like(active, dtype=passed.logits.dtype)
    for row in range(len(target)):
        concepts = active[row].nonzero().squeeze(1)
        draws = SobolEngine(2 * len(concepts), scramble=True, seed=seed).draw(designs).to(total)
        first, second = draws.chunk(2, dim=1)
        mixed = first[:, None].repeat(1, len(concepts), 1)  # (n, i, :) is A with column i of B
        mixed.diagonal(dim1=1, dim2=2).copy_(second)
        masks = torch.cat([first, mixed.flatten(0, 1)])
        answers = torch.cat([
            _masked_logit(network, passed, tap, part, concepts, row, int(target[row]))
            for part in masks.split(rows_at_once)
        ])  # fmt: skip
        base, changed = answers[:designs], answers[designs:].view(designs, -1)
        variance = answers.var().clamp_min(torch.finfo(answers.dtype).tiny)
        total[row, concepts] = (base[:, None] - changed).square().mean(0) / (2 * variance)
    return total


def _masked_logit(
    network: Network, passed: ConceptPass, tap: str, masks: Tensor, concepts: Tensor, row: int, target: int
) -> Tensor:
    """One logit of one image under masks (n, active concepts) -> (n,)."""
    factors = masks.new_ones(len(masks), passed.at(tap).code.num_latents)
    factors[:, concepts] = masks
    rows = torch.full((len(masks),), row, device=masks.device)
    return intervene(network, passed, tap, factors, rows)[:, target]
