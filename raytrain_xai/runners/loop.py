"""Training of a classifier on one worker: plain PyTorch, the same in the calling process and in a Ray worker.

Resuming is bitwise because nothing random has a state: the order of samples, their augmentation and the guided class
are functions of (seed, epoch or step, sample), and torch's generators are seeded before every forward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raytrain_xai.config import RunConfig
from raytrain_xai.data.dataset import DatasetInfo
from raytrain_xai.data.loader import TrainingData
from raytrain_xai.run_folder import Attempt
from raytrain_xai.runners.collective import broadcast_json
from raytrain_xai.runners.epochs import conclude, tracked, train_epochs
from raytrain_xai.runners.finite import StepResult, is_finite, stop_non_finite
from raytrain_xai.runners.history import Evaluated, Position, selected, stops_early
from raytrain_xai.runners.meter import SUMS, Meter
from raytrain_xai.runners.optimiser import apply_gradients, learning_rate
from raytrain_xai.runners.session import Session, build_session, load_step, measure, restore, save
from raytrain_xai.runners.tracking import Tracker
from raytrain_xai.runners.worker import Worker
from raytrain_xai.types import Batch


def train(worker: Worker, config: RunConfig, info: DatasetInfo) -> dict[str, Any]:
    """Train from the newest checkpoint (or from the start) to the end, and measure the selected checkpoint.

    A collective: all workers call it with equal ``config`` and ``info``.

    Returns:
        Content of ``metrics.json``.

    Raises:
        RunError: a non-finite loss or gradient, or a newer attempt took over the run.
        DataError, CheckpointError: the storage holds something unusable.
    """
    session = build_session(worker, config, info)
    position, tracker = restore(session)
    num_steps = config.epochs * (info.splits["train"] // config.batch_size)
    meter = Meter(worker, first_step=position.step, num_steps=num_steps)
    data = TrainingData(config, info, rank=worker.rank, world_size=worker.world_size)
    if tracker is not None:
        tracker.started(position, num_steps, worker.world_size)
    with tracked(tracker):
        position = train_epochs(_Classifier(session, data, meter), tracker, position)
        return conclude(tracker, _final_metrics(session, position))


@dataclass(frozen=True)
class _Classifier:
    """The parts of :class:`raytrain_xai.runners.epochs.Learner`."""

    session: Session
    data: TrainingData
    meter: Meter

    @property
    def worker(self) -> Worker:
        return self.session.worker

    @property
    def config(self) -> RunConfig:
        return self.session.config

    @property
    def steps_per_epoch(self) -> int:
        return self.session.info.splits["train"] // self.config.batch_size

    def epoch(self, epoch: int, start_step: int) -> Iterator[list[Batch]]:
        self.session.model.train()
        return _grouped(self.meter.timed(self.data.epoch(epoch, start_step)), self.config.accumulate)

    def step(self, item: Sequence[Batch], position: Position, attempt: Attempt | None) -> None:
        session, optim = self.session, self.config.optim
        result = forward_backward(session, item, position.step)
        if not is_finite(result):
            stop_non_finite(session, result, position, attempt)
        apply_gradients(session.optimizer, optim, self._rate(position.step), result.norm)
        if session.average is not None:
            session.average.after_step(session.network, position.step)
        self.meter.add(result.sums)

    def read(self, position: Position) -> dict[str, float]:
        return self.meter.read(position.step) | {"lr": self._rate(position.step - 1)}

    def measure(self) -> dict[str, float]:
        return measure(self.session, "val", self.config.evaluation.iou_threshold)

    def is_over(self, history: Sequence[Evaluated]) -> bool:
        return stops_early(history, self.config.evaluation)

    def save(self, tracker: Tracker | None, position: Position) -> None:
        save(self.session, tracker, position)

    def _rate(self, step: int) -> float:
        return learning_rate(self.config.optim, step, self.meter.num_steps, self.steps_per_epoch)


def forward_backward(session: Session, parts: Sequence[Batch], step: int) -> StepResult:
    """Gradients of one optimiser step, averaged over workers, and the sums of its parts."""
    config, worker, model = session.config, session.worker, session.model
    session.optimizer.zero_grad(set_to_none=True)
    sums = {name: torch.zeros((), dtype=torch.float64, device=worker.device) for name in SUMS}
    for number, part in enumerate(parts):
        is_last = number == len(parts) - 1
        torch.manual_seed(step_seed(config.seed, step, number, worker.rank))
        with _exchange(model, is_last):
            with torch.autocast(worker.device.type, torch.bfloat16, enabled=config.precision == "bfloat16"):
                output = model(part.to(worker.device), step, worker.world_size)
            output.loss.backward()
        sums["loss"] += output.loss.detach()
        for name, value in output.sums.items():
            sums[name] += value
    gradients = {name: p.grad for name, p in session.parameters.items() if p.grad is not None}
    norm = torch.nn.utils.get_total_norm(list(gradients.values()))
    return StepResult(sums, gradients, norm, torch.cat([part.index for part in parts]))


def _exchange(model: nn.Module, is_last: bool) -> AbstractContextManager[None]:
    """Gradients of all parts of a step travel between the workers together, with the last part."""
    return model.no_sync() if isinstance(model, DistributedDataParallel) and not is_last else nullcontext()


def _final_metrics(session: Session, position: Position) -> dict[str, Any]:
    """Measure the selected checkpoint on the test split: the content of ``metrics.json``. A collective."""
    choice = selected(position.history, session.config.evaluation)
    broadcast_json(choice.step, session.worker.device)  # worker 0 arrives here when the checkpoint is written
    load_step(session, choice.step)
    threshold = choice.val.get("iou_threshold")
    metrics: dict[str, Any] = {
        "val": choice.val,
        "selected": {"step": choice.step, "epoch": choice.epoch},
        "iou_threshold": threshold,
    }
    if session.info.splits.get("test"):
        metrics["test"] = measure(session, "test", threshold)
    return metrics


def step_seed(seed: int, step: int, part: int, rank: int) -> int:
    """Seed of torch's generators before one forward pass: a 64-bit hash, so that no state needs storing."""
    mixed = 0
    for value in (seed, step, part, rank):
        mixed = (mixed ^ value) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF
        mixed ^= mixed >> 29
    return mixed


def _grouped(batches: Iterable[Batch], size: int) -> Iterator[list[Batch]]:
    iterator = iter(batches)
    while group := list(islice(iterator, size)):
        yield group
