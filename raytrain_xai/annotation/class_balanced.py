"""Images of all classes in equal numbers."""

from __future__ import annotations

import numpy as np

from raytrain_xai.data.dataset import Annotations


def class_balanced(annotations: Annotations, num_classes: int, order: np.ndarray, covered: np.ndarray) -> np.ndarray:
    """Take turns among the classes: each image is the next one of the class with the fewest images so far.

    An image with several labels counts for each of them. A class without further images is passed over, so that at the
    end only frequent classes are left.

    Args:
        annotations: of a split of n images.
        num_classes: C.
        order: (n,) int64, a permutation of the rows: which image of a class comes first.
        covered: (M,) int64 rows that are annotated already; they count and are not taken.
    Returns:
        (n - M,) int64 rows, the lower class first among equals; images without a label come last.
    """
    labels = np.split(annotations.labels, annotations.label_offsets[1:-1])
    queues: list[list[int]] = [[] for _ in range(num_classes)]
    for row in order[::-1].tolist():  # from the back, so that pop() gives the first
        for label in labels[row]:
            queues[label].append(row)
    is_taken = np.zeros(len(order), dtype=bool)
    is_taken[covered] = True
    counts = np.bincount([label for row in covered for label in labels[row]], minlength=num_classes).astype(np.float64)
    taken: list[int] = []
    while np.isfinite(counts[label := int(counts.argmin())]):
        if not queues[label]:
            counts[label] = np.inf  # nothing is left of it
            continue
        row = queues[label].pop()
        if not is_taken[row]:
            is_taken[row] = True
            counts[labels[row]] += 1
            taken.append(row)
    return np.concatenate([np.array(taken, dtype=np.int64), order[~is_taken[order]]])
