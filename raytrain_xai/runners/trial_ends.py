"""How trials end that cannot say so themselves: stopped by the scheduler, or crashed for the last time."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from ray.tune.progress_reporter import TrialProgressCallback

from raytrain_xai.run_folder import Attempt
from raytrain_xai.runners.board import send
from raytrain_xai.runners.tracking import Record
from raytrain_xai.runners.trial import find_trial, measured_of, num_attempts
from raytrain_xai.sweep_config import SweepConfig
from raytrain_xai.sweeps.folder import Status, TrialState, read_state, write_state

_CHECK_S = 5.0  # between looks whether this process still drives the sweep; each is a listing


def publish(board: Any, key: str, record: Record) -> None:
    """Hand a record of a trial to the board of its sweep."""
    send(board, {**record, "trial": key})


class TrialEnds(TrialProgressCallback):
    """Writes the states that trials cannot write themselves: of those that were stopped, and of those that crashed.

    It takes the place of Tune's callback that prints results. A process that does not drive the sweep any more writes
    none and stops: Tune passes on what is raised here.
    """

    def __init__(self, attempt: Attempt, config: SweepConfig, board: Any) -> None:
        super().__init__()
        self._attempt, self._at, self._config, self._board = attempt, attempt.run, config, board
        self._checked_at = -math.inf

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:  # noqa: ARG002
        """Called about ten times a second.

        Raises:
            SupersededError: another process drives the sweep by now.
        """
        if time.monotonic() - self._checked_at > _CHECK_S:
            self._attempt.check()
            self._checked_at = time.monotonic()

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """The run itself told."""

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Called when a trial ended, or was ended by the scheduler: then it has no state."""
        key = str(trial)
        if read_state(self._at, key) is None:
            self._end(key, "stopped", None, float(trial.last_result.get("time_total_s", 0.0)))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Called when a crashed trial is tried again."""
        record = {"kind": "trial", "status": "retried", "error": _crash(trial)}
        publish(self._board, str(trial), record)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Called when a trial crashed for the last time; one that had ended by itself before stays what it was."""
        if read_state(self._at, str(trial)) is None:
            seconds = float(trial.last_result.get("time_total_s", 0.0))
            self._end(str(trial), "failed", _crash(trial), seconds)

    def _end(self, key: str, status: Status, error: str | None, seconds: float) -> None:
        attempts = num_attempts(find_trial(self._at, self._config, key).config)
        self._attempt.check()
        write_state(self._at, key, TrialState(status, error, attempts, seconds, retryable=status == "failed"))
        val = measured_of(self._at, key)
        publish(self._board, key, {"kind": "trial", "status": status, "error": error, "val": val})


def _crash(trial: Any) -> str:
    """Why a trial crashed, in one line: the last of a stack trace, the first of Ray's words about a lost process."""
    lines = [line.strip() for line in Path(trial.error_file).read_text(encoding="utf-8").splitlines() if line.strip()]
    newest = lines[max(i for i, line in enumerate(lines) if line.startswith("Failure # ")) + 1 :]
    has_trace = any(line.startswith("File ") for line in newest)
    return (newest[-1] if has_trace else newest[0])[:500] if newest else "the process of the trial was lost"
