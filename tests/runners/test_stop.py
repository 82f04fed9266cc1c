"""A run that is asked to stop writes a checkpoint; resumed from it, it ends with the bits of one that never stopped."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from driver import driver
from written import folder, records

from raytrain_xai.config import RunConfig
from raytrain_xai.errors import StoppedError
from raytrain_xai.runners import stop
from raytrain_xai.runners.stop import Listener, StopRequest
from raytrain_xai.runners.train import Launch, Outcome, resume_run, start_run
from raytrain_xai.runners.worker import Halt, Worker

MakeConfig = Callable[..., RunConfig]
STEPS = 6  # two epochs of three


def weights(config: RunConfig, step: int) -> bytes:
    at = folder(config) / "checkpoints" / f"step-{step:08d}"
    return (at / "model.safetensors").read_bytes() + (at / "optimizer.safetensors").read_bytes()


def logged_steps(config: RunConfig) -> list[int]:
    return [record["step"] for record in records(config, "step")]


def stopped_after(config: RunConfig, step: int) -> StoppedError:
    """Ask for a stop as soon as a step is logged; the run hears it at the end of that step."""
    request = StopRequest()

    def publish(record: dict[str, Any]) -> None:
        if record["kind"] == "step" and record["step"] == step:
            request.ask(Halt("stop", "SIGTERM", 143))

    with pytest.raises(StoppedError) as error:
        start_run(config, Launch("local", publish, stop=request))
    return error.value


def test_stopping_anywhere_changes_nothing(make_config: MakeConfig) -> None:
    straight = make_config(name="straight")
    expected: Outcome = start_run(straight, Launch("local", [].append))
    for step in (2, 3, STEPS):  # within an epoch, before an evaluation, before the last one
        config = make_config(name=f"stopped-{step}")
        error = stopped_after(config, step)
        assert error.exit_code == 143
        assert str(error) == (
            f"stopped by SIGTERM; checkpoint written at step {step}; continue with "
            f"`raytrain-xai resume {folder(config)}`"
        )
        assert not (folder(config) / "metrics.json").exists()
        assert logged_steps(config) == list(range(1, step + 1))

        outcome = resume_run(str(folder(config)), [], Launch("local", [].append))
        assert outcome.metrics == expected.metrics
        assert weights(config, STEPS) == weights(straight, STEPS)
        assert logged_steps(config) == list(range(1, STEPS + 1)), "no step was taken twice"


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_the_command_with_one_line(
    make_config: MakeConfig, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    config = make_config(epochs=400, evaluation={"every_epochs": 400})  # longer than anybody waits
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    with driver("train", str(file), env=os.environ) as command:
        command.wait_for("step 2: loss")
        command.send(number)
        ended, lines = command.end()
    assert ended == code
    assert lines[-1].startswith(f"stopped by {number.name}; checkpoint written at step ")
    assert not any("Traceback" in line for line in lines)
    step = logged_steps(config)[-1]
    assert (folder(config) / "checkpoints" / f"step-{step:08d}" / "manifest.json").is_file()


def test_the_second_signal_does_not_wait() -> None:
    request = StopRequest()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), request.at_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        assert request.asked() == Halt("stop", "SIGTERM", 143)
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_workers_ask_twice_a_second_at_steps_that_all_of_them_know(monkeypatch: pytest.MonkeyPatch) -> None:
    now, asked = 0.0, 0
    said: list[list[int]] = []

    def answer() -> Halt | None:
        nonlocal asked
        asked += 1
        return None

    monkeypatch.setattr(stop.time, "monotonic", lambda: now)
    monkeypatch.setattr(stop, "is_distributed", lambda: True)
    monkeypatch.setattr(stop, "broadcast_tensors", lambda tensors: said.extend(t.tolist() for t in tensors))
    listener = Listener(Worker(0, 2, torch.device("cpu"), [].append, [].append, answer), 0)
    at: list[int] = []
    for step in range(1, 101):
        now += 0.05
        before = len(said)
        listener.asked(step)
        at += [step] * (len(said) - before)
    assert at[:5] == [1, 3, 7, 15, 25], "twice as far each time, until half a second lies between two of them"
    assert at[-1] - at[-2] == 10
    assert asked == len(at)
    listener.asked(101, now=True)
    assert len(said) == len(at) + 1


def test_workers_hear_what_worker_0_was_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"kind": "preemption", "reason": "node 1 goes", "exit_code": 143}
    monkeypatch.setattr(stop, "is_distributed", lambda: True)
    monkeypatch.setattr(stop, "broadcast_tensors", lambda tensors: tensors[0].copy_(torch.tensor([3, 1])))
    monkeypatch.setattr(stop, "broadcast_json", lambda value, _: told if value is None else pytest.fail("not worker 0"))
    listener = Listener(Worker(1, 2, torch.device("cpu"), [].append, [].append), 5)
    assert listener.asked(5) is None
    assert listener.asked(6) == Halt("preemption", "node 1 goes")
    assert listener.asked(8) is None, "worker 0 said: in three steps"
    assert listener.asked(9) is not None
