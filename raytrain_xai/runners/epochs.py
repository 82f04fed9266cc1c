"""The loop over epochs that every kind of run shares: steps, log, evaluations and checkpoints, in this order.

Resuming is bitwise because nothing random has a state: whatever a step draws is a function of (seed, epoch, step).
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, NoReturn, Protocol, TypeVar

from raytrain_xai.config import AnyRunConfig
from raytrain_xai.errors import RelocatedError, StoppedError, XaiError
from raytrain_xai.run_folder import METRICS, Attempt, run_location, write_json
from raytrain_xai.runners.collective import broadcast_json
from raytrain_xai.runners.history import Evaluated, Position
from raytrain_xai.runners.stop import Listener
from raytrain_xai.runners.tracking import Tracker, storing
from raytrain_xai.runners.worker import Halt, Worker

T = TypeVar("T")


class Learner(Protocol[T]):
    """What one kind of run brings to the loop, on one worker. All methods are collectives."""

    @property
    def worker(self) -> Worker: ...

    @property
    def config(self) -> AnyRunConfig: ...

    @property
    def steps_per_epoch(self) -> int: ...

    def epoch(self, epoch: int, start_step: int) -> Iterable[T]:
        """The steps of an epoch, from one on: what each of them learns from."""
        ...

    def step(self, item: T, position: Position, attempt: Attempt | None) -> None:
        """One update. ``attempt`` is that of worker 0, None on the others.

        Raises:
            RunError: a number is not finite; nothing was updated.
        """
        ...

    def read(self, position: Position) -> dict[str, float]:
        """What to log of the steps since the last reading; the only place where the host waits for their numbers."""
        ...

    def measure(self) -> dict[str, float]:
        """Metrics of the validation split."""
        ...

    def is_over(self, history: Sequence[Evaluated]) -> bool:
        """Whether to stop before the last epoch."""
        ...

    def save(self, tracker: Tracker | None, position: Position) -> None:
        """Write a checkpoint and delete those it supersedes; worker 0 has a tracker and writes."""
        ...


def train_epochs(learner: Learner[Any], tracker: Tracker | None, position: Position) -> Position:
    """Train from ``position`` to the end of the last epoch; returns the position there. A collective.

    Raises:
        StoppedError, RelocatedError: the workers were asked to leave, and did at a checkpoint.
    """
    config, listener = learner.config, Listener(learner.worker, position.step)
    while position.epoch < config.epochs and not learner.is_over(position.history):
        position = _epoch(learner, tracker, position, listener).after_epoch()
        is_evaluated = position.epoch % config.evaluation.every_epochs == 0 or position.epoch == config.epochs
        if is_evaluated:
            position = _evaluate(learner, tracker, position)
        _save(learner, tracker, position)
        if is_evaluated:  # after saving: whoever is told of an evaluation may end the process, or branch from there
            learner.worker.report({**position.history[-1].val, "epoch": position.epoch, "step": position.step})
        halt = listener.asked(position.step, now=True)  # an evaluation may take long
        if halt is not None:
            _leave(learner, tracker, position, halt)
    return position


@contextmanager
def tracked(tracker: Tracker | None) -> Generator[None]:
    """Ends the records of a run with FINISHED, KILLED when it was asked to stop, or FAILED when the block raises."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except StoppedError:
        status = "KILLED"  # as MLflow calls it
        raise
    finally:
        if tracker is not None:
            # what ended the run is what its owner should read, not that a full disk takes no last line either
            with nullcontext() if status == "FINISHED" else suppress(XaiError):
                tracker.close(status)


def conclude(tracker: Tracker | None, metrics: dict[str, Any]) -> dict[str, Any]:
    """Write ``metrics.json``, with which a run is finished.

    Raises:
        RunError: a newer attempt owns the run, or it cannot be written.
    """
    if tracker is not None:
        tracker.attempt.check()
        with storing(tracker.attempt.run):
            write_json(tracker.attempt.run.child(METRICS), metrics)
    return metrics


def _epoch(learner: Learner[Any], tracker: Tracker | None, position: Position, listener: Listener) -> Position:
    """The rest of the epoch at ``position``; returns the position after its last step."""
    config = learner.config
    for item in learner.epoch(position.epoch, position.step_in_epoch):
        learner.step(item, position, tracker.attempt if tracker else None)
        position = position.after_step()
        is_last = position.step_in_epoch == learner.steps_per_epoch
        if position.step % config.tracking.log_every_steps == 0 or is_last:
            values = learner.read(position)
            if tracker is not None:
                tracker.add("step", position.step, position.epoch, values)
        every = config.checkpoint.every_steps
        saves = every is not None and position.step % every == 0 and not is_last
        halt = listener.asked(position.step)
        if saves or halt is not None:
            _save(learner, tracker, position)
        if halt is not None:
            _leave(learner, tracker, position, halt)
    return position


def _save(learner: Learner[Any], tracker: Tracker | None, position: Position) -> None:
    """Write a checkpoint; see :meth:`Learner.save`. What else the learner keeps beside it fails in the same words."""
    with storing(run_location(learner.config)):
        learner.save(tracker, position)


def _leave(learner: Learner[Any], tracker: Tracker | None, position: Position, halt: Halt) -> NoReturn:
    """Go, now that worker 0 has written a checkpoint at ``position``. A collective."""
    run, at = run_location(learner.config).uri, f"{halt.reason}; checkpoint written at step {position.step}"
    if tracker is not None:
        tracker.event(position, {"stop": "stopped", "preemption": "preempted", "resize": "resizing"}[halt.kind], at)
        tracker.flush()
    broadcast_json(None, learner.worker.device)  # whoever leaves first ends the others, and so the writing
    if halt.kind == "stop":
        raise StoppedError(f"stopped by {at}; continue with `raytrain-xai resume {run}`", halt.exit_code)
    raise RelocatedError(at)


def _evaluate(learner: Learner[Any], tracker: Tracker | None, position: Position) -> Position:
    """Measure the validation split; every worker continues with the numbers of worker 0."""
    val: dict[str, float] = broadcast_json(learner.measure(), learner.worker.device)
    position = position.evaluated(val)
    if tracker is not None:
        tracker.add("epoch", position.step, position.epoch, {"val": val})
    return position
