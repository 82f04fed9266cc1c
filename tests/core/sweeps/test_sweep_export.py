"""A trial leaves its sweep as a run that needs nothing of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from raytrain_xai.checkpoint import load_network
from raytrain_xai.cli.tune import tune_group
from raytrain_xai.errors import ConfigError
from raytrain_xai.run_folder import open_run, read_config
from raytrain_xai.storage import write_bytes
from raytrain_xai.sweep_config import SweepConfig
from raytrain_xai.sweeps.export import best_trial, export_trial
from raytrain_xai.sweeps.folder import TrialState, create_sweep, write_state
from raytrain_xai.sweeps.plan import make_plan


@pytest.fixture(scope="module")
def sweep(birds: str, make_run: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """A sweep of three trials: two finished with F1 .75 and EPG .5 both, one without a run."""
    storage = tmp_path_factory.mktemp("sweeps")
    base = {"epochs": 2, "data": {"path": birds, "image_size": 32}, "model": {"name": "squeezenet1_1"}}
    config = SweepConfig.model_validate(
        {"name": "s", "storage": str(storage), "base": base, "space": {"guidance.weight": [0.1, 0.2, 0.3]}}
    )
    plan = make_plan(config)
    at = create_sweep(config, plan)
    order = at.child("orders", "random-s0.json")
    write_bytes(order, b'{"ids": ["a"]}\n')
    for spec in plan[:2]:
        guidance = {"weight": spec.values["guidance.weight"], "annotation_order": order.uri}
        make_run(storage / "s" / "trials", spec.id, birds, guidance=guidance)
        write_state(at, spec.id, TrialState("finished", None, 1, 2.0))
    return at.uri, [spec.id for spec in plan]


def test_an_exported_trial_outlives_its_sweep(sweep: tuple[str, list[str]], tmp_path: Path) -> None:
    address, ids = sweep
    copy = tmp_path / "sweep"
    shutil.copytree(address, copy)
    dest = tmp_path / "served" / "birds"
    assert export_trial(str(copy), ids[1], str(dest)) == str(dest)
    shutil.rmtree(copy)
    raw = read_config(open_run(str(dest)))
    assert (raw["name"], raw["storage"]) == ("birds", str(tmp_path / "served"))
    assert raw["guidance"]["weight"] == 0.2
    assert Path(raw["guidance"]["annotation_order"]).read_text() == '{"ids": ["a"]}\n'
    assert raw["guidance"]["annotation_order"] == str(dest / "annotation_order.json")
    network, config, info, metrics = load_network(str(dest))
    assert info["classes"] == ["landbird", "waterbird"] and metrics["test"]["f1"] == 0.7
    assert config.name == "birds" and network.name == "squeezenet1_1"


def test_trials_are_found_by_the_beginning_of_their_id(sweep: tuple[str, list[str]], tmp_path: Path) -> None:
    address, ids = sweep
    export_trial(address, ids[0][:4], str(tmp_path / "a"))
    with pytest.raises(ConfigError, match=r"^.* holds a run already; choose another folder$"):
        export_trial(address, ids[0], str(tmp_path / "a"))
    with pytest.raises(ConfigError, match="^3 trials begin with '000' in .*; there are: 0000-"):
        export_trial(address, "000", str(tmp_path / "b"))
    with pytest.raises(ConfigError, match="^no trial begins with 'x' in .*; there are: 0000-"):
        export_trial(address, "x", str(tmp_path / "b"))
    with pytest.raises(ConfigError, match=f"^trial {ids[2]} of .* is not finished"):
        export_trial(address, ids[2], str(tmp_path / "b"))
    assert not (tmp_path / "b").exists()


def test_the_best_trial_by_a_metric(sweep: tuple[str, list[str]]) -> None:
    address, ids = sweep
    assert best_trial(address, "f1") == ids[0], "the first of equals"
    with pytest.raises(ConfigError, match="has the metric accuracy; there are: epg, f1, iou, iou_threshold$"):
        best_trial(address, "accuracy")


def test_the_command_takes_a_trial_or_the_best(sweep: tuple[str, list[str]], tmp_path: Path) -> None:
    address, ids = sweep
    runner = CliRunner()
    done = runner.invoke(tune_group, ["export", address, "--best", "epg", str(tmp_path / "best")])
    assert done.output == f"{ids[0]} -> {tmp_path / 'best'}\n", done.output
    wrong = runner.invoke(tune_group, ["export", address, str(tmp_path / "c")])
    assert isinstance(wrong.exception, ConfigError) and "give TRIAL DEST" in str(wrong.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give either the CONFIG of a sweep, or --resume SWEEP"),
        (["a.yaml", "--resume", "b"], "give either the CONFIG of a sweep, or --resume SWEEP"),
        (["--resume", "b", "--set", "name=c"], "--set does not go with --resume"),
        (["run", "nowhere.yaml"], "no configuration file at nowhere.yaml"),
        (["nowhere.yaml", "--concurrent", "2"], "no configuration file at nowhere.yaml"),
    ],
)
def test_run_is_the_default_command(arguments: list[str], message: str) -> None:
    done = CliRunner().invoke(tune_group, arguments or ["run"])
    assert isinstance(done.exception, ConfigError) and str(done.exception).startswith(message)


def test_an_address_that_is_no_sweep(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a sweep: it has no sweep.yaml"):
        best_trial(str(tmp_path), "f1")
