"""Taking a run up where its newest checkpoint left it, and writing checkpoints: the same for every kind of run."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass

from raytrain_xai.checkpoint import (
    Checkpoint,
    checkpoint_name,
    complete_steps,
    delete_checkpoint,
    read_checkpoint,
    read_newest,
    superseded,
    sweep,
    write_checkpoint,
)
from raytrain_xai.config import AnyRunConfig
from raytrain_xai.errors import DataError
from raytrain_xai.run_folder import CHECKPOINTS, Attempt, claim_attempt, last_claim, run_location
from raytrain_xai.runners.collective import broadcast_json
from raytrain_xai.runners.history import Position
from raytrain_xai.runners.tracking import Tracker
from raytrain_xai.runners.worker import Worker


@dataclass(frozen=True)
class Claimed:
    """A run that this group of workers may write into.

    Attributes:
        attempt: on worker 0, None on the others.
        checkpoint: to continue from, the same on every worker; None at the start.
        problems: one line per newer checkpoint that is damaged.
        swept: names of unusable checkpoints that were deleted.
        workers_before: of the attempt before this one, on worker 0; None without.
    """

    attempt: Attempt | None
    checkpoint: Checkpoint | None
    problems: list[str]
    swept: list[str]
    workers_before: int | None = None


def claim(config: AnyRunConfig, worker: Worker) -> Claimed:
    """Become the newest attempt and read the newest usable checkpoint. A collective.

    Raises:
        RunError: another attempt claimed the run at the same time.
        CheckpointError: complete checkpoints exist but none is usable.
    """
    run = run_location(config)
    folder = run.child(CHECKPOINTS)
    attempt, checkpoint, problems, swept, before = None, None, [], [], None
    if worker.rank == 0:
        before = last_claim(run)
        attempt = claim_attempt(run, workers=worker.world_size)
        checkpoint, problems = read_newest(folder)
        swept = sweep(folder, checkpoint.step if checkpoint else None)
    step = broadcast_json(checkpoint.step if checkpoint else None, worker.device)
    if step is not None and checkpoint is None:
        checkpoint = read_checkpoint(folder.child(checkpoint_name(step)))
    return Claimed(attempt, checkpoint, problems, swept, (before or {}).get("workers"))


def track(claimed: Claimed, config: AnyRunConfig, worker: Worker, position: Position) -> Tracker | None:
    """The tracker of worker 0, told what was found; None on the others."""
    if claimed.attempt is None:
        return None
    mlflow_id = claimed.checkpoint.state["mlflow_id"] if claimed.checkpoint else None
    tracker = Tracker.start(claimed.attempt, config, worker.publish, step=position.step, mlflow_id=mlflow_id)
    for problem in claimed.problems:
        tracker.event(position, "fallback", f"{problem}; resumed from step {position.step}")
    if claimed.swept:
        tracker.event(position, "swept", f"deleted unusable checkpoints: {', '.join(claimed.swept)}")
    if claimed.workers_before not in (None, worker.world_size):
        tracker.event(position, "resized", f"{claimed.workers_before} -> {worker.world_size} worker(s)")
    return tracker


def commit(tracker: Tracker, content: Checkpoint) -> None:
    """Write a checkpoint into the run of a tracker.

    Raises:
        RunError: a newer attempt owns the run.
        DataError: the checkpoint cannot be written; those before it are as they were.
    """
    tracker.flush()  # the log never lags behind a checkpoint that continues it
    folder = tracker.attempt.run.child(CHECKPOINTS)
    try:
        write_checkpoint(folder, content, tracker.attempt.check)
    except DataError:
        if folder.is_local:  # a full disk: nobody can use a part, and the last lines of the log need its room
            with suppress(DataError):
                tracker.attempt.check()
                delete_checkpoint(folder.child(checkpoint_name(content.step)))
        raise


def prune(tracker: Tracker, step: int, keep: int, protected: Collection[int]) -> None:
    """Delete the checkpoints up to ``step`` that are superseded: all but the newest ``keep`` and the protected ones."""
    folder = tracker.attempt.run.child(CHECKPOINTS)
    steps = [done for done in complete_steps(folder) if done <= step]
    for old in superseded(steps, keep, protected):
        delete_checkpoint(folder.child(checkpoint_name(old)))
