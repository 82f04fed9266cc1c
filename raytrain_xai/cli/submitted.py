"""A command line made ready for another machine: checked here, its configuration and small files uploaded.

Values of options are told apart by what the help calls them (``RUN``, ``DEST``, …): what names a place becomes
absolute, and a file that is read goes into the upload.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from raytrain_xai.config import load_job
from raytrain_xai.config_text import dump_config, is_sweep
from raytrain_xai.errors import ConfigError

if TYPE_CHECKING:
    from raytrain_xai.runners.submit import JobPlan
    from raytrain_xai.runners.submitted_config import Config

PLACES = frozenset([
    "RUN", "RUN2", "SWEEP", "DEST", "DIR", "FILE", "FOLDER", "IMAGE", "SOURCE", "SRC", "INDEX", "DATASET", "EXPORT",
    "FIRST", "SECOND", "STORAGE", "ADDRESS", "FILES", "ORDER", "OUT", "OUT.PT2",
])  # fmt: skip
"""What the help calls values that name a file or folder, there or not."""
NAMES_OR_PLACES = frozenset(["MODEL", "TEACHER", "STUDENT", "LIST", "TABLE", "FAMILY", "ENCODER", "WEIGHTS"])
"""The same of values that may be a name of ours instead; a place when it is there."""

_WRITTEN = ("out", "dest", "storage")  # parameters that name what a command writes: never uploaded
_CONFIG = "config.yaml"  # place of the configuration in the upload
_LARGEST = 100 << 20  # bytes of an uploaded file; larger ones belong on storage that the cluster sees
_REFUSED = {"submit": "a job submits no jobs", "serve": "a service is deployed: serve deploy serve/config/*.yaml"}


def train_or_tune(config: str, overrides: Sequence[str]) -> tuple[str, ...]:
    """The command for a configuration: a sweep has a ``base``.

    Raises:
        ConfigError: no such file, or no configuration.
    """
    command = "tune" if is_sweep(config) else "train"
    return (command, config, *(f"--set={override}" for override in overrides))


def plan_command(root: click.Group, args: Sequence[str]) -> JobPlan:
    """Check a command line, down to its configuration, and make it independent of this machine.

    Raises:
        ConfigError: what the command would refuse here, or a command that is no job.
        click.UsageError: no such command or option.
    """
    from raytrain_xai.runners.submit import JobPlan

    context, names, rest = _leaf(root, list(args))
    if names[0] in _REFUSED:
        raise ConfigError(f"{names[0]} cannot be submitted: {_REFUSED[names[0]]}")
    if "address" in context.params and _is_given(context, "address"):
        raise ConfigError("leave --address out after --: a job joins the cluster that it is submitted to")
    upload = _Upload()
    config = _config_of(context)
    if config is not None:
        upload.texts[_CONFIG] = dump_config(config)
        upload.local.extend(_local_paths(config))
    debug = ["--debug"] if context.find_root().params["debug"] else []
    tokens = list(_tokens(context, rest, upload))
    cpus, gpus = _driver_needs(context, config)
    label = config.name if config is not None else "-".join(names)
    return JobPlan(
        label, (*debug, *names, *tokens), upload.texts, upload.files, tuple(upload.local), num_cpus=cpus, num_gpus=gpus
    )


def kinds_of(parameter: click.Parameter) -> list[str]:
    """What the help calls the values of a parameter: ``[RUN]`` of ``[NAME=]RUN...``, ``[TRIAL, DEST]`` of two."""
    called = (parameter.metavar or parameter.name or "").upper()
    return [re.split(r"[=|\]]", word.strip("[]."))[-1] for word in called.split()]


def _leaf(root: click.Group, args: list[str]) -> tuple[click.Context, list[str], list[str]]:
    """Context of the command itself, its name in words, and what came after it."""
    command: click.Command | None = root
    context, names = None, ["raytrain-xai"]
    while isinstance(command, click.Group):
        context = command.make_context(names[-1], args, parent=context)
        name, command, args = command.resolve_command(context, [*context._protected_args, *context.args])  # pyright: ignore[reportPrivateUsage]
        assert name is not None, "an unknown command raises"
        names.append(name)
    assert command is not None
    return command.make_context(names[-1], list(args), parent=context), names[1:], args


def _is_given(context: click.Context, name: str) -> bool:
    return context.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _config_of(context: click.Context) -> Config | None:
    """The configuration that a command is given, with its overrides and with absolute local paths."""
    path = context.params.get("config")
    if path is None:
        return None
    overrides = context.params["overrides"]
    load = load_job
    if context.command.name == "run" and is_sweep(path):
        from raytrain_xai.sweeps.load import load_sweep as load  # imports torch
    config = load(path, overrides)
    from raytrain_xai.runners.submitted_config import resolved  # imports torch

    return resolved(config)


def _local_paths(config: Config) -> tuple[str, ...]:
    from raytrain_xai.runners.submitted_config import local_paths

    return local_paths(config)


def _driver_needs(context: click.Context, config: Config | None) -> tuple[float, float]:
    """CPUs and GPUs of the job's own process: where nobody else works, a CPU; a GPU where the command is given one."""
    workers = context.params.get("workers")
    if workers or (workers is None and context.command.name == "resume"):
        return 0.0, 0.0
    if config is None or workers == 0:
        return 1.0, context.params.get("gpus_per_worker") or 0.0
    from raytrain_xai.runners.submitted_config import driver_needs

    return driver_needs(config)


def _tokens(context: click.Context, args: Sequence[str], upload: _Upload) -> Iterator[str]:
    """The given options and arguments again, with other values where they name something on this machine."""
    command = context.command
    raw, _, _ = command.make_parser(context).parse_args(args=list(args))
    arguments: list[str] = []
    for parameter in command.params:
        name = parameter.name or ""
        if not _is_given(context, name) or (name == "overrides" and _CONFIG in upload.texts):
            continue  # the uploaded configuration holds them
        value: Any = raw[name]
        if isinstance(parameter, click.Option) and parameter.is_flag:
            yield parameter.opts[0] if value else parameter.secondary_opts[0]
            continue
        values, kinds = [value] if isinstance(value, str) else list(value), kinds_of(parameter)
        for number, text in enumerate(values):
            kind = kinds[number - len(values)] if len(kinds) > 1 else kinds[0]  # the last word is always there
            moved = _CONFIG if name == "config" else upload.moved(name, kind, text)
            if isinstance(parameter, click.Argument):
                arguments.append(moved)
            else:
                yield f"{parameter.opts[0]}={moved}"
    if arguments:
        yield from ("--", *arguments)


@dataclass
class _Upload:
    """What travels with a command, and what stays here."""

    texts: dict[str, str] = field(default_factory=dict[str, str])
    files: dict[str, Path] = field(default_factory=dict[str, Path])
    local: list[str] = field(default_factory=list[str])

    def moved(self, parameter: str, kind: str, text: str) -> str:
        """The value of a parameter as the job is to see it."""
        if kind not in PLACES | NAMES_OR_PLACES or "://" in text:
            return text
        name, equals, path = text.rpartition("=")
        if kind in NAMES_OR_PLACES and not os.path.exists(path):
            return text
        file = Path(path).expanduser().absolute()
        if parameter not in _WRITTEN and kind != "DEST" and file.is_file() and file.stat().st_size <= _LARGEST:
            place = f"files/{len(self.files)}/{file.name}"
            self.files[place] = file
            return f"{name}{equals}{place}"
        self.local.append(f"{parameter}={file}")
        return f"{name}{equals}{file}"
