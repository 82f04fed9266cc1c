"""MLflow: one entry per run folder, whatever happens to the processes. Needs the extra ``mlflow``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raytrain_xai.config import RunConfig
from raytrain_xai.errors import ConfigError
from raytrain_xai.runners import loop
from raytrain_xai.runners.train import Launch, resume_run, start_run

tracking = pytest.importorskip("mlflow.tracking", reason="the extra mlflow is not installed")
MakeConfig = Callable[..., RunConfig]


class Killed(Exception):
    """Stands for the end of the process."""


def test_a_restart_continues_the_same_entry(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = f"file:{tmp_path}/mlruns"
    config = make_config(tracking={"mlflow": uri})
    real, calls = loop.apply_gradients, 0

    def apply_or_die(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 5:
            raise Killed
        real(*args)

    client = tracking.MlflowClient(uri)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "apply_gradients", apply_or_die)
        with pytest.raises(Killed):
            start_run(config, Launch("local", [].append))
    experiment = client.get_experiment_by_name("raytrain-xai").experiment_id
    assert [run.info.status for run in client.search_runs([experiment])] == ["FAILED"]

    folder = Path(config.storage) / config.name
    resume_run(str(folder), [], Launch("local", [].append))
    (run,) = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert run.data.params["optim.lr"] == "0.001"
    assert (
        run.data.metrics["val/epg"] == json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])["val"]["epg"]
    )
    assert {m.step for m in client.get_metric_history(run.info.run_id, "train/loss")} == {1, 2, 3, 4, 5, 6}
    state = json.loads((folder / "checkpoints" / "step-00000006" / "state.json").read_text())
    assert state["mlflow_id"] == run.info.run_id


def test_a_server_that_cannot_be_used_is_found_before_anything_starts(make_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"tracking.mlflow 'nosuch://x' cannot be used"):
        start_run(make_config(tracking={"mlflow": "nosuch://x"}), Launch("local", [].append))
