"""Processes of runs are killed, stopped and doubled; what they leave behind ends as if nothing had happened."""

from __future__ import annotations

import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from full_disk import train_on_a_full_disk
from mortal import Mortal
from written import folder, records, results

from raytrain_xai.config import RunConfig
from raytrain_xai.runners.train import Launch, start_run

MakeConfig = Callable[..., RunConfig]
pytestmark = [pytest.mark.ray, pytest.mark.timeout(280)]  # no Ray in here, but processes: alone on the machine
_KILLS = 20


def logged(config: RunConfig) -> list[tuple[str, int, Any]]:
    return [(r["kind"], r["step"], r.get("loss", r.get("val"))) for r in records(config) if r["kind"] != "event"]


def test_twenty_kills_do_not_change_a_run(make_config: MakeConfig) -> None:
    """Each a moment after one of the first steps of a life: in a step, an evaluation, or the write of a checkpoint."""
    changes = {"epochs": 20, "checkpoint": {"every_steps": 1, "keep": 1}, "evaluation": {"every_epochs": 4}}
    straight, killed = make_config(name="straight", **changes), make_config(name="killed", **changes)
    start_run(straight, Launch("local", [].append))
    moments = random.Random(9)
    for _ in range(_KILLS):
        life = Mortal.start(killed)
        assert life.wait_for_steps(moments.choice((1, 1, 2))), life.error
        time.sleep(moments.uniform(0, 0.1))
        life.kill()
        assert not life.is_done
    last = Mortal.start(killed).wait()
    assert last.is_done, last.error
    assert len(list((folder(killed) / "attempts").iterdir())) == _KILLS + 1
    assert results(killed) == results(straight)
    assert logged(killed) == logged(straight)


def test_of_processes_that_resume_a_run_together_one_trains(make_config: MakeConfig) -> None:
    straight, wanted = make_config(name="straight", epochs=10), make_config(name="wanted", epochs=10)
    start_run(straight, Launch("local", [].append))
    first = Mortal.start(wanted)
    assert first.wait_for_steps(4)
    first.kill()
    rivals = [rival.wait() for rival in [Mortal.start(wanted) for _ in range(3)]]
    assert [rival.is_done for rival in rivals].count(True) == 1
    for rival in rivals:
        assert rival.is_done or rival.error.startswith("SupersededError: attempt attempt-")
    assert results(wanted) == results(straight)
    assert logged(wanted) == logged(straight)


def test_a_process_that_wakes_up_after_another_took_over_changes_nothing(make_config: MakeConfig) -> None:
    changes = {"epochs": 6, "checkpoint": {"every_steps": 1}}
    straight, shared = make_config(name="straight", **changes), make_config(name="shared", **changes)
    start_run(straight, Launch("local", [].append))
    sleeper = Mortal.start(shared)
    assert sleeper.wait_for_steps(5)
    sleeper.send(signal.SIGSTOP)
    other = Mortal.start(shared).wait()
    assert other.is_done, other.error
    before = contents(folder(shared))
    sleeper.send(signal.SIGCONT)
    assert "was superseded by attempt-0002" in sleeper.wait().error
    assert contents(folder(shared)) == before
    assert results(shared) == results(straight)


def contents(run: Path) -> dict[str, bytes]:
    """All files but those of checkpoints without a manifest: one stopped in its write may go on with that, unread."""
    unfinished = {at for at in (run / "checkpoints").iterdir() if not (at / "manifest.json").exists()}
    files = (file for file in sorted(run.rglob("*")) if file.is_file() and file.parent not in unfinished)
    return {str(file): file.read_bytes() for file in files}


def test_a_full_disk_ends_a_run_in_one_line_and_costs_no_step_that_was_kept(
    make_config: MakeConfig, tmp_path: Path
) -> None:
    """A real file system of 64 MB that others fill up while the run trains."""
    changes = {"checkpoint": {"every_steps": 2}, "tracking": {"tensorboard": True}}
    straight = make_config(name="straight", **changes)
    full = make_config(name="full", storage=str(tmp_path / "disk"), **changes)
    start_run(straight, Launch("local", [].append))
    report = train_on_a_full_disk(full, tmp_path)
    assert report["steps"] == [2, 3]
    left = make_config(name="full", storage=str(tmp_path))
    assert results(left) == results(straight)
    assert logged(left) == logged(straight)


def test_a_checkpoint_that_does_not_fit_leaves_those_before_it_and_the_log(make_config: MakeConfig) -> None:
    """Files may not grow beyond a limit that the log keeps to and a checkpoint does not."""
    straight, full = make_config(name="straight", epochs=6), make_config(name="full", epochs=6)
    start_run(straight, Launch("local", [].append))
    running = Mortal.start(full)
    assert running.wait_for_steps(4)
    model = folder(full) / "checkpoints" / "step-00000003" / "model.safetensors"
    resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (model.stat().st_size // 2, resource.RLIM_INFINITY))
    error = running.wait().error
    assert error.startswith("RunError: cannot write ") and "File too large; the run stops here" in error
    last = max(step for kind, step, _ in logged(full) if kind == "step")
    names = sorted(path.name for path in (folder(full) / "checkpoints").iterdir())
    assert names and f"step-{last:08d}" not in names
    assert all((folder(full) / "checkpoints" / name / "manifest.json").is_file() for name in names)
    assert Mortal.start(full).wait().is_done
    assert results(full) == results(straight)
    assert logged(full) == logged(straight)
