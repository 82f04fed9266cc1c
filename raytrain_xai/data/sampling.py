"""Who sees which sample when: the order of an epoch and its division over workers and accumulated parts.

Everything is computed from (seed, epoch, shard sizes, window) alone, by every worker for itself: no communication, and
a run may be resumed at any step, with any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from raytrain_xai.errors import DataError

_ORDER = 1  # tags of random streams
_REPEATS = 3


@dataclass(frozen=True)
class BatchPlan:
    """One batch of one worker.

    Attributes:
        indices: (B,) int64 rows of the split.
        annotated_rows: (A,) int64 positions in ``indices`` that belong to the annotation budget, ascending.
        step_size: samples of the optimiser step, over all workers and parts.
        step_annotated: annotated samples of the optimiser step.
        epoch: for the augmentation; None without.
        repetition: (B,) int64, which time the row is drawn in this epoch; None where every row is drawn once.
    """

    indices: np.ndarray
    annotated_rows: np.ndarray
    step_size: int
    step_annotated: int
    epoch: int | None
    repetition: np.ndarray | None = None


def epoch_order(
    shard_rows: Sequence[int], window: int, seed: int, epoch: int, rows: np.ndarray | None = None
) -> np.ndarray:
    """Random order of the rows of a split that reads shards mostly in sequence.

    Shards are shuffled and laid end to end; then rows are shuffled within consecutive windows. With a window of the
    size of the split this is a uniform shuffle.

    Args:
        shard_rows: rows of each shard, in stored order.
        window: rows shuffled together.
        rows: (n,) int64, the rows to be read, ascending; None: all.
    Returns:
        (n,) int64, a permutation of them.
    """
    generator = np.random.default_rng([seed, epoch, _ORDER])
    bounds = np.cumsum([0, *shard_rows])
    cuts: list[int] = (bounds if rows is None else np.searchsorted(rows, bounds)).tolist()
    order = np.empty(cuts[-1], dtype=np.int64)
    end = 0
    for shard in generator.permutation(len(shard_rows)):
        first, last = cuts[shard], cuts[shard + 1]
        start, end = end, end + last - first
        order[start:end] = np.arange(first, last) if rows is None else rows[first:last]
    for start in range(0, len(order), window):
        order[start : start + window] = generator.permutation(order[start : start + window])
    return order


def repeated(order: np.ndarray, repeats: int, batch_size: int, seed: int, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Repeated augmentation: the first rows of an order, each several times in one step, in an epoch of equal length.

    Args:
        order: (n,) rows in the order of the epoch.
        repeats: how often a row is drawn; the n / repeats first rows are.
        batch_size: samples of a step, among which the copies are spread at random.
    Returns:
        (n,) rows and (n,) which time each is drawn, from 0.
    Source: Hoffer et al., CVPR 2020, in the form of torchvision's recipes.
    """
    generator = np.random.default_rng([seed, epoch, _REPEATS])
    place = np.arange(len(order))
    for start in range(0, len(order), batch_size):
        place[start : start + batch_size] = generator.permutation(place[start : start + batch_size])
    return order[place // repeats], place % repeats


@dataclass(frozen=True)
class TrainingPlan:
    """The optimiser steps of an epoch; ``plan[step][part]`` is a batch, made when it is asked for.

    Attributes: as the arguments of :func:`training_plan`.
    """

    order: np.ndarray
    annotated: np.ndarray
    batch_size: int
    parts: int
    epoch: int
    repetition: np.ndarray | None
    paired: bool
    nearby: bool

    def __len__(self) -> int:
        return len(self.order) // self.batch_size

    def __getitem__(self, step: int) -> list[BatchPlan]:
        return self.batches(step, range(self.parts))

    def batches(self, step: int, parts: Iterable[int]) -> list[BatchPlan]:
        """Some parts of a step."""
        if not 0 <= step < len(self):
            raise IndexError(step)
        own = slice(step * self.batch_size, (step + 1) * self.batch_size)
        members = self.order[own]
        times = None if self.repetition is None else self.repetition[own]
        is_annotated = self.annotated[members]
        dealt = self._deal(members, is_annotated)
        return [
            BatchPlan(
                indices=members[rows],
                annotated_rows=np.flatnonzero(is_annotated[rows]),
                step_size=self.batch_size,
                step_annotated=int(is_annotated.sum()),
                epoch=self.epoch,
                repetition=None if times is None else times[rows],
            )
            for rows in (dealt[part] for part in parts)
        ]

    def _deal(self, members: np.ndarray, is_annotated: np.ndarray) -> list[np.ndarray]:
        """Positions in a step of the samples of each part."""
        if self.paired:
            pairs = np.arange(len(members)).reshape(-1, 2)
            return [pairs[part :: self.parts].ravel() for part in range(self.parts)]
        if not self.nearby or self.parts == 1:
            dealt = np.argsort(~is_annotated, kind="stable")
            return [dealt[part :: self.parts] for part in range(self.parts)]
        dealt = np.lexsort((members, ~is_annotated))
        num_annotated, own = int(is_annotated.sum()), np.arange(self.parts + 1)
        # as many annotated ones as dealing one by one would give, and of all as many as each part has
        annotated = np.minimum(own, num_annotated % self.parts) + num_annotated // self.parts * own
        all_of_them = np.minimum(own, len(members) % self.parts) + len(members) // self.parts * own
        others = num_annotated + all_of_them - annotated
        return [
            np.concatenate([dealt[annotated[p] : annotated[p + 1]], dealt[others[p] : others[p + 1]]])
            for p in range(self.parts)
        ]


@dataclass(frozen=True)
class WorkerPlan:
    """The batches of one worker from a step on, in order; nothing is held of those to come.

    Attributes:
        plan: of all workers.
        first_step: where it begins.
        rank, world_size: this worker and the number of workers.
    """

    plan: TrainingPlan
    first_step: int
    rank: int
    world_size: int

    def __len__(self) -> int:
        return max(0, len(self.plan) - self.first_step) * (self.plan.parts // self.world_size)

    def __iter__(self) -> Iterator[BatchPlan]:
        for step in range(self.first_step, len(self.plan)):
            yield from self.plan.batches(step, range(self.rank, self.plan.parts, self.world_size))


def training_plan(
    order: np.ndarray, annotated: np.ndarray, *, batch_size: int, parts: int, epoch: int,
    repetition: np.ndarray | None = None, paired: bool = False, nearby: bool = False,
) -> TrainingPlan:  # fmt: skip
    """Divide an epoch into optimiser steps of ``parts`` batches, equal where ``parts`` divides the step.

    Samples are dealt out, the annotated ones of a step first, so that parts differ by one at most in both: guidance
    costs time, and workers wait for each other. A last incomplete step is dropped.

    Args:
        order: (n,) rows in the order of the epoch.
        annotated: (n,) bool by row.
        batch_size: samples of a step; ``parts`` or more.
        parts: workers times accumulated parts.
        repetition: (n,) see :func:`repeated`.
        paired: rows are dealt out two by two, annotated or not: whatever the parts, rows 2i and 2i + 1 of a batch are
            the same two samples.
        nearby: a part takes samples that are stored near to each other, so that each worker reads about its share of
            the files and not nearly all of them; which samples a step has stays the same. Without, or ``paired``, the
            samples of a part are drawn from the whole step.
    Returns:
        plan[b][p]: the batch of part p. Part a * workers + r is the a-th of worker r.
    Raises:
        DataError: not even one step.
    """
    if len(order) < batch_size:
        raise DataError(f"{len(order)} training samples are less than one batch of {batch_size}; lower batch_size")
    return TrainingPlan(order, annotated, batch_size, parts, epoch, repetition, paired, nearby)


def evaluation_plan(
    n: int, batch_size: int, *, rank: int, world_size: int, max_images: int | None = None
) -> list[BatchPlan]:
    """Batches of one worker that sees every row of its contiguous share once, in stored order; all are annotated.

    Shares differ by one row at most and may be empty; the last batch may be smaller. Of more than ``max_images`` rows
    so many are taken, at even distances: stored order may be that of the classes.
    """
    count = n if max_images is None else min(n, max_images)
    rows = np.arange(count, dtype=np.int64) * n // max(count, 1)
    own = rows[count * rank // world_size : count * (rank + 1) // world_size]
    return [full_plan(own[first : first + batch_size]) for first in range(0, len(own), batch_size)]


def full_plan(indices: np.ndarray) -> BatchPlan:
    """A batch of the given rows without augmentation, all of them annotated."""
    size = len(indices)
    return BatchPlan(indices, np.arange(size), step_size=size, step_annotated=size, epoch=None)
