"""``raytrain-xai train`` and ``resume`` as a user runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from raytrain_xai.cli.main import main
from raytrain_xai.config import RunConfig

MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def config_file(make_config: MakeConfig, tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(make_config(epochs=1).model_dump(mode="json")))
    return file


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["raytrain-xai", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    return int(exit_.value.code or 0)


def test_train_then_resume_in_this_process(
    config_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "runs" / "run")
    assert call(monkeypatch, "train", str(config_file)) == 0
    out, err = capsys.readouterr()
    assert "test  f1 0." in out and "worst_group" in out and "report.html" in out
    assert "epoch 1 step 3: loss" in err and "images/s" in err and "0:00 left" in err
    assert "epoch 1 done, validation: f1" in err
    assert (Path(run) / "report.html").is_file()

    assert call(monkeypatch, "train", str(config_file)) == 2
    assert capsys.readouterr().err.startswith("error: name 'run' is taken")

    assert call(monkeypatch, "resume", run) == 0
    assert "is finished (checkpoint of epoch 1 selected); --set epochs=N trains longer" in capsys.readouterr().err

    assert call(monkeypatch, "resume", run, "--set", "epochs=2") == 0
    assert (Path(run) / "checkpoints" / "step-00000006" / "manifest.json").is_file()


def test_a_failed_run_is_exit_code_1_and_one_line(
    config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = ["optim.name=sgd", "optim.lr=1e20", "model={name: squeezenet1_1}", "guidance={}"]
    assert call(monkeypatch, "train", str(config_file), *(a for c in changes for a in ("--set", c))) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 and "non-finite" in errors[0]


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_train_on_a_local_cluster_leaves_nothing_behind(config_file: Path, tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    program = [sys.executable, "-c", "from raytrain_xai.cli.main import main; main()"]
    with tempfile.TemporaryDirectory(prefix="t") as scratch:  # short: Ray keeps sockets below it
        environment = os.environ | {"RX_MARK": mark, "TMPDIR": scratch, "HOME": scratch}
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            environment.pop(name, None)
        done = subprocess.run(
            [*program, "train", str(config_file), "--workers", "1"],
            env=environment, capture_output=True, text=True, timeout=200, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        left = {name for name in os.listdir(scratch) if name not in (".cache", ".config")}  # of matplotlib
        assert not left, "a folder of Ray, or a token in the home directory"
    assert marked_processes(mark) == []
    lines = done.stderr.splitlines()
    assert lines[0] == "start: attempt 1 on 1 worker(s), step 0 of 3"
    assert lines[-1].startswith("epoch 1 done, validation: f1")
    assert len(lines) == 5, done.stderr
    assert json.loads((tmp_path / "runs" / "run" / "metrics.json").read_text())["selected"]["step"] == 3


def marked_processes(mark: str) -> list[str]:
    found: list[str] = []
    for process in Path("/proc").iterdir():
        try:
            if f"RX_MARK={mark}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text())
        except OSError:
            continue  # not a process, or gone by now
    return found
