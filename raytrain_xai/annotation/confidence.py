"""Images whose classes the network is least sure of."""

from __future__ import annotations

import torch
from torch import Tensor


def lack_of_confidence(logits: Tensor, rows: Tensor, target: Tensor, *, exclusive: bool) -> Tensor:
    """Probability that the network does not give to a class which the image shows.

    Least-confidence sampling asks for the probability of the *predicted* class. Here the classes of training images are
    known and only their places are asked for, so that the known class is what confidence is measured on.

    Args:
        logits: (B, C) float.
        rows, target: (R,) int64, images and one of the classes of each.
        exclusive: softmax over the classes instead of a sigmoid for each.
    Returns:
        (R,) float64 in [0, 1]; exact near 0, where ``1 - p`` would be rounded to equal numbers.
    Source: least confidence as in Lewis and Gale, SIGIR 1994, with the change above.
    """
    wide = logits.double()
    if exclusive:
        return -torch.special.expm1(wide.log_softmax(dim=1)[rows, target])
    return (-wide[rows, target]).sigmoid()
