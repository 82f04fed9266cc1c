"""The bridge: what a classifier says of a patch, said in the space of texts. Needs no training."""

from __future__ import annotations

import torch
from torch import Tensor


def bridge(features: Tensor, weight: Tensor, bias: Tensor, class_texts: Tensor) -> Tensor:
    """Mean text vector of the classes that a patch may be of: softmax(fc(patch)) · T, temperature 1.

    Its length says how sure the classifier is: text vectors are centred, so that those of many classes cancel out.

    Args:
        features: (B, C, h, w) patch features of the classifier.
        weight, bias: (Q, C) and (Q,), the classifier.
        class_texts: (Q, D) text vectors of its classes, less their mean, not normalised.
    Returns:
        (B, D, h, w), in the type of ``features``.
    Source: convex combination of class embeddings, Norouzi et al., ICLR 2014 (ConSE, arXiv 1312.5650), here per patch
        and over all classes.
    """
    scores = torch.einsum("bchw,qc->bqhw", features, weight) + bias.view(-1, 1, 1)
    return torch.einsum("bqhw,qd->bdhw", scores.softmax(dim=1), class_texts)
