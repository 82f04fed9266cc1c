"""What a worker reads of a stored data set in training, as a multiple of its share: row groups, counted, not timed."""

from __future__ import annotations

from collections import OrderedDict
from statistics import mean

import numpy as np

from bench.timing import Options, Result
from raytrain_xai.data.parquet import ROW_GROUP_ROWS
from raytrain_xai.data.sampling import TrainingPlan, WorkerPlan, epoch_order, training_plan

SHARD_ROWS, WINDOWS = 512, 3
CASES = ((2, 64, 4096), (8, 512, 4096), (64, 4096, 16384), (1024, 65536, 65536))  # workers, batch, window


def run(options: Options) -> list[Result]:  # noqa: ARG001 - nothing is timed
    """One line per number of workers: reads, against dealing samples out at random."""
    return [_measure(*case) for case in CASES]


def _measure(workers: int, batch: int, window: int) -> Result:
    ranks = sorted({0, workers // 3, workers // 2, workers - 1})
    reads: dict[bool, float] = {}
    for nearby in (False, True):
        order = epoch_order((SHARD_ROWS,) * (WINDOWS * window // SHARD_ROWS), window, 0, 0)
        annotated = np.arange(len(order)) % 3 == 0
        plan = training_plan(order, annotated, batch_size=batch, parts=workers, epoch=0, nearby=nearby)
        share = len(plan) * batch / workers / ROW_GROUP_ROWS
        reads[nearby] = mean(_num_reads(plan, rank, window) / share for rank in ranks)
    return Result(
        bench="read_share", case=f"{workers} workers, batch {batch}, window {window}", value=reads[True],
        measure="its share", target=3.0, is_minimum=False, error=0.0, tolerance=0.0,
        detail=f"dealt out at random {reads[False]:.1f}x",
    )  # fmt: skip


def _num_reads(plan: TrainingPlan, rank: int, window: int) -> int:
    """Row groups that are read when those of a window are kept, as training keeps them."""
    kept: OrderedDict[int, None] = OrderedDict()
    num_reads = 0
    for batch in WorkerPlan(plan, 0, rank, plan.parts):
        for group in (batch.indices // ROW_GROUP_ROWS).tolist():
            num_reads += group not in kept
            kept[group] = None
            kept.move_to_end(group)
            while len(kept) > window // ROW_GROUP_ROWS + 2:
                kept.popitem(last=False)
    return num_reads
