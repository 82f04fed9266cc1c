"""Training of a sparse autoencoder on one worker: plain PyTorch, the same in the calling process and in a Ray worker.

The vectors of a step are a function of (configuration, epoch, step), the step draws nothing, and firing counts are part
of a checkpoint: a resumed run ends with the bits of one that was never interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NoReturn

import torch
from torch import Tensor

from raytrain_xai.concept_config import (
    AnySae,
    ConceptOptimSection,
    ConceptRunConfig,
    JumpReluSection,
    ReluSection,
)
from raytrain_xai.concepts.fidelity import frequency_histogram
from raytrain_xai.concepts.step import SaeStep, StepSettings, sae_step
from raytrain_xai.concepts.update import apply_update, project_gradients
from raytrain_xai.errors import RunError
from raytrain_xai.run_folder import FAILURE, Attempt, write_json
from raytrain_xai.runners.collective import all_true, broadcast_json
from raytrain_xai.runners.concept_meter import ConceptMeter
from raytrain_xai.runners.concept_session import (
    ConceptSession,
    build_concept_session,
    choose,
    current_gain,
    load_step,
    measure_concepts,
    measure_network,
    restore_concepts,
    save_concepts,
)
from raytrain_xai.runners.epochs import conclude, tracked, train_epochs
from raytrain_xai.runners.finite import first_bad
from raytrain_xai.runners.history import Evaluated, Position
from raytrain_xai.runners.tracking import Tracker
from raytrain_xai.runners.worker import Worker


def train_concepts(worker: Worker, config: ConceptRunConfig) -> dict[str, Any]:
    """Train from the newest checkpoint (or from the start) to the end, and measure the selected checkpoint.

    A collective: all workers call it with equal ``config``.

    Returns:
        Content of ``metrics.json``: ``val`` and ``test`` with the concepts plugged in, ``before`` the same without
        them, ``selected``, ``iou_threshold`` and ``dictionary``, how often the latents fire on a split.
    Raises:
        RunError: a non-finite loss or gradient, or a newer attempt took over the run.
        DataError, CheckpointError: the storage holds something unusable.
    """
    session = build_concept_session(worker, config)
    position, tracker, before = restore_concepts(session)
    num_steps = config.epochs * session.steps_per_epoch
    if tracker is not None:
        tracker.started(position, num_steps, worker.world_size)
    with tracked(tracker):
        if before is None:
            before = broadcast_json(measure_network(session, "val", None), worker.device)
            if tracker is not None:
                tracker.event(position, "before", f"without concepts: {_line(before)}")
        learner = _Autoencoder(session, ConceptMeter(session, position.step, num_steps), before)
        position = train_epochs(learner, tracker, position)
        return conclude(tracker, _final_metrics(session, position, before))


def concept_rate(config: ConceptOptimSection, step: int, num_steps: int, steps_per_epoch: int) -> float:
    """Learning rate of optimiser step ``step`` (from 0) of ``num_steps``.

    Linearly up to lr over the warm-up, constant, then half a cosine down to 0 after the last step (Parchami-Araghi et
    al., NeurIPS 2025, released code: one epoch each). It moves at every step.
    """
    warmup = round(config.warmup_epochs * steps_per_epoch)
    start = round((config.warmup_epochs + config.constant_epochs) * steps_per_epoch)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if step < start:
        return config.lr
    return config.lr * 0.5 * (1 + math.cos(math.pi * min((step - start) / max(num_steps - start, 1), 1.0)))


@dataclass(frozen=True)
class _Autoencoder:
    """The parts of :class:`raytrain_xai.runners.epochs.Learner`."""

    session: ConceptSession
    meter: ConceptMeter
    before: dict[str, float]

    @property
    def worker(self) -> Worker:
        return self.session.worker

    @property
    def config(self) -> ConceptRunConfig:
        return self.session.config

    @property
    def steps_per_epoch(self) -> int:
        return self.session.steps_per_epoch

    def epoch(self, epoch: int, start_step: int) -> Iterator[Tensor]:
        if start_step == 0:
            self.session.usage.restart()
        parts = self.session.source.epoch(epoch, start_step)
        return self.meter.pace.timed(islice(parts, self.steps_per_epoch - start_step))

    def step(self, item: Tensor, position: Position, attempt: Attempt | None) -> None:
        session, optim = self.session, self.config.optim
        result = take_step(session, item)
        norm = project_gradients(session.sae, result.gradients, session.shards)
        if not all_true(torch.isfinite(result.sums["loss"]) & torch.isfinite(norm)):
            _stop_non_finite(session, result, position, attempt)
        apply_update(
            session.sae, result.gradients, norm, session.optimizer,
            lr=self._rate(position.step), clip_norm=optim.clip_norm,
        )  # fmt: skip
        session.usage.update(result.fired, self.config.batch_size)
        session.usage.follow(result.sums["length"], result.sums["rebuilt"])
        self.meter.add(result.sums)

    def read(self, position: Position) -> dict[str, float]:
        return self.meter.read(position.step) | {"lr": self._rate(position.step - 1)}

    def measure(self) -> dict[str, float]:
        gain = current_gain(self.session)
        return measure_concepts(self.session, "val", self.before.get("iou_threshold"), gain)[0]

    def is_over(self, history: Sequence[Evaluated]) -> bool:  # noqa: ARG002 - a concept run takes all its epochs
        return False

    def save(self, tracker: Tracker | None, position: Position) -> None:
        save_concepts(self.session, tracker, position, self.before)

    def _rate(self, step: int) -> float:
        return concept_rate(self.config.optim, step, self.meter.num_steps, self.steps_per_epoch)


def take_step(session: ConceptSession, x: Tensor) -> SaeStep:
    """Loss and gradients of this worker's vectors (n, D) and those of the others. A collective."""
    return sae_step(
        session.sae, x, dead=session.dead(), settings=step_settings(session.config.sae), workers=session.workers,
        shards=session.shards,
    )  # fmt: skip


