"""What the driver of a sweep writes down for trials that cannot, and what it leaves to a driver that came after it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raytrain_xai.errors import SupersededError
from raytrain_xai.run_folder import Attempt, claim_attempt
from raytrain_xai.runners import trial_ends
from raytrain_xai.runners.trial_ends import TrialEnds
from raytrain_xai.runners.tune_trials import Trials, _Trainable  # pyright: ignore[reportPrivateUsage]
from raytrain_xai.sweep_config import SweepConfig
from raytrain_xai.sweeps.folder import TrialState, create_sweep, read_state, write_state
from raytrain_xai.sweeps.plan import make_plan, trial_config

TRACE = """Failure # 1 (occurred at 2026-01-01_00-00-00)
Traceback (most recent call last):
  File "trial.py", line 1, in run
KeyError: 'the first time'

Failure # 2 (occurred at 2026-01-01_00-01-00)
Traceback (most recent call last):
  File "trial.py", line 2, in run
RuntimeError: KeyError: 'a bug' (trial.py:2)
"""
LOST = """Failure # 1 (occurred at 2026-01-01_00-00-00)
The actor died unexpectedly before finishing this task.
	class_name: ImplicitFunc
	pid: 7
"""


class TuneTrial:
    """As much of Tune's trial as is looked at."""

    def __init__(self, key: str, error_file: Path, seconds: float) -> None:
        self._key = key
        self.error_file = str(error_file)
        self.last_result = {"time_total_s": seconds}

    def __str__(self) -> str:
        return self._key


class Driver:
    """A sweep of two trials, and who writes their ends."""

    def __init__(self, storage: Path) -> None:
        base = {"epochs": 1, "workers": 0, "data": {"path": "d"}, "model": {"name": "resnet18"}}
        space = {"guidance.weight": [0.5, 1]}
        raw = {"name": "s", "storage": str(storage), "base": base, "space": space}
        self.config = SweepConfig.model_validate(raw)
        self.plan = make_plan(self.config)
        self.attempt: Attempt = claim_attempt(create_sweep(self.config, self.plan))
        self.told: list[dict[str, Any]] = []
        self.board = SimpleNamespace(publish=SimpleNamespace(remote=self.told.append))
        self.ends = TrialEnds(self.attempt, self.config, self.board)
        self.error_file = storage / "error.txt"

    def trial(self, number: int, error: str = "", seconds: float = 2.5) -> TuneTrial:
        self.error_file.write_text(error)
        return TuneTrial(self.plan[number].id, self.error_file, seconds)

    def state(self, number: int) -> TrialState | None:
        return read_state(self.attempt.run, self.plan[number].id)


@pytest.fixture
def driver(tmp_path: Path) -> Driver:
    return Driver(tmp_path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (TRACE, "RuntimeError: KeyError: 'a bug' (trial.py:2)"),
        (LOST, "The actor died unexpectedly before finishing this task."),
    ],
)
def test_the_last_crash_of_a_trial_is_its_state(driver: Driver, text: str, reason: str) -> None:
    trial = driver.trial(0, text)
    driver.ends.on_trial_recover(0, [], trial)
    assert driver.state(0) is None, "it is tried again"
    driver.ends.on_trial_error(0, [], trial)
    assert driver.state(0) == TrialState("failed", reason, 1, 2.5, retryable=True)
    assert [(record["status"], record["error"]) for record in driver.told] == [("retried", reason), ("failed", reason)]


def test_who_was_stopped_has_no_state_of_its_own(driver: Driver) -> None:
    driver.ends.on_trial_complete(0, [], driver.trial(0))
    assert driver.state(0) == TrialState("stopped", None, 1, 2.5)
    assert driver.told == [{"kind": "trial", "status": "stopped", "error": None, "val": {}, "trial": driver.plan[0].id}]


def test_a_process_that_is_lost_after_the_end_changes_nothing(driver: Driver) -> None:
    finished = TrialState("finished", None, 1, 9.0)
    write_state(driver.attempt.run, driver.plan[0].id, finished)
    driver.ends.on_trial_complete(0, [], driver.trial(0))
    driver.ends.on_trial_error(0, [], driver.trial(0, LOST))
    assert driver.state(0) == finished and driver.told == []


def test_a_driver_stops_when_another_one_took_over(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial_ends, "_CHECK_S", -1.0)
    driver.ends.on_step_begin(0, [])
    newer = claim_attempt(driver.attempt.run)
    with pytest.raises(SupersededError, match=f"^attempt {driver.attempt.name} .* was superseded by {newer.name}"):
        driver.ends.on_step_begin(1, [])
    with pytest.raises(SupersededError):
        driver.ends.on_trial_error(1, [], driver.trial(0, LOST))
    with pytest.raises(SupersededError):
        driver.ends.on_trial_complete(1, [], driver.trial(1))
    assert driver.state(0) is None and driver.state(1) is None and driver.told == [], "that is for the other to say"


def test_a_trial_that_outlived_its_sweep_takes_no_run(driver: Driver) -> None:
    claim_attempt(driver.attempt.run)
    run = trial_config(driver.config, driver.plan[0])
    trials = Trials(driver.attempt, driver.config, run, driver.board, concurrent=1, debug=False)
    with pytest.raises(SupersededError):
        _Trainable(trials, is_watched=False).run(driver.plan[0].id, {"trial": driver.plan[0].id})
    assert not (Path(trials.at.path) / "trials").exists()
    claims = sorted((Path(trials.at.path) / "attempts").iterdir())
    assert [json.loads(claim.read_text())["attempt"] for claim in claims] == [1, 2]
