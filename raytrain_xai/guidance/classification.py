"""Classification metrics from the scores of a whole split."""

from __future__ import annotations

import torch
from torch import Tensor

from raytrain_xai.ranking import average_precision

_CLASSES_AT_ONCE = 32  # a split of 50 000 images and 1000 classes would need gigabytes


def micro_scores(scores: Tensor, labels: Tensor) -> dict[str, float]:
    """Decisions at logit >= 0 (probability .5), pooled over all images and classes.

    Args:
        scores: (N, C) float logits.
        labels: (N, C) bool.
    Returns:
        f1 = 2TP / (2TP + FP + FN), precision, recall and accuracy (share of right decisions); a ratio without a
        denominator is 0.
    Source: Rao et al., ICCV 2023 (F1 is averaged over decisions, not classes).
    """
    predicted = scores >= 0
    true_positive = int((predicted & labels).sum())
    num_predicted, num_positive = int(predicted.sum()), int(labels.sum())
    return {
        "f1": _ratio(2 * true_positive, num_predicted + num_positive),
        "precision": _ratio(true_positive, num_predicted),
        "recall": _ratio(true_positive, num_positive),
        "accuracy": _ratio(int((predicted == labels).sum()), labels.numel()),
    }


def mean_average_precision(scores: Tensor, labels: Tensor) -> float | None:
    """Area under the precision-recall curve without interpolation, averaged over the classes that have positives.

    Args:
        scores: (N, C) float logits.
        labels: (N, C) bool.
    Returns:
        mAP in [0, 1], or None when no class has a positive.
    """
    classes = labels.any(dim=0).nonzero().flatten()
    if not len(classes):
        return None
    parts = classes.split(_CLASSES_AT_ONCE)
    return float(torch.cat([average_precision(scores[:, part], labels[:, part]) for part in parts]).mean())


def class_accuracy(scores: Tensor, labels: Tensor) -> float:
    """Share of images whose highest score is their class; (N, C) float and one-hot (N, C) bool."""
    return _ratio(int(_is_right(scores, labels).sum()), labels.shape[0])


def top_accuracy(scores: Tensor, labels: Tensor, k: int) -> float:
    """Share of images whose class is among the k <= C highest scores; shapes as :func:`class_accuracy`."""
    hit = labels.gather(1, scores.topk(k, dim=1).indices).any(dim=1)
    return _ratio(int(hit.sum()), labels.shape[0])


def group_accuracy(scores: Tensor, labels: Tensor, groups: Tensor, num_groups: int) -> list[float | None]:
    """Accuracy by highest score within each sub-population.

    Args:
        scores: (N, C) float.
        labels: (N, C) bool, one-hot.
        groups: (N,) int64 in [0, num_groups), or -1 for samples of unknown group, which are left out.
    Returns:
        One number per group, None for a group without samples.
    """
    known = groups >= 0
    count = torch.bincount(groups[known], minlength=num_groups).tolist()
    right = torch.bincount(groups[known & _is_right(scores, labels)], minlength=num_groups).tolist()
    return [hits / total if total else None for hits, total in zip(right, count, strict=True)]


def _is_right(scores: Tensor, labels: Tensor) -> Tensor:
    return scores.argmax(dim=1) == labels.long().argmax(dim=1)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else 0.0
