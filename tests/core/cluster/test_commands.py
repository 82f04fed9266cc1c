"""Commands of jobs are those of this package: they parse, and their configurations accept what is set."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import click
import pytest
from shipped_values import ROOT, SHIPPED, Shipped, render

from raytrain_xai.cli.main import cli
from raytrain_xai.config import load_job
from raytrain_xai.errors import ConfigError
from raytrain_xai.sweeps.load import load_sweep


def parsed(arguments: list[str]) -> tuple[str, dict[str, object]]:
    """Full name of a command and its parameters, without running it."""
    command: click.Command = cli
    names: list[str] = []
    while isinstance(command, click.Group):
        if command.name == "tune" and arguments[0] not in command.commands:
            arguments = ["run", *arguments]
        names.append(arguments.pop(0))
        command = command.commands[names[-1]]
    return " ".join(names), command.make_context(names[-1], arguments).params


def commands_of(shipped: Shipped) -> list[list[str]]:
    """Arguments of every command of every job."""
    lines = [job["spec"]["entrypoint"] for job in shipped.of_kind("RayJob")]
    lines += [job["spec"]["jobTemplate"]["entrypoint"] for job in shipped.of_kind("RayCronJob")]
    parts = [part for line in lines for part in line.replace("$(date -u +%F)", "today").split(" || { [ $? = 2 ] && ")]
    commands = [shlex.split(part.removesuffix("; }")) for part in parts]
    assert all(command[0] == "raytrain-xai" for command in commands)
    return [command[1:] for command in commands]


@pytest.mark.parametrize("name", SHIPPED)
def test_commands_parse_and_their_configurations_load(name: str, tmp_path: Path) -> None:
    seen: set[str] = set()
    for arguments in commands_of(render(name)):
        command, given = parsed(arguments)
        seen.add(command)
        config = str(given.get("config") or "").replace("/app/", f"{ROOT}/")
        # a sweep looks whether its folder is there: in a folder here rather than in a bucket
        overrides = [str(value).replace("s3://", f"{tmp_path}/") for value in given.get("overrides") or ()]
        if command == "tune run" and config:
            load_sweep(config, overrides)
        elif config:
            load_job(config, [*overrides, f"workers={given['workers']}"])
    assert seen == {"train", "resume", "tune run", "concepts features", "distill cache", "catalogue", "batch", "drift"}


def test_a_later_attempt_goes_on_where_an_earlier_one_began() -> None:
    shipped = render("base", "jobs={a: {command: 'train x', again: 'resume {bucket}/y', pool: train, workers: 3}}")
    (job,) = shipped.of_kind("RayJob")
    assert job["spec"]["entrypoint"] == (
        "raytrain-xai train x || { [ $? = 2 ] && raytrain-xai resume s3://raytrain-xai/y; }"
    )


@pytest.mark.parametrize(
    ("first", "second", "ran", "code"),
    [(0, 0, ["train"], 0), (1, 0, ["train"], 1), (2, 0, ["train", "resume"], 0), (2, 1, ["train", "resume"], 1)],
)
def test_only_a_refused_command_is_followed_by_another(first: int, second: int, ran: list[str], code: int) -> None:
    shipped = render("base", "jobs={a: {command: train, again: resume}}")
    line = shipped.of_kind("RayJob")[0]["spec"]["entrypoint"].replace("raytrain-xai", "run")
    line = f"run() {{ echo $1; [ $1 = train ] && return {first}; return {second}; }}; {line}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, timeout=10, check=False)
    assert done.returncode == code
    assert done.stdout.split() == ran


def test_a_pod_with_several_gpus_holds_a_process_for_each() -> None:
    shipped = render(
        "base", "jobs={a: {command: 'train {workers} {gpus} {cpus}', pool: train, workers: 3}}",
        "train={gpus: 8, cpu: 65}", "nightly={}",
    )  # fmt: skip
    (job,) = shipped.of_kind("RayJob")
    assert job["spec"]["entrypoint"] == "raytrain-xai train 24 1 8"
    cpu = render("cpu", "jobs={a: {command: 'train {workers} {gpus} {cpus}', pool: train, workers: 3}}")
    assert cpu.of_kind("RayJob")[0]["spec"]["entrypoint"] == "raytrain-xai train 3 0 7"


@pytest.mark.parametrize("command", ["train {buckets}/x", "train {", "train 'x", "train {0}"])
def test_a_command_that_cannot_be_filled_in_is_named(command: str) -> None:
    with pytest.raises(ConfigError, match="the command of job a cannot be filled in"):
        render("base", f'jobs={{a: {{command: "{command}"}}}}')
