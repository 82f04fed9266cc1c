"""Runs in this process: what they write, and that stopping anywhere changes nothing."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from written import folder, records, step_files

from raytrain_xai.checkpoint import complete_steps, load_network
from raytrain_xai.config import RunConfig
from raytrain_xai.errors import CheckpointError, ConfigError, DataError, RunError
from raytrain_xai.evaluation import measure_run
from raytrain_xai.run_folder import claim_attempt
from raytrain_xai.runners import loop
from raytrain_xai.runners.history import Evaluated, protected_steps
from raytrain_xai.runners.train import Launch, resume_run, start_run
from raytrain_xai.storage import locate

MakeConfig = Callable[..., RunConfig]
SQUEEZENET: dict[str, Any] = {
    "model": {"name": "squeezenet1_1", "weights": "imagenet", "norm_statistics": "frozen"},
    "guidance": {"attribution": "gradcam", "layer": "Final"},
}  # fine-tuning with Grad-CAM; its dropout draws random numbers
RECIPE: dict[str, Any] = {
    "data": {"policy": "randaugment", "erase": 0.5, "repeats": 2, "train_size": 40, "eval_resize": 56},
    "model": {"stochastic_depth": 0.3},
    "loss": {"name": "off_label_bce", "label_smoothing": 0.1},
    "mixing": {"mixup_alpha": 0.2, "cutmix_alpha": 1.0},
    "optim": {"schedule": "cosine", "warmup_epochs": 0.5, "warmup_start": 0.01, "agc": 0.01},
    "ema": {"decay": 0.6, "every_steps": 2},
    "guidance": {"weight": 0},
    "evaluation": {"select": "best_accuracy"},
}  # everything that training from scratch adds


def ignore(_: dict[str, Any]) -> None:
    """Show nothing."""


QUIET = Launch("local", ignore)


class Killed(Exception):
    """Stands for the end of the process."""


def die_before_update(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The process ends in the middle of optimiser step ``step`` (from 0), once."""
    real, calls = loop.apply_gradients, 0

    def apply_or_die(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == step + 1:
            raise Killed
        real(*args)

    monkeypatch.setattr(loop, "apply_gradients", apply_or_die)


def steps_on_disk(config: RunConfig) -> list[int]:
    return complete_steps(locate(str(folder(config) / "checkpoints")))


def test_a_run_leaves_a_complete_folder(make_config: MakeConfig) -> None:
    config = make_config(tracking={"tensorboard": True})
    seen: list[dict[str, Any]] = []
    outcome = start_run(config, Launch("local", seen.append))
    metrics = json.loads((folder(config) / "metrics.json").read_text())
    assert outcome.metrics == metrics
    for split in ("val", "test"):
        assert {"f1", "map", "epg", "iou", "accuracy", "worst_group"} <= metrics[split].keys()
    assert metrics["test"]["iou_threshold"] == metrics["val"]["iou_threshold"] == metrics["iou_threshold"]
    log = records(config)
    assert [(r["kind"], r["step"]) for r in log] == [
        ("event", 0),
        *(("step", s) for s in (1, 2, 3)),
        ("epoch", 3),
        *(("step", s) for s in (4, 5, 6)),
        ("epoch", 6),
    ]
    assert [(r["kind"], r["step"]) for r in seen] == [(r["kind"], r["step"]) for r in log]
    steps = [r for r in log if r["kind"] == "step"]
    assert all({"loss", "cls", "loc", "lr", "images_per_s", "input_wait", "seconds_left"} <= r.keys() for r in steps)
    assert steps[-1]["seconds_left"] == 0
    assert steps_on_disk(config) == [3, 6]
    assert [p["step"] for p in json.loads((folder(config) / "pareto.json").read_text())["points"]] == [3, 6]
    assert any(file.stat().st_size > 200 for file in (folder(config) / "tensorboard").iterdir())


def test_the_logged_loss_is_that_of_the_parts(make_config: MakeConfig) -> None:
    """One worker, one part: loss = cls + weight · mean over the guided images."""
    config = make_config(epochs=1, guidance={"weight": 0.05, "reduction": "mean"})
    start_run(config, QUIET)
    for record in records(config):
        if record["kind"] == "step":
            assert record["loss"] == pytest.approx(record["cls"] + 0.05 * record.get("loc", 0.0), rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"accumulate": 2, "optim": {"schedule": "cosine", "clip_norm": 0.5}},
        {"precision": "bfloat16", "channels_last": True, "data": {"num_loader_workers": 1}},
        SQUEEZENET,
        RECIPE,
    ],
    ids=["accumulated", "bfloat16", "squeezenet", "recipe"],
)
@pytest.mark.parametrize("step", [1, 3, 4])
def test_a_run_that_was_killed_ends_with_the_same_bits(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], step: int
) -> None:
    """Killed before the first checkpoint, after an epoch, and behind a checkpoint within an epoch."""
    straight = make_config(name="straight", checkpoint={"every_steps": 2}, **changes)
    killed = make_config(name="killed", checkpoint={"every_steps": 2}, **changes)
    start_run(straight, QUIET)
    with monkeypatch.context() as patch:
        die_before_update(patch, step)
        with pytest.raises(Killed):
            start_run(killed, QUIET)
    resume_run(str(folder(killed)), [], QUIET)
    assert step_files(killed, 6) == step_files(straight, 6)
    a, b = (json.loads((folder(c) / "metrics.json").read_text()) for c in (killed, straight))
    assert a == b
    kinds = [
        (r["kind"], r["step"], r.get("loss")) for c in (killed, straight) for r in records(c) if r["kind"] != "event"
    ]
    assert kinds[: len(kinds) // 2] == kinds[len(kinds) // 2 :]  # every step logged once, with the same loss


def test_another_seed_gives_other_bits(make_config: MakeConfig) -> None:
    """Control for the comparison above."""
    a, b = make_config(name="a"), make_config(name="b", seed=1)
    start_run(a, QUIET)
    start_run(b, QUIET)
    assert step_files(a, 6)["model.safetensors"] != step_files(b, 6)["model.safetensors"]


def test_training_longer_equals_training_long_from_the_start(make_config: MakeConfig) -> None:
    long, short = make_config(name="long", epochs=3), make_config(name="short", epochs=2)
    start_run(long, QUIET)
    start_run(short, QUIET)
    resume_run(str(folder(short)), ["epochs=3"], QUIET)
    assert step_files(short, 9) == step_files(long, 9)


def test_a_finished_run_is_left_alone(make_config: MakeConfig) -> None:
    config = make_config(epochs=1)
    first = start_run(config, QUIET)
    before = {file: file.stat().st_mtime_ns for file in folder(config).rglob("*")}
    again = resume_run(str(folder(config)), [], QUIET)
    assert again.was_finished and again.metrics == first.metrics
    assert {file: file.stat().st_mtime_ns for file in folder(config).rglob("*")} == before


def test_resume_does_not_need_the_weights_it_started_from(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    base = make_config(name="base", epochs=1)
    start_run(base, QUIET)
    weights = tmp_path / "weights.safetensors"
    weights.write_bytes(step_files(base, 3)["model.safetensors"])
    config = make_config(name="next", model={"weights": str(weights)})
    with monkeypatch.context() as patch:
        die_before_update(patch, 4)
        with pytest.raises(Killed):
            start_run(config, QUIET)
    weights.unlink()
    resume_run(str(folder(config)), [], QUIET)
    assert steps_on_disk(config) == [3, 6]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs=1", "can only be raised"),
        ("optim.lr=1", "optim.lr cannot change on resume"),
        ("data.path=elsewhere", "data.path cannot change"),
        ("name=other", "name cannot change"),
    ],
)
def test_a_resume_may_not_rewrite_history(make_config: MakeConfig, override: str, message: str) -> None:
    config = make_config()
    folder(config).mkdir(parents=True)
    (folder(config) / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    with pytest.raises(ConfigError, match=message):
        resume_run(str(folder(config)), [override], QUIET)


def test_a_moved_run_can_be_resumed(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = make_config()
    with monkeypatch.context() as patch:
        die_before_update(patch, 4)
        with pytest.raises(Killed):
            start_run(config, QUIET)
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    folder(config).rename(moved)
    monkeypatch.chdir(moved)
    resume_run(".", [], QUIET)
    assert (moved / "metrics.json").is_file()
    assert not folder(config).exists()


def test_a_damaged_checkpoint_is_passed_over_and_reported(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, config = make_config(name="straight"), make_config(checkpoint={"every_steps": 1})
    start_run(straight, QUIET)
    with monkeypatch.context() as patch:
        die_before_update(patch, 5)
        with pytest.raises(Killed):
            start_run(config, QUIET)
    newest = folder(config) / "checkpoints" / "step-00000005" / "model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    seen: list[dict[str, Any]] = []
    resume_run(str(folder(config)), [], Launch("local", seen.append))
    assert step_files(config, 6) == step_files(straight, 6)
    events = {r["event"]: r["message"] for r in seen if r["kind"] == "event"}
    assert "step-00000005 is damaged: model.safetensors" in events["fallback"]
    assert "resumed from step 4" in events["fallback"]
    assert events["swept"] == "deleted unusable checkpoints: step-00000005"


def test_a_superseded_run_stops_and_writes_nothing_more(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    real = loop.apply_gradients

    def newer_attempt_starts(*args: Any) -> None:
        real(*args)
        claim_attempt(locate(str(folder(config))))

    monkeypatch.setattr(loop, "apply_gradients", newer_attempt_starts)
    with pytest.raises(RunError, match="superseded by attempt-000"):
        start_run(config, QUIET)
    assert steps_on_disk(config) == []
    assert not (folder(config) / "metrics.json").exists()


def test_kept_checkpoints_are_the_newest_the_front_and_the_best(make_config: MakeConfig) -> None:
    config = make_config(epochs=5, checkpoint={"keep": 1, "every_steps": 2}, optim={"lr": 0.01})
    start_run(config, QUIET)
    state = json.loads((folder(config) / "checkpoints" / "step-00000015" / "state.json").read_text())
    history = [Evaluated(**entry) for entry in state["history"]]
    assert [entry.step for entry in history] == [3, 6, 9, 12, 15]
    assert steps_on_disk(config) == sorted(protected_steps(history, config.evaluation) | {15})


def test_a_run_below_the_minimal_f1_stops(make_config: MakeConfig) -> None:
    config = make_config(epochs=4, evaluation={"min_f1": 1.0}, optim={"lr": 1e-6})
    start_run(config, QUIET)
    assert [r["epoch"] for r in records(config) if r["kind"] == "epoch"] == [1]


def test_evaluation_every_few_epochs_and_always_at_the_end(make_config: MakeConfig) -> None:
    config = make_config(epochs=3, evaluation={"every_epochs": 2})
    start_run(config, QUIET)
    assert [r["epoch"] for r in records(config) if r["kind"] == "epoch"] == [2, 3]


def test_the_stored_network_is_the_one_that_was_measured(make_config: MakeConfig) -> None:
    config = make_config()
    start_run(config, QUIET)
    network, stored, info, metrics = load_network(str(folder(config)))
    step = metrics["selected"]["step"]
    weights = safetensors.torch.load(step_files(config, step)["model.safetensors"])
    assert all(torch.equal(value, weights[name]) for name, value in network.net.state_dict().items())
    assert not network.training
    assert stored.guidance == config.guidance
    assert (info["classes"], info["task"], info["step"]) == (["landbird", "waterbird"], "multiclass", step)
    *_, last, _ = load_network(str(folder(config)), which="last")
    assert last["step"] == 6
    with pytest.raises(CheckpointError, match="no checkpoint step-7.*there are: step-00000003, step-00000006"):
        load_network(str(folder(config)), which="step-7")


def test_the_average_is_what_is_measured_and_used(make_config: MakeConfig) -> None:
    """``eval``, ``explain`` and ``model.weights`` all take the network of ``load_network``."""
    config = make_config(**RECIPE | {"evaluation": {"select": "last"}})
    start_run(config, QUIET)
    files = step_files(config, 6)
    assert files.keys() == {"model.safetensors", "ema.safetensors", "optimizer.safetensors"}
    average, weights = (safetensors.torch.load(files[f"{name}.safetensors"]) for name in ("ema", "model"))
    assert any(not torch.equal(average[name], weights[name]) for name in weights)
    network, *_, metrics = load_network(str(folder(config)))
    assert all(torch.equal(value, average[name]) for name, value in network.net.state_dict().items())
    measured = measure_run(str(folder(config)), split="test", device=torch.device("cpu"))
    assert measured.metrics == metrics["test"]


def test_averaging_does_not_change_the_training(make_config: MakeConfig) -> None:
    with_average, without = make_config(name="with", ema={"decay": 0.9}), make_config(name="without")
    start_run(with_average, QUIET)
    start_run(without, QUIET)
    files, plain = step_files(with_average, 6), step_files(without, 6)
    assert {name: files[name] for name in plain} == plain
    assert files.keys() - plain.keys() == {"ema.safetensors"}


def test_a_non_finite_loss_stops_before_the_update(make_config: MakeConfig) -> None:
    config = make_config(**SQUEEZENET, optim={"name": "sgd", "lr": 1e20}, checkpoint={"every_steps": 1})
    with pytest.raises(RunError, match=r"non-finite loss part loss at step 1 \(epoch 0\).*failure/step-00000001.json"):
        start_run(config, QUIET)
    bundle = json.loads((folder(config) / "failure" / "step-00000001.json").read_text())
    assert bundle["first_bad"] == "loss part loss"
    assert len(bundle["sample_ids"]) == 8 and all(name.startswith("train-") for name in bundle["sample_ids"])
    assert bundle["workers"][0]["sums"]["cls_sum"] in ("inf", "nan")
    assert bundle["config"]["optim"]["lr"] == 1e20
    assert steps_on_disk(config) == [1]
    weights = safetensors.torch.load(step_files(config, 1)["model.safetensors"])
    assert all(torch.isfinite(value).all() for value in weights.values())


def test_a_name_is_used_once(make_config: MakeConfig) -> None:
    start_run(make_config(epochs=1), QUIET)
    with pytest.raises(ConfigError, match="name 'run' is taken.*raytrain-xai resume"):
        start_run(make_config(epochs=1), QUIET)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batch_size": 25}, ConfigError, "batch_size 25 is more than the 24 training samples"),
        ({"data": {"path": "/nowhere/at/all"}}, DataError, "/nowhere/at/all"),
        ({"model": {"name": "bcos_resnet_tinny"}}, ConfigError, "did you mean bcos_resnet_tiny"),
        ({"model": {"weights": "/no/such.safetensors"}}, CheckpointError, "no weights at /no/such.safetensors"),
        ({"guidance": {"attribution": "gradcam"}}, ConfigError, "bcos"),
        (
            {"model": {"name": "squeezenet1_1", "weights": "imagenet", "stochastic_depth": 0.1}},
            ConfigError,
            "no blocks that stochastic depth could drop",
        ),
        ({"resources": {"gpus_per_worker": 1}}, ConfigError, "no CUDA device"),
        ({"tracking": {"mlflow": "sqlite:///x"}}, ConfigError, "mlflow is not installed"),
        (
            {"workers": 2, "model": {"name": "resnet18", "norm_statistics": "batch"}},
            ConfigError,
            "norm_statistics=batch with several workers",
        ),
    ],
)
def test_wrong_input_is_found_before_anything_starts(
    make_config: MakeConfig, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    if "resources" in changes and torch.cuda.is_available():
        pytest.skip("has a GPU")
    if "tracking" in changes and importlib.util.find_spec("mlflow"):
        pytest.skip("has mlflow")
    config = make_config(**changes)
    with pytest.raises(error, match=message):
        start_run(config, QUIET)
    assert not folder(config).exists()
