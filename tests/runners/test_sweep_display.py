"""What is shown of a sweep: one line per event, counts, and the time left."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from raytrain_xai.runners.sweep_display import SweepProgress, live_sweep

BEGIN = {
    "kind": "sweep", "name": "loss-weight", "total": 6, "concurrent": 2, "objectives": ["f1", "epg"],
    "ended": {"0000-a": "finished", "0001-b": "failed"},
}  # fmt: skip


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def running(trial: str, weight: float = 0.1) -> dict[str, Any]:
    return {"kind": "trial", "trial": trial, "status": "running", "epochs": 4, "values": {"guidance.weight": weight}}


def ended(trial: str, status: str, error: str | None = None, **val: float) -> dict[str, Any]:
    return {"kind": "trial", "trial": trial, "status": status, "error": error, "val": val}


def test_lines_tell_what_happens() -> None:
    progress = SweepProgress(Clock())
    assert progress.take(BEGIN) == "loss-weight: 2 of 6 trials done, 1 failed; 2 at a time"
    assert progress.take(running("0002-c")) == "0002-c started: guidance.weight=0.1"
    start = {
        "kind": "event",
        "trial": "0002-c",
        "event": "start",
        "step": 0,
        "epoch": 0,
        "message": "",
        "num_steps": 40,
    }
    assert progress.take(start) is None
    assert progress.take({"kind": "step", "trial": "0002-c", "step": 10, "epoch": 0}) is None
    epoch = {"kind": "epoch", "trial": "0002-c", "step": 10, "epoch": 1, "val": {"f1": 0.5, "epg": 0.25, "map": 0.1}}
    assert progress.take(epoch) == "0002-c epoch 1 of 4: f1 0.500, epg 0.250"
    retried = {**ended("0002-c", "retried", "the actor died"), "val": {}}
    assert progress.take(retried) == "0002-c is tried again after the actor died"
    swept = {"kind": "event", "trial": "0002-c", "event": "swept", "message": "deleted step-00000010"}
    assert progress.take(swept) == "0002-c swept: deleted step-00000010"
    line = progress.take(ended("0002-c", "failed", "non-finite loss"))
    assert line == "0002-c failed: non-finite loss (3 of 6 trials done, 2 failed, 0:00:00 left)"


def test_time_left_counts_what_this_call_did() -> None:
    clock = Clock()
    progress = SweepProgress(clock)
    progress.take(BEGIN)
    assert progress.seconds_left() is None
    progress.take({**running("baseline/s0")})
    clock.now = 100.0
    progress.take(ended("baseline/s0", "finished", f1=0.5))
    progress.take(running("0002-c"))
    progress.take(running("0003-d"))
    assert progress.seconds_left() is None, "nothing is done yet, the baseline is no trial"
    for trial in ("0002-c", "0003-d"):
        progress.take({"kind": "event", "trial": trial, "event": "start", "step": 0, "epoch": 0, "num_steps": 40})
    clock.now = 130.0
    progress.take({"kind": "step", "trial": "0003-d", "step": 20, "epoch": 1})
    progress.take(ended("0002-c", "finished", f1=0.5))
    # 1.5 trials in 30 s; of 6, 2 had ended before and 1.5 are done, 2.5 are left
    assert progress.seconds_left() == pytest.approx(50.0)
    assert progress.summary() == "3 of 6 trials done, 1 failed, 1 running, 0:00:50 left"


def test_a_failed_trial_that_is_tried_again_counts_once() -> None:
    progress = SweepProgress(Clock())
    progress.take(BEGIN)
    progress.take(running("0001-b"))
    assert progress.summary() == "1 of 6 trials done, 1 running"
    assert progress.take(ended("0001-b", "finished", f1=0.25)) == (
        "0001-b finished: f1 0.250 (2 of 6 trials done, 0:00:00 left)"
    )


def test_the_table_shows_what_runs_and_what_ended_last() -> None:
    progress = SweepProgress(Clock())
    progress.take({**BEGIN, "total": 40})
    for number in range(2, 20):
        progress.take(running(f"{number:04d}-x"))
        progress.take(ended(f"{number:04d}-x", "finished", f1=number / 100))
    progress.take(running("0020-x", 0.125))
    out = io.StringIO()
    Console(file=out, width=110).print(progress.table())
    rows = [line for line in out.getvalue().splitlines() if "-x" in line]
    assert len(rows) == 12, "the table keeps its height"
    assert "0020-x" in rows[0] and "running" in rows[0] and "guidance.weight=0.125" in rows[0]
    assert "0019-x" in rows[1] and "0.190" in rows[1] and "finished" in rows[1]
    assert "0009-x" in rows[-1]


def test_without_a_terminal_lines_are_echoed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    lines: list[str] = []
    with live_sweep(lines.append) as show:
        show(BEGIN)
        show({"kind": "step", "trial": "0002-c", "step": 10, "epoch": 0})
        show(running("0002-c"))
    assert lines == ["loss-weight: 2 of 6 trials done, 1 failed; 2 at a time", "0002-c started: guidance.weight=0.1"]
