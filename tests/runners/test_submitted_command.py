"""Commands on their way to a cluster: checked here, independent of this machine, and otherwise what they were."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from raytrain_xai.cli.main import cli
from raytrain_xai.cli.submitted import NAMES_OR_PLACES, PLACES, kinds_of, plan_command, train_or_tune
from raytrain_xai.config import load_job
from raytrain_xai.errors import ConfigError
from raytrain_xai.runners.preflight import absolute
from raytrain_xai.runners.submit import JobPlan
from raytrain_xai.sweeps.load import load_sweep

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = REPOSITORY / "configs" / "tiny"
RUNS = sorted(file for file in TINY.glob("*.yaml") if not file.name.startswith("sweep"))
# Values that are no places: words, numbers, patterns, and what submit deals with by itself.
WORDS = {
    "A,B,", "N,N,", "BASE", "C", "CHECKPOINT", "CLASS", "CONFIG", "HOST", "HOST:PORT", "ID", "KEYS", "LABEL_COLUMN",
    "METRIC", "NAME", "NAME[@LAYER", "SPLIT", "TAP", "TEXT", "TRIAL", "VARIANT", "VERSION",
}  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(group: click.Group, *names: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)
        else:
            yield " ".join((*names, name)), command


def plan(*command: str) -> JobPlan:
    return plan_command(cli, command)


def parsed(args: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Name and parameters of a command line, as the command line itself reads them, without running it."""
    context, rest = click.Context(cli, info_name="raytrain-xai"), list(args)
    known = dict(commands(cli))
    length = next(n for n in (2, 1) if " ".join(rest[:n]) in known)
    command = known[" ".join(rest[:length])]
    return " ".join(rest[:length]), command.make_context(command.name, rest[length:], parent=context).params


def test_every_value_of_every_command_is_known_as_a_place_or_a_word() -> None:
    """A new option has to say by its name in the help whether it is a path; one that is forgotten fails here."""
    unknown = {
        f"{name}: {kind}"
        for name, command in commands(cli)
        for parameter in command.params
        if isinstance(parameter.type, click.Path | click.File | type(click.STRING))
        for kind in kinds_of(parameter)
        if name != "submit" and kind not in PLACES | NAMES_OR_PLACES | WORDS
    }
    assert not unknown


@pytest.mark.parametrize(
    "line",
    [
        "catalogue /r --workers 2 --split val --gpus-per-worker 0.5",
        "batch /r /images --out /o --class a --class b",
        "insight describe s3://b/r --data s3://b/one --data s3://b/two",
        "tune run --resume s3://b/sweep --concurrent 3",
        "resume /r --workers 0 --set epochs=9 --set optim.lr=0.1",
        "concepts names /r --set 3=head --set 4=tail",
        "tune export /s t01 /o",
        "data prepare voc2012 /VOCdevkit s3://b/voc",
        "insight score /r --data /d --out /o/scores.json",
    ],
)
def test_a_command_of_absolute_places_stays_what_it_is(line: str) -> None:
    assert parsed(plan(*line.split()).args) == parsed(line.split())


def test_tune_without_run_and_debug_are_understood() -> None:
    made = plan("--debug", "tune", "--resume", "/s")
    assert made.args == ("--debug", "tune", "run", "--resume=/s")


def test_relative_places_are_those_of_this_folder_and_files_travel(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "a.png").write_bytes(b"picture")
    (folder / "why").write_bytes(b"an older result")  # written, not read: stays
    made = plan("explain", "run", "a.png", "b.png", "--out", "why")
    name, params = parsed(made.args)
    assert name == "explain"
    assert params["run"] == f"{folder}/run"
    assert params["images"] == ("files/0/a.png", f"{folder}/b.png")
    assert str(params["out"]) == f"{folder}/why"
    assert made.files == {"files/0/a.png": folder / "a.png"}
    assert sorted(made.local) == sorted([f"run={folder}/run", f"images={folder}/b.png", f"out={folder}/why"])


def test_names_are_left_alone_until_there_is_such_a_file(folder: Path) -> None:
    command = ("insight", "name", "/r", "--vocabulary", "words")
    assert parsed(plan(*command).args)[1]["vocabularies"] == ("words",)
    (folder / "words").write_text("cat\ndog\n")
    assert parsed(plan(*command).args)[1]["vocabularies"] == ("files/0/words",)


@pytest.mark.parametrize("config", RUNS, ids=lambda file: file.stem)
def test_a_run_travels_as_what_it_resolves_to_here(config: Path, folder: Path) -> None:
    made = plan_command(cli, train_or_tune(str(config), ["name=other", "storage=here/runs"]))
    assert made.args == ("train", "--", "config.yaml")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "config.yaml").write_text(made.texts["config.yaml"])
    sent = load_job(folder / "elsewhere" / "config.yaml")
    assert sent.name == made.name == "other"
    assert sent.storage == f"{folder}/here/runs"
    assert f"storage={folder}/here/runs" in made.local
    before = load_job(config, ["name=other"]).model_dump(mode="json")
    moved = differing(before, sent.model_dump(mode="json"))
    assert moved and all(new == str(folder / old) or old == "runs" for old, new in moved), moved


