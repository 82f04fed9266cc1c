"""Which evaluated checkpoints matter: the best by F1, the Pareto front, the one to report. Functions of the history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch

from raytrain_xai.config import EvaluationConfig
from raytrain_xai.guidance.pareto import pareto_front

FRONT_METRICS = ("f1", "epg", "iou")  # Rao et al., ICCV 2023; one that does not apply to the data counts as 0


@dataclass(frozen=True)
class Evaluated:
    """Validation of one checkpoint.

    Attributes:
        step: optimiser steps done.
        epoch: epochs done.
        val: metrics of the validation split.
    """

    step: int
    epoch: int
    val: dict[str, float]


@dataclass(frozen=True)
class Position:
    """Where a run is.

    Attributes:
        step: optimiser steps done since the start.
        epoch: epochs done.
        step_in_epoch: optimiser steps done in the epoch that is under way.
        history: every evaluation so far, in order.
    """

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    history: tuple[Evaluated, ...] = ()

    def after_step(self) -> Position:
        """One optimiser step further."""
        return Position(self.step + 1, self.epoch, self.step_in_epoch + 1, self.history)

    def after_epoch(self) -> Position:
        """At the start of the next epoch."""
        return Position(self.step, self.epoch + 1, 0, self.history)

    def evaluated(self, val: dict[str, float]) -> Position:
        """With one more entry in the history."""
        return Position(
            self.step, self.epoch, self.step_in_epoch, (*self.history, Evaluated(self.step, self.epoch, val))
        )

    def to_json(self) -> dict[str, Any]:
        """JSON values for the checkpoint."""
        return {
            "step": self.step, "epoch": self.epoch, "step_in_epoch": self.step_in_epoch,
            "history": [{"step": e.step, "epoch": e.epoch, "val": e.val} for e in self.history],
        }  # fmt: skip

    @classmethod
    def from_json(cls, state: dict[str, Any]) -> Self:
        """Inverse of :meth:`to_json`; other keys are ignored."""
        history = tuple(Evaluated(**entry) for entry in state["history"])
        return cls(state["step"], state["epoch"], state["step_in_epoch"], history)


def best(history: Sequence[Evaluated], metric: str = "f1") -> Evaluated | None:
    """The evaluation with the highest value of a metric, the earliest of equals."""
    return max(history, key=lambda entry: entry.val[metric], default=None)


def on_front(history: Sequence[Evaluated]) -> list[bool]:
    """Per evaluation, whether no other one dominates it in (F1, EPG, IoU)."""
    if not history:
        return []
    points = torch.tensor([[entry.val.get(name, 0.0) for name in FRONT_METRICS] for entry in history])
    return pareto_front(points).tolist()


def protected_steps(history: Sequence[Evaluated], config: EvaluationConfig) -> set[int]:
    """Steps of the checkpoints that are kept whatever their age: the front, the best by F1 and the selected one."""
    if not history:
        return set()
    front = {entry.step for entry, is_front in zip(history, on_front(history), strict=True) if is_front}
    top = best(history)
    assert top is not None
    return front | {top.step, selected(history, config).step}


def front_record(history: Sequence[Evaluated]) -> dict[str, Any]:
    """Content of ``pareto.json``: every evaluation with the metrics of the front and whether it is on it."""
    return {
        "points": [
            {
                "step": entry.step,
                "epoch": entry.epoch,
                **{name: entry.val[name] for name in FRONT_METRICS if name in entry.val},
                "on_front": is_front,
            }
            for entry, is_front in zip(history, on_front(history), strict=True)
        ]
    }


def stops_early(history: Sequence[Evaluated], config: EvaluationConfig) -> bool:
    """Whether the best F1 so far is below ``evaluation.min_f1``."""
    top = best(history)
    return top is not None and config.min_f1 is not None and top.val["f1"] < config.min_f1


def selected(history: Sequence[Evaluated], config: EvaluationConfig) -> Evaluated:
    """The evaluation whose checkpoint is measured on the test split; ``history`` is not empty."""
    if config.select == "last":
        return history[-1]
    top = best(history, "accuracy" if config.select == "best_accuracy" else "f1")
    assert top is not None
    return top
