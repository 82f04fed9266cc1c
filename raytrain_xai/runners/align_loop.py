"""Training of an encoder on one worker: plain PyTorch, the same in the calling process and in a Ray worker.

The images of a step are a function of (seed, step), and every image belongs to one worker: runs with any number of
workers take the same steps, and a resumed run ends with the bits of one that was never interrupted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from raytrain_xai.align.schedule import one_cycle
from raytrain_xai.align.step import PARTS, LabelledPatches, align_step
from raytrain_xai.align_config import AlignRunConfig
from raytrain_xai.errors import RunError
from raytrain_xai.run_folder import Attempt
from raytrain_xai.runners.align_session import (
    AlignSession,
    build_align_session,
    choose,
    load_step,
    measure_align,
    restore_align,
    save_align,
)
from raytrain_xai.runners.collective import all_true, broadcast_json, joined_workers
from raytrain_xai.runners.epochs import conclude, tracked, train_epochs
from raytrain_xai.runners.history import Evaluated, Position
from raytrain_xai.runners.pace import Pace
from raytrain_xai.runners.tracking import Tracker
from raytrain_xai.runners.worker import Worker


def train_align(worker: Worker, config: AlignRunConfig) -> dict[str, Any]:
    """Train from the newest checkpoint (or from the start) to the end, and measure the selected checkpoint.

    A collective: all workers call it with equal ``config``.

    Returns:
        Content of ``metrics.json``: ``val`` and ``test``, see :func:`measure_align`, and ``selected``.
    Raises:
        RunError: a non-finite loss or gradient, or a newer attempt took over the run.
        DataError, CheckpointError: the storage holds something unusable.
    """
    session = build_align_session(worker, config)
    position, tracker = restore_align(session)
    num_steps = config.epochs * config.epoch_steps
    if tracker is not None:
        tracker.started(position, num_steps, worker.world_size)
    with tracked(tracker):
        position = train_epochs(_Aligner(session, Pace(position.step, num_steps)), tracker, position)
        choice = choose(config, position.history)
        broadcast_json(choice.step, worker.device)  # worker 0 arrives here when the checkpoint is written
        load_step(session, choice.step)
        metrics: dict[str, Any] = {"val": choice.val, "selected": {"step": choice.step, "epoch": choice.epoch}}
        if "test" in session.measured:
            metrics["test"] = measure_align(session, "test")
        return conclude(tracker, metrics)


class _Aligner:
    """The parts of :class:`raytrain_xai.runners.epochs.Learner`."""

    def __init__(self, session: AlignSession, pace: Pace) -> None:
        self.session = session
        self.pace = pace
        self._sums = torch.zeros(len(PARTS), device=session.worker.device)

    @property
    def worker(self) -> Worker:
        return self.session.worker

    @property
    def config(self) -> AlignRunConfig:
        return self.session.config

    @property
    def steps_per_epoch(self) -> int:
        return self.config.epoch_steps

    def epoch(self, epoch: int, start_step: int) -> Iterator[list[LabelledPatches]]:
        first, last = epoch * self.steps_per_epoch + start_step, (epoch + 1) * self.steps_per_epoch
        return self.pace.timed(self.session.parts(step) for step in range(first, last))

    def step(self, item: list[LabelledPatches], position: Position, attempt: Attempt | None) -> None:  # noqa: ARG002
        session = self.session
        losses = align_step(session.head, item, session.weights, joined_workers())
        if not all_true(torch.isfinite(losses["loss"]) & _are_finite(session)):
            raise RunError(
                f"non-finite loss or gradient at step {position.step} (epoch {position.epoch}); weights were not "
                "updated; lower optim.lr and train under a new name"
            )
        for group in session.optimizer.param_groups:
            group["lr"] = group["peak"] * one_cycle(position.step, self.pace.num_steps)
        session.optimizer.step()
        self._sums += torch.stack([losses[name] for name in PARTS])

    def read(self, position: Position) -> dict[str, float]:
        lap = self.pace.lap(position.step)
        means = (self._sums / lap.steps).tolist()
        self._sums.zero_()
        images = sum(own.images for own in self.session.sets)
        return {
            **dict(zip(PARTS, means, strict=True)), "lr": self.session.optimizer.param_groups[0]["lr"],
            "images_per_s": lap.steps * images / lap.elapsed_s, "input_wait": lap.input_wait,
            "seconds_left": lap.seconds_left,
        }  # fmt: skip

    def measure(self) -> dict[str, float]:
        return measure_align(self.session, "val")

    def is_over(self, history: Sequence[Evaluated]) -> bool:  # noqa: ARG002 - a run takes all its epochs
        return False

    def save(self, tracker: Tracker | None, position: Position) -> None:
        save_align(self.session, tracker, position)


def _are_finite(session: AlignSession) -> Tensor:
    gradients = [value.grad for value in session.head.parameters() if value.grad is not None]
    return torch.isfinite(torch.stack([gradient.sum() for gradient in gradients])).all()