def differing(one: Any, other: Any) -> list[tuple[Any, Any]]:
    """Leaves that differ."""
    if isinstance(one, dict):
        return [pair for key in one for pair in differing(one[key], other[key])]
    if isinstance(one, list):
        return [pair for a, b in zip(one, other, strict=True) for pair in differing(a, b)]
    return [] if one == other else [(one, other)]


def test_a_sweep_travels_with_its_base(folder: Path) -> None:
    made = plan_command(cli, train_or_tune(str(TINY / "sweep_birds.yaml"), ["fixed.epochs=3"]))
    assert made.args == ("tune", "run", "--", "config.yaml")
    (folder / "config.yaml").write_text(made.texts["config.yaml"])
    sent, here = load_sweep(folder / "config.yaml"), load_sweep(TINY / "sweep_birds.yaml", ["fixed.epochs=3"])
    assert sent.base["data"]["path"] == f"{folder}/datasets/tiny-birds"
    assert sent.storage == f"{folder}/runs"
    assert (sent.space, sent.fixed, sent.baseline) == (here.space, here.fixed, here.baseline)
    assert made.num_cpus == 0


def test_s3_is_nobody_s_local_path() -> None:
    config = str(TINY / "scenes_birds.yaml")
    made = plan_command(cli, train_or_tune(config, ["storage=s3://b/runs", "data.path=s3://b/birds"]))
    assert made.local == ()


@pytest.mark.parametrize(
    ("command", "cpus", "gpus"),
    [
        (["train", str(TINY / "scenes_birds.yaml")], 0, 0),
        (["train", str(TINY / "scenes_birds.yaml"), "--set=resources.cpus_per_worker=3", "--set=workers=0"], 3, 0),
        (["catalogue", "/r"], 1, 0),
        (["catalogue", "/r", "--gpus-per-worker=1"], 1, 1),
        (["catalogue", "/r", "--workers=2", "--gpus-per-worker=1"], 0, 0),
        (["report", "/r"], 1, 0),
        (["resume", "/r"], 0, 0),
    ],
)
def test_a_job_that_works_itself_is_given_what_it_works_with(command: list[str], cpus: float, gpus: float) -> None:
    made = plan(*command)
    assert (made.num_cpus, made.num_gpus) == (cpus, gpus)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["train", str(TINY / "scenes_birds.yaml"), "--set", "epocs=3"], "epocs"),
        (["train", "missing.yaml"], "no configuration file at missing.yaml"),
        (["train", str(TINY / "scenes_birds.yaml"), "--address", "auto"], "leave --address out"),
        (["submit", "--address=http://h:1", "x.yaml"], "submit cannot be submitted"),
        (["serve", "/r"], "serve deploy"),
    ],
)
def test_what_the_job_would_refuse_is_refused_here(command: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan(*command)


@pytest.mark.parametrize("command", [["catalogue", "/r", "--wokers", "2"], ["katalogue"], ["tune", "run", "a", "b"]])
def test_the_command_line_is_checked_here(command: list[str]) -> None:
    with pytest.raises(click.UsageError):
        plan(*command)


def test_relative_results_in_ray_s_copy_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, make_config: Callable[..., Any]
) -> None:
    """Where a job starts is deleted after it; what came along with the job can be read there."""
    copy = folder / "runtime_resources" / "working_dir_files" / "_ray_pkg_1"
    (copy / "shipped").mkdir(parents=True)
    monkeypatch.chdir(copy)
    with pytest.raises(ConfigError, match="runs is relative: in this Ray job"):
        absolute("runs")
    assert absolute("shipped") == str(copy / "shipped")
    assert absolute("/elsewhere/runs") == "/elsewhere/runs"
    assert absolute("s3://b/runs") == "s3://b/runs"
    config = make_config(storage="runs")
    from raytrain_xai.runners.train import check_start

    with pytest.raises(ConfigError, match="runs is relative"):
        check_start(config)


def test_the_upload_of_a_clone_leaves_out_what_is_large(folder: Path) -> None:
    """Ray's own packing of a clone that holds data, runs and an environment."""
    from ray._private.ray_constants import get_runtime_env_default_excludes
    from ray._private.runtime_env.packaging import create_package

    clone, package = folder / "clone", folder / "package.zip"
    for name in (".gitignore", ".rayignore"):
        (clone / name).parent.mkdir(exist_ok=True)
        (clone / name).write_text((REPOSITORY / name).read_text())
    kept = ["raytrain_xai/config.py", "configs/tiny/a.yaml", "raytrain_xai/data/assets/x.safetensors"]
    left = ["datasets/voc/0.parquet", "runs/a/checkpoints/w.safetensors", ".venv/bin/python", "tests/test_a.py"]
    for name in (*kept, *left, ".git/objects/1"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text("x")
    create_package(str(clone), package, include_gitignore=True, excludes=get_runtime_env_default_excludes())
    packed = {name for name in zipfile.ZipFile(package).namelist() if not name.endswith("/")}
    assert packed - {".gitignore", ".rayignore"} == set(kept)


def test_configurations_in_the_repository_are_planned_without_their_data() -> None:
    """A cluster's data need not be here: every shipped configuration is checked, and travels."""
    described = [file for file in (REPOSITORY / "configs").rglob("*.yaml") if file.parent.name != "scaling"]
    assert len(described) > 40
    for file in described:
        made = plan_command(cli, train_or_tune(str(file), []))
        assert yaml.safe_load(made.texts["config.yaml"])["storage"].startswith("/"), file