def step_settings(sae: AnySae) -> StepSettings:
    """Weights of the parts of the loss of a configuration."""
    match sae:
        case ReluSection():
            weight = sae.l1_weight
        case JumpReluSection():
            weight = sae.l0_weight
        case _:
            weight = 0.0
    return StepSettings(sae.aux_weight, sae.aux_latents, weight)


def _final_metrics(session: ConceptSession, position: Position, before: dict[str, float]) -> dict[str, Any]:
    """Measure the selected checkpoint on the test split: the content of ``metrics.json``. A collective."""
    choice = choose(session, position.history)
    broadcast_json(choice.step, session.worker.device)  # worker 0 arrives here when the checkpoint is written
    gain = load_step(session, choice.step)
    threshold = before.get("iou_threshold")
    metrics: dict[str, Any] = {
        "val": choice.val, "before": {"val": before}, "iou_threshold": threshold,
        "selected": {"step": choice.step, "epoch": choice.epoch},
    }  # fmt: skip
    split = "test" if session.info.splits.get("test") else "val"
    measured, sums = measure_concepts(session, split, threshold, gain)
    if split == "test":
        metrics["test"] = measured
        metrics["before"]["test"] = measure_network(session, split, threshold)
    metrics["dictionary"] = {"split": split, **frequency_histogram(sums)}
    return metrics


def _stop_non_finite(session: ConceptSession, result: SaeStep, position: Position, attempt: Attempt | None) -> NoReturn:
    """Name the first bad tensor in ``failure/step-<step>.json`` and stop; every worker has the same numbers."""
    candidates = [
        *((f"parameter {name}", value) for name, value in session.sae.named_parameters()),
        *((f"loss part {name}", value) for name, value in result.sums.items()),
        *((f"gradient of {name}", value) for name, value in result.gradients.items()),
    ]
    bad, step = first_bad(candidates) or "total gradient norm", position.step
    name = f"step-{step:08d}.json"
    if attempt is not None:
        bundle = {
            "step": step, "epoch": position.epoch, "first_bad": bad,
            "sums": {key: repr(float(value)) for key, value in result.sums.items()},  # repr: JSON has no NaN
            "config": session.config.model_dump(mode="json"),
        }  # fmt: skip
        attempt.check()
        write_json(attempt.run.child(FAILURE, name), bundle)
    raise RunError(
        f"non-finite {bad} at step {step} (epoch {position.epoch}); weights were not updated, details in "
        f"{FAILURE}/{name}; lower optim.lr, or set optim.clip_norm, and train under a new name"
    )


def _line(metrics: dict[str, float]) -> str:
    shown = (f"{name} {metrics[name]:.3f}" for name in ("f1", "map", "epg", "accuracy") if name in metrics)
    return ", ".join(shown)
