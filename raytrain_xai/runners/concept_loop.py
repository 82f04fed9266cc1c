"""Training of the concepts of a network on one worker: plain PyTorch, the same in the calling process and under Ray."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from raytrain_xai.concept_config import AnySae, ConceptRunConfig, JumpReluSection, ReluSection
from raytrain_xai.concepts.fidelity import frequency_histogram
from raytrain_xai.concepts.step import SaeStep, StepSettings, sae_step
from raytrain_xai.runners.collective import broadcast_json
from raytrain_xai.runners.concept_meter import ConceptMeter
from raytrain_xai.runners.concept_session import (
    ConceptSession,
    build_concept_session,
    choose,
    current_gain,
    measure_concepts,
    measure_network,
    save_concepts,
)
from raytrain_xai.runners.epochs import conclude, tracked, train_epochs
from raytrain_xai.runners.history import Position
from raytrain_xai.runners.sae_learner import SaeLearner
from raytrain_xai.runners.sae_session import load_step, restore_session
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
    position, tracker, state = restore_session(session)
    num_steps = config.epochs * session.steps_per_epoch
    if tracker is not None:
        tracker.started(position, num_steps, worker.world_size)
    with tracked(tracker):
        before = state.get("before") or _measure_before(session, tracker, position)
        threshold = before.get("iou_threshold")
        learner = SaeLearner(
            session, ConceptMeter(session, position.step, num_steps),
            take=lambda x, _: take_step(session, x),
            evaluate=lambda: measure_concepts(session, "val", threshold, current_gain(session))[0],
            commit=partial(save_concepts, session, before),
        )  # fmt: skip
        position = train_epochs(learner, tracker, position)
        return conclude(tracker, _final_metrics(session, position, before))


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


def _measure_before(session: ConceptSession, tracker: Tracker | None, position: Position) -> dict[str, float]:
    """Validation metrics of the network without concepts. A collective."""
    before: dict[str, float] = broadcast_json(measure_network(session, "val", None), session.worker.device)
    if tracker is not None:
        tracker.event(position, "before", f"without concepts: {_line(before)}")
    return before


def _final_metrics(session: ConceptSession, position: Position, before: dict[str, float]) -> dict[str, Any]:
    """Measure the selected checkpoint on the test split: the content of ``metrics.json``. A collective."""
    choice = choose(session, position.history)
    broadcast_json(choice.step, session.worker.device)  # worker 0 arrives here when the checkpoint is written
    gain = load_step(session, choice.step)["gain"]
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
    metrics["dictionary"] = {"split": split, **frequency_histogram(sums.fired, int(sums.positions))}
    return metrics


def _line(metrics: dict[str, float]) -> str:
    shown = (f"{name} {metrics[name]:.3f}" for name in ("f1", "map", "epg", "accuracy") if name in metrics)
    return ", ".join(shown)
