"""Training of a sparse autoencoder on whatever vectors: what it brings to the loop over epochs.

The vectors of a step are a function of (configuration, epoch, step), the step draws nothing, and firing counts are part
of a checkpoint: a resumed run ends with the bits of one that was never interrupted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NoReturn

import torch
from torch import Tensor

from raytrain_xai.concept_config import ConceptOptimSection, ConceptRunConfig
from raytrain_xai.concepts.step import SaeStep
from raytrain_xai.concepts.update import apply_update, project_gradients
from raytrain_xai.errors import RunError
from raytrain_xai.insight_config import InsightRunConfig
from raytrain_xai.run_folder import FAILURE, Attempt, write_json
from raytrain_xai.runners.collective import all_true
from raytrain_xai.runners.concept_meter import ConceptMeter
from raytrain_xai.runners.finite import first_bad
from raytrain_xai.runners.history import Evaluated, Position
from raytrain_xai.runners.sae_session import SaeSession
from raytrain_xai.runners.tracking import Tracker
from raytrain_xai.runners.worker import Worker


@dataclass(frozen=True)
class SaeLearner:
    """The parts of :class:`raytrain_xai.runners.epochs.Learner`.

    Attributes:
        session: what is trained.
        meter: sums for the log.
        take: loss and gradients of this worker's vectors (n, D) and those of the others, at a position.
        evaluate: metrics of the validation split.
        commit: writes a checkpoint; see :meth:`save`.
    """

    session: SaeSession
    meter: ConceptMeter
    take: Callable[[Tensor, Position], SaeStep]
    evaluate: Callable[[], dict[str, float]]
    commit: Callable[[Tracker | None, Position], None]

    @property
    def worker(self) -> Worker:
        """See :class:`~raytrain_xai.runners.epochs.Learner`, as for all that follows."""
        return self.session.worker

    @property
    def config(self) -> ConceptRunConfig | InsightRunConfig:
        """Of the run."""
        return self.session.config

    @property
    def steps_per_epoch(self) -> int:
        """Of all workers together."""
        return self.session.steps_per_epoch

    def epoch(self, epoch: int, start_step: int) -> Iterator[Tensor]:
        """This worker's vectors of every step."""
        if start_step == 0:
            self.session.usage.restart()
        parts = self.session.source.epoch(epoch, start_step)
        return self.meter.pace.timed(islice(parts, self.steps_per_epoch - start_step))

    def step(self, item: Tensor, position: Position, attempt: Attempt | None) -> None:
        """One update, unless a number is not finite."""
        session, optim = self.session, self.config.optim
        result = self.take(item, position)
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
        """Means since the last reading, and the rate of the last step."""
        return self.meter.read(position.step) | {"lr": self._rate(position.step - 1)}

    def measure(self) -> dict[str, float]:
        """Metrics of the validation split."""
        return self.evaluate()

    def is_over(self, history: Sequence[Evaluated]) -> bool:  # noqa: ARG002 - a concept run takes all its epochs
        """Never."""
        return False

    def save(self, tracker: Tracker | None, position: Position) -> None:
        """Write a checkpoint."""
        self.commit(tracker, position)

    def _rate(self, step: int) -> float:
        return concept_rate(self.config.optim, step, self.meter.num_steps, self.steps_per_epoch)


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


def _stop_non_finite(session: SaeSession, result: SaeStep, position: Position, attempt: Attempt | None) -> NoReturn:
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
