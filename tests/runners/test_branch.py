"""Branches: a run that goes on from a checkpoint of another one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from written import folder, records, step_files

from raytrain_xai.checkpoint import Checkpoint, complete_steps, read_checkpoint, write_checkpoint
from raytrain_xai.config import RunConfig
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.report.runs import read_runs
from raytrain_xai.run_folder import claim_attempt, create_run, open_run
from raytrain_xai.runners import branch as module
from raytrain_xai.runners.branch import branch_run
from raytrain_xai.runners.history import Evaluated, Position
from raytrain_xai.runners.train import Launch, resume_run, start_run
from raytrain_xai.storage import Location, locate

MakeConfig = Callable[..., RunConfig]
QUIET = Launch("local", lambda _: None)
RECIPE: dict[str, Any] = {
    "optim": {"schedule": "cosine", "warmup_steps": 2},
    "ema": {"decay": 0.6, "every_steps": 2},
    "checkpoint": {"every_steps": 2, "keep": 9},
}


def trained(config: RunConfig) -> Location:
    start_run(config, QUIET)
    return open_run(str(folder(config)))


def evaluated(step: int, f1: float, epg: float) -> Evaluated:
    return Evaluated(step, step, {"f1": f1, "epg": epg, "iou": 0.0})


def written(config: RunConfig, history: list[Evaluated], steps: list[int]) -> Location:
    """The folder of a run with checkpoints of one weight at ``steps``, the last after all of ``history``."""
    at = create_run(config)
    for step in steps:
        position = Position(step, step, 0, tuple(entry for entry in history if entry.step <= step))
        content = Checkpoint(
            step, {"w": torch.full((1,), step)}, {"w/m": torch.ones(1)}, position.to_json() | {"mlflow_id": "of source"}
        )
        write_checkpoint(at.child("checkpoints"), content, lambda: None)
    return at


def test_a_branch_without_changes_ends_with_the_bits_of_its_source(make_config: MakeConfig) -> None:
    """From the middle of an epoch, with everything that has a state: moments, average, position."""
    config = make_config(name="source", **RECIPE)
    source = trained(config)
    branch = config.model_copy(update={"name": "branch"})
    branch_run(source, 2, branch)
    resume_run(str(folder(branch)), [], QUIET)
    assert {"model.safetensors", "optimizer.safetensors", "ema.safetensors"} == step_files(config, 6).keys()
    assert step_files(branch, 6) == step_files(config, 6)
    for name in ("metrics.json", "pareto.json"):
        assert (folder(branch) / name).read_bytes() == (folder(config) / name).read_bytes()


def test_a_branch_goes_on_with_changed_values(make_config: MakeConfig) -> None:
    config = make_config(name="source", checkpoint={"keep": 9}, epochs=3)
    source = trained(config)
    changed = make_config(name="branch", epochs=3, optim={"lr": 1e-2}, guidance={"weight": 0.5}, checkpoint={"keep": 9})
    branch_run(source, 6, changed)
    resume_run(str(folder(changed)), [], QUIET)
    assert step_files(changed, 9)["model.safetensors"] != step_files(config, 9)["model.safetensors"]
    steps = [(r["step"], r["lr"]) for r in records(changed, "step")]
    assert steps == [(s, 1e-3) for s in range(1, 7)] + [(s, 1e-2) for s in range(7, 10)]
    before, after = (records(c, "step") for c in (config, changed))
    assert after[:6] == before[:6]
    assert after[6]["cls"] == pytest.approx(before[6]["cls"], rel=1e-6), "one network, one batch"
    assert after[6]["loss"] - after[6]["cls"] == pytest.approx(10 * (before[6]["loss"] - before[6]["cls"]), rel=1e-4)
    (event,) = [r for r in records(changed) if r.get("event") == "branched"]
    assert event["message"] == f"from step 6 of {source.uri}; guidance.weight 0.05 -> 0.5; optim.lr 0.001 -> 0.01"
    own = read_checkpoint(locate(str(folder(changed) / "checkpoints" / "step-00000006")))
    assert own.state["config"]["optim"]["lr"] == 1e-2
    assert [r["attempt"] for r in records(changed) if r["kind"] != "event"] == [1] * 8 + [3] * 4


def test_the_time_between_source_and_branch_is_no_training(make_config: MakeConfig) -> None:
    config = make_config(name="source", checkpoint={"keep": 9})
    source = trained(config)
    log = folder(config) / "metrics.jsonl"
    long_ago = [json.dumps(r | {"time": r["time"] - 1e6}) for r in records(config)]
    log.write_text("\n".join(long_ago) + "\n")
    branch = config.model_copy(update={"name": "branch"})
    branch_run(source, 3, branch)
    resume_run(str(folder(branch)), [], QUIET)
    assert read_runs([str(folder(branch))])[0].training_s() < 1e4


def test_checkpoints_that_may_be_selected_come_along(make_config: MakeConfig) -> None:
    """1 is best by F1, 2 dominated, 3 on the front; 4 is beyond the branch."""
    config = make_config(name="source", epochs=9)
    history = [evaluated(1, 0.9, 0.1), evaluated(2, 0.5, 0.1), evaluated(3, 0.6, 0.5), evaluated(4, 0.9, 0.9)]
    source = written(config, history, [1, 2, 3, 4])
    branch = branch_run(source, 3, config.model_copy(update={"name": "branch"}))
    assert complete_steps(branch.child("checkpoints")) == [1, 3]
    first, third = (read_checkpoint(branch.child("checkpoints", f"step-{step:08d}")) for step in (1, 3))
    assert first.model["w"].item() == 1 and first.optimizer["w/m"].item() == 1
    assert [entry["step"] for entry in third.state["history"]] == [1, 2, 3]
    assert third.state["mlflow_id"] is None and first.state["mlflow_id"] is None
    points = json.loads(Path(branch.path, "pareto.json").read_text())["points"]
    assert [(p["step"], p["on_front"]) for p in points] == [(1, True), (2, False), (3, True)]


def test_what_the_source_deleted_since_cannot_be_selected(make_config: MakeConfig) -> None:
    """The source went on to step 4, which is better in everything, and gave up 1, then 2, which follows as best."""
    config = make_config(name="source", epochs=9)
    history = [evaluated(1, 0.9, 0.4), evaluated(2, 0.8, 0.3), evaluated(3, 0.6, 0.2), evaluated(4, 0.9, 0.9)]
    source = written(config, history, [3, 4])
    branch = branch_run(source, 3, config.model_copy(update={"name": "branch"}))
    state = read_checkpoint(branch.child("checkpoints", "step-00000003")).state
    assert [entry["step"] for entry in state["history"]] == [3]


def test_an_interrupted_branch_is_made_again(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(name="source", epochs=9)
    source = written(config, [evaluated(1, 0.9, 0.1), evaluated(2, 0.5, 0.5)], [1, 2])
    target = config.model_copy(update={"name": "branch"})

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_config", die)
        with pytest.raises(KeyboardInterrupt):
            branch_run(source, 2, target)
    with pytest.raises(ConfigError, match="is not a run"):
        open_run(str(folder(target)))
    branch = branch_run(source, 1, target)
    assert complete_steps(branch.child("checkpoints")) == [1]
    assert claim_attempt(branch).number == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "squeezenet1_1"}}, r"model.name cannot change in a branch .* \(it was 'bcos_resnet_tiny'"),
        ({"data": {"shots": 4}}, "data.shots cannot change"),
        ({"seed": 1}, "seed cannot change"),
        ({"guidance": {"loss": "l1"}}, r"guidance.loss cannot .* can: optim, loss, mixing, .*, but not optim.name"),
        ({"optim": {"name": "sgd"}}, "optim.name cannot change"),
        ({"ema": {"decay": 0.9}}, "ema.decay cannot change"),
        ({"epochs": 2}, "epochs is 2, but step 3 of .* lies after 3 epochs; set more"),
        ({"name": "source"}, "name 'source' is taken"),
    ],
)
def test_what_makes_another_run_is_refused(make_config: MakeConfig, changes: dict[str, Any], message: str) -> None:
    source = written(make_config(name="source", epochs=9), [evaluated(3, 0.6, 0.2)], [3])
    config = make_config(**{"name": "branch", "epochs": 9} | changes)
    with pytest.raises(ConfigError, match=message):
        branch_run(source, 3, config)
    assert not (Path(config.storage) / "branch").exists()


def test_checkpoints_that_are_not_there_are_named(make_config: MakeConfig) -> None:
    config = make_config(name="source", epochs=9)
    source, branch = written(config, [evaluated(3, 0.6, 0.2)], [3]), config.model_copy(update={"name": "branch"})
    with pytest.raises(CheckpointError, match=r"has no checkpoint of step 2 \(any more\), it has: 3; branch from one"):
        branch_run(source, 2, branch)
    Path(source.path, "checkpoints", "step-00000003", "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is damaged"):
        branch_run(source, 3, branch)
    bare = Checkpoint(3, {"w": torch.ones(1)}, {}, Position(3, 3).to_json())
    write_checkpoint(source.child("checkpoints"), bare, lambda: None)
    with pytest.raises(CheckpointError, match="no optimiser state to go on from .* model.weights="):
        branch_run(source, 3, branch)
    assert not folder(branch).exists()
