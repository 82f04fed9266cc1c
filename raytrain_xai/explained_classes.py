"""Which classes of which images are explained: the ones asked for and the ones the network answers with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.models.network import Network


def chosen_pairs(logits: Tensor, wanted: Sequence[int], top: int) -> tuple[Tensor, Tensor]:
    """The (image, class) pairs to explain, image by image.

    Args:
        logits: (B, C).
        wanted: classes of every image.
        top: besides, the classes with the largest logits of each image; 0 for none.
    Returns:
        rows (R,) and target (R,), int64.
    Raises:
        ConfigError: nothing to explain.
    """
    if not wanted and top < 1:
        raise ConfigError("nothing to explain; name classes or ask for the top 1 or more")
    chosen = torch.zeros_like(logits, dtype=torch.bool)
    chosen[:, list(wanted)] = True
    chosen.scatter_(1, logits.topk(min(top, logits.shape[1])).indices, value=True)
    rows, target = chosen.nonzero(as_tuple=True)
    return rows, target


def require_finite(network: Network, logits: Tensor) -> None:
    """Refuse to explain what is no answer.

    Raises:
        CheckpointError: a logit is infinite or not a number.
    """
    if not bool(logits.isfinite().all()):
        raise CheckpointError(f"{network.name} answers with non-finite logits; its weights are broken")
