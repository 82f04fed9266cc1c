"""Which concepts matter most for a logit or for a later concept, and how few of them tell most of it."""

from __future__ import annotations

import torch
from torch import Tensor

from raytrain_xai.concepts.code import SparseCode


def strongest(contribution: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The concepts with the largest contributions, those that speak against it last.

    Args:
        contribution: (R, K) float, signed; exactly 0 for a concept that does not act, which is never chosen.
        count: at most as many per row.
    Returns:
        (R, n) int64 concepts, largest contribution first, with n <= ``count``; and (R, n) bool, False where fewer
        than n concepts contribute.
    """
    ranked = contribution.masked_fill(contribution == 0, -torch.inf).topk(min(count, contribution.shape[1]), dim=1)
    return ranked.indices, ranked.values > -torch.inf


def is_among(code: SparseCode, concepts: Tensor, is_meant: Tensor) -> Tensor:
    """Which places hold one of some concepts: code (R, P, k), concepts and is_meant (R, n) -> (R, P, k) bool.

    Args:
        concepts: int64, different ones in a row.
        is_meant: bool, entries of ``concepts`` that count.
    """
    wanted = torch.zeros(len(concepts), code.num_latents, dtype=torch.bool, device=concepts.device)
    wanted.scatter_(1, concepts, is_meant)
    return wanted.gather(1, code.indices.flatten(1)).view_as(code.indices)


def concepts_for_share(contribution: Tensor, share: float = 0.8) -> Tensor:
    """How many concepts, the strongest first, carry a share of the positive contribution.

    Args:
        contribution: (R, K) float, signed.
        share: in (0, 1].
    Returns:
        (R,) int64; 0 where nothing is positive.
    Source: Parchami-Araghi et al., NeurIPS 2025 (arXiv 2510.25512), with 80 %.
    """
    ordered = contribution.clamp(min=0).sort(dim=1, descending=True).values.double().cumsum(dim=1)
    total = ordered[:, -1:]
    return ((ordered < share * total).sum(dim=1) + 1) * (total.squeeze(1) > 0)
