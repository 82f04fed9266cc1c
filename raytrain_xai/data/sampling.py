"""Who sees which sample when: the order of an epoch and its division over workers and accumulated parts.

Everything is computed from (seed, epoch, shard sizes, window) alone, by every worker for itself: no communication, and
a run may be resumed at any step, with any number of workers whose parts divide the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raytrain_xai.errors import DataError

_ORDER = 1  # tag of this random stream


@dataclass(frozen=True)
class BatchPlan:
    """One batch of one worker.

    Attributes:
        indices: (B,) int64 rows of the split.
        annotated_rows: (A,) int64 positions in ``indices`` that belong to the annotation budget, ascending.
        step_size: samples of the optimiser step, over all workers and parts.
        step_annotated: annotated samples of the optimiser step.
        epoch: for the augmentation; None without.
    """

    indices: np.ndarray
    annotated_rows: np.ndarray
    step_size: int
    step_annotated: int
    epoch: int | None


def epoch_order(shard_rows: Sequence[int], window: int, seed: int, epoch: int) -> np.ndarray:
    """Random order of all rows of a split that reads shards mostly in sequence.

    Shards are shuffled and laid end to end; then rows are shuffled within consecutive windows. With a window of the
    size of the split this is a uniform shuffle.

    Args:
        shard_rows: rows of each shard, in stored order.
        window: rows shuffled together.
    Returns:
        (n,) int64, a permutation.
    """
    generator = np.random.default_rng([seed, epoch, _ORDER])
    shards = np.split(np.arange(sum(shard_rows), dtype=np.int64), np.cumsum(shard_rows)[:-1])
    order = np.concatenate([shards[shard] for shard in generator.permutation(len(shards))])
    for start in range(0, len(order), window):
        order[start : start + window] = generator.permutation(order[start : start + window])
    return order


def training_plan(
    order: np.ndarray, annotated: np.ndarray, *, batch_size: int, parts: int, epoch: int
) -> list[list[BatchPlan]]:
    """Divide an epoch into optimiser steps of ``parts`` equal batches.

    The annotated samples of a step are dealt out first, so that parts differ by one at most: guidance costs time, and
    workers wait for each other. A last incomplete step is dropped.

    Args:
        order: (n,) rows in the order of the epoch.
        annotated: (n,) bool by row.
        batch_size: samples of a step; a multiple of ``parts``.
        parts: workers times accumulated parts.
    Returns:
        steps[b][p]: the batch of part p. Part a * workers + r is the a-th of worker r.
    Raises:
        DataError: not even one step.
    """
    if len(order) < batch_size:
        raise DataError(f"{len(order)} training samples are less than one batch of {batch_size}; lower batch_size")
    steps: list[list[BatchPlan]] = []
    for start in range(0, len(order) - batch_size + 1, batch_size):
        members = order[start : start + batch_size]
        is_annotated = annotated[members]
        dealt = members[np.argsort(~is_annotated, kind="stable")]
        num_annotated = int(is_annotated.sum())
        steps.append(
            [
                BatchPlan(
                    indices=dealt[part::parts].copy(),
                    annotated_rows=np.flatnonzero(annotated[dealt[part::parts]]),
                    step_size=batch_size,
                    step_annotated=num_annotated,
                    epoch=epoch,
                )
                for part in range(parts)
            ]
        )
    return steps


def evaluation_plan(n: int, batch_size: int, *, rank: int, world_size: int) -> list[BatchPlan]:
    """Batches of one worker that sees every row of its contiguous share once, in stored order; all are annotated.

    Shares differ by one row at most and may be empty; the last batch may be smaller.
    """
    start, stop = n * rank // world_size, n * (rank + 1) // world_size
    return [
        full_plan(np.arange(first, min(first + batch_size, stop), dtype=np.int64))
        for first in range(start, stop, batch_size)
    ]


def full_plan(indices: np.ndarray) -> BatchPlan:
    """A batch of the given rows without augmentation, all of them annotated."""
    size = len(indices)
    return BatchPlan(indices, np.arange(size), step_size=size, step_annotated=size, epoch=None)
