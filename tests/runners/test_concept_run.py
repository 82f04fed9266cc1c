"""Concept runs in this process: what they write, that stopping anywhere changes nothing, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from written import folder, records, step_files

from raytrain_xai.checkpoint import complete_steps, read_checkpoint_of
from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.concept_runs.model import load_concepts
from raytrain_xai.concepts.layer import with_concepts
from raytrain_xai.config import parse_concept_config
from raytrain_xai.data.dataset import open_dataset
from raytrain_xai.data.loader import evaluation_batches
from raytrain_xai.errors import ConfigError, DataError, RunError
from raytrain_xai.evaluation import measure_run
from raytrain_xai.guidance.evaluate import evaluate, summarise
from raytrain_xai.runners import sae_learner
from raytrain_xai.runners.train import Launch, resume_run, start_run
from raytrain_xai.storage import locate

MakeConcepts = Callable[..., ConceptRunConfig]
LAST = 36  # steps of three epochs: 24 images of 36 positions, 72 vectors a step


def ignore(_: dict[str, Any]) -> None:
    """Show nothing."""


QUIET = Launch("local", ignore)


class Killed(Exception):
    """Stands for the end of the process."""


def die_before_update(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """The process ends in the middle of optimiser step ``step`` (from 0), once."""
    real, calls = sae_learner.apply_update, 0

    def apply_or_die(*args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == step + 1:
            raise Killed
        real(*args, **kwargs)

    monkeypatch.setattr(sae_learner, "apply_update", apply_or_die)


def metrics(config: ConceptRunConfig) -> dict[str, Any]:
    return json.loads((folder(config) / "metrics.json").read_text())


def test_a_run_leaves_a_complete_folder(make_concepts: MakeConcepts, network: str) -> None:
    config = make_concepts(tracking={"tensorboard": True})
    outcome = start_run(config, QUIET)
    assert outcome.metrics == metrics(config)
    assert {"val", "test", "before", "selected", "iou_threshold", "dictionary"} == outcome.metrics.keys()
    for split in ("val", "test"):
        plugged, before = outcome.metrics[split], outcome.metrics["before"][split]
        assert before.keys() < plugged.keys()
        assert {"variance_explained", "l0", "image_l0", "carriers", "dead", "always_on"} <= plugged.keys()
        assert plugged["l0"] <= 4 and plugged["residual"] < 1e-4
        assert plugged["iou_threshold"] == before["iou_threshold"] == outcome.metrics["iou_threshold"]
    assert sum(outcome.metrics["dictionary"]["counts"]) == 48 - outcome.metrics["test"]["dead"]
    alone = measure_run(network, device=torch.device("cpu")).metrics
    shared = alone.keys() - {"iou", "iou_threshold"}  # the network's own run chose its threshold elsewhere
    assert {name: outcome.metrics["before"]["test"][name] for name in shared} == {name: alone[name] for name in shared}
    steps = records(config, "step")
    assert [record["step"] for record in steps] == list(range(3, LAST + 1, 3))
    assert all({"loss", "variance_explained", "dead", "vectors_per_s", "lr"} <= record.keys() for record in steps)
    assert steps[-1]["variance_explained"] > steps[0]["variance_explained"]
    assert [record["step"] for record in records(config, "epoch")] == [12, 24, LAST]
    assert any(file.stat().st_size > 200 for file in (folder(config) / "tensorboard").iterdir())


def test_metrics_are_those_of_the_concepts_as_they_are_loaded(make_concepts: MakeConcepts) -> None:
    config = make_concepts(epochs=1)
    start_run(config, QUIET)
    model = load_concepts([str(folder(config))])
    plugged = with_concepts(model.network, model.layers)
    batches = evaluation_batches(model.data, "test", 48, 64)
    state = evaluate(plugged, batches, method="bcos", layer="Input", loss="energy", device=torch.device("cpu"))
    found = summarise(state, open_dataset(model.data), metrics(config)["iou_threshold"])
    test = metrics(config)["test"]
    assert found == {name: test[name] for name in found}


@pytest.mark.parametrize("step", [1, 13, 20])
def test_a_run_that_was_killed_ends_with_the_same_bits(
    make_concepts: MakeConcepts, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """Killed before the first checkpoint, after an epoch, and behind a checkpoint within an epoch."""
    changes: dict[str, Any] = {"checkpoint": {"every_steps": 5}, "sae": {"dead_after_epochs": 0.1}}
    straight, killed = make_concepts(name="straight", **changes), make_concepts(name="killed", **changes)
    start_run(straight, QUIET)
    with monkeypatch.context() as patch:
        die_before_update(patch, step)
        with pytest.raises(Killed):
            start_run(killed, QUIET)
    resume_run(str(folder(killed)), [], QUIET)
    assert step_files(killed, LAST) == step_files(straight, LAST)
    assert metrics(killed) == metrics(straight)
    losses = [[(r["step"], r["loss"]) for r in records(config, "step")][-3:] for config in (killed, straight)]
    assert losses[0] == losses[1]
    assert any(record["aux"] > 0 for record in records(straight, "step")), "else the firing counts did not matter"


@pytest.mark.parametrize("kind", ["batch_topk", "relu", "jumprelu"])
def test_variants_resume_to_the_same_bits_and_are_used_at_the_scale_of_the_network(
    make_concepts: MakeConcepts, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    sae = {"kind": kind, "latents": 48, **({"k": 4} if kind == "batch_topk" else {})}
    straight, killed = (
        parse_concept_config({**make_concepts(name=name, epochs=2).model_dump(), "sae": sae})
        for name in ("straight", "killed")
    )
    start_run(straight, QUIET)
    with monkeypatch.context() as patch:
        die_before_update(patch, 14)
        with pytest.raises(Killed):
            start_run(killed, QUIET)
    resume_run(str(folder(killed)), [], QUIET)
    assert step_files(killed, 24) == step_files(straight, 24)
    trained, plugged = records(straight, "step")[-1], metrics(straight)["val"]
    assert plugged["l0"] == pytest.approx(trained["l0"], rel=0.5), "a threshold of another scale passes all or nothing"


def test_another_seed_gives_other_bits(make_concepts: MakeConcepts) -> None:
    """Control for the comparisons above."""
    a, b = make_concepts(name="a", epochs=1), make_concepts(name="b", epochs=1, seed=1)
    start_run(a, QUIET)
    start_run(b, QUIET)
    assert step_files(a, 12)["model.safetensors"] != step_files(b, 12)["model.safetensors"]


def test_a_run_needs_nothing_outside_of_its_folder(
    make_concepts: MakeConcepts, network: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    copy = tmp_path / "network"
    copy.mkdir()
    for file in Path(network).rglob("*"):
        if file.is_file():
            (copy / file.relative_to(network)).parent.mkdir(parents=True, exist_ok=True)
            (copy / file.relative_to(network)).write_bytes(file.read_bytes())
    config = make_concepts(network=str(copy), features={"store": str(tmp_path / "features")})
    with monkeypatch.context() as patch:
        die_before_update(patch, 13)
        with pytest.raises(Killed):
            start_run(config, QUIET)
    for file in sorted(copy.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    moved = tmp_path / "elsewhere"
    folder(config).rename(moved)
    resume_run(str(moved), [], QUIET)
    model = load_concepts([str(moved)])
    assert list(model.layers) == ["Mid3"]
    assert complete_steps(locate(str(moved / "checkpoints")))[-1] == LAST


def test_a_store_is_exported_once_and_shared(make_concepts: MakeConcepts, tmp_path: Path) -> None:
    store = str(tmp_path / "features")
    first, second = (make_concepts(name=name, epochs=1, features={"store": store}) for name in ("a", "b"))
    seen: list[dict[str, Any]] = []
    start_run(first, Launch("local", seen.append))
    assert any(record["kind"] == "tasks" for record in seen)
    written = {file: file.stat().st_mtime_ns for file in (tmp_path / "features").rglob("*")}
    seen.clear()
    start_run(second, Launch("local", seen.append))
    assert not any(record["kind"] == "tasks" for record in seen)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "features").rglob("*")} == written
    assert step_files(first, 12)["model.safetensors"] == step_files(second, 12)["model.safetensors"]
    with pytest.raises(DataError, match="holds other features.*per_image"):
        start_run(make_concepts(name="c", features={"store": store, "per_image": 5}, batch_size=24), QUIET)


def test_training_longer_equals_training_long_under_a_constant_rate(make_concepts: MakeConcepts) -> None:
    optim = {"constant_epochs": 99}
    long, short = make_concepts(name="long", optim=optim), make_concepts(name="short", optim=optim, epochs=2)
    start_run(long, QUIET)
    start_run(short, QUIET)
    resume_run(str(folder(short)), ["epochs=3"], QUIET)
    assert step_files(short, LAST) == step_files(long, LAST)


def test_the_best_checkpoint_is_kept_and_selected(make_concepts: MakeConcepts) -> None:
    config = make_concepts(checkpoint={"keep": 1})
    start_run(config, QUIET)
    accuracy = {record["step"]: record["val"]["accuracy"] for record in records(config, "epoch")}
    best = max(accuracy, key=lambda step: (accuracy[step], -step))  # the first of equals
    assert metrics(config)["selected"]["step"] == best
    assert complete_steps(locate(str(folder(config) / "checkpoints"))) == sorted({best, LAST})
    state = read_checkpoint_of(locate(str(folder(config)))).state
    assert (state["step"], state["layer"], state["dim"]) == (best, "Mid3", 128)
    assert state["before"] == metrics(config)["before"]["val"]


def test_a_non_finite_step_changes_nothing_and_is_named(make_concepts: MakeConcepts) -> None:
    config = make_concepts(optim={"lr": 1e30, "clip_norm": None, "warmup_epochs": 0})
    with pytest.raises(RunError, match=r"^non-finite .* at step \d+ .*lower optim.lr"):
        start_run(config, QUIET)
    failure = next((folder(config) / "failure").iterdir())
    assert json.loads(failure.read_text())["first_bad"]
    assert not (folder(config) / "metrics.json").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"layer": "Mid4"}, ConfigError, "no layer 'Mid4'; did you mean Mid"),
        ({"layer": "Input"}, ConfigError, "layer=Input is the image itself"),
        ({"network": "/nowhere"}, ConfigError, "/nowhere is not a run"),
        ({"network": "squeezenet1_1=imagenet"}, ConfigError, "set data to a prepared one"),
        (
            {"sae": {"k": 128, "latents": 128}},
            ConfigError,
            "128 channels that bcos_resnet_tiny has at Mid3",
        ),
        ({"batch_size": 9999}, ConfigError, "batch_size 9999 is more than the 864 vectors of an epoch .24 images, 36"),
        ({"features": {"split": "trian"}}, DataError, "no samples in its trian split"),
        ({"workers": 2}, ConfigError, "1 streams, which do not divide among 2 workers"),
        ({"sae": {"latents": 2**40}}, ConfigError, "checkpoints of .* GB"),
        ({"resources": {"gpus_per_worker": 1}}, ConfigError, "no CUDA device"),
    ],
)
def test_wrong_input_is_found_before_anything_starts(
    make_concepts: MakeConcepts, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    if "resources" in changes and torch.cuda.is_available():
        pytest.skip("has a GPU")
    config = make_concepts(**changes)
    with pytest.raises(error, match=message):
        start_run(config, QUIET)
    assert not folder(config).exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sae.k=3", "sae.k cannot change on resume"),
        ("layer=Final", "layer cannot change"),
        ("job=classify", "unknown key"),
        ("epochs=1", "can only be raised"),
    ],
)
def test_a_resume_may_not_rewrite_history(make_concepts: MakeConcepts, override: str, message: str) -> None:
    config = make_concepts()
    folder(config).mkdir(parents=True)
    (folder(config) / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")))
    with pytest.raises(ConfigError, match=message):
        resume_run(str(folder(config)), [override], QUIET)


@pytest.mark.parametrize("keep_length", [True, False])
def test_reconstructions_in_use_have_the_length_of_the_features(make_concepts: MakeConcepts, keep_length: bool) -> None:
    """The rows of the dictionary carry the factor; training keeps them at length 1."""
    config = make_concepts(sae={"keep_length": keep_length})
    start_run(config, QUIET)
    checkpoint = read_checkpoint_of(locate(str(folder(config))))
    [layer] = load_concepts([str(folder(config))]).layers.values()
    trained, used = checkpoint.model["dictionary"].norm(dim=1), layer.sae.dictionary.norm(dim=1)
    torch.testing.assert_close(trained, torch.ones_like(trained))
    torch.testing.assert_close(used, torch.full_like(used, checkpoint.state["gain"]))
    assert checkpoint.state["gain"] > 1.01 if keep_length else checkpoint.state["gain"] == 1
