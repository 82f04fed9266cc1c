"""Configurations as text: YAML files, dotted overrides, and what to say about keys and values that are wrong."""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError

from raytrain_xai.credentials import without_credentials
from raytrain_xai.errors import ConfigError
from raytrain_xai.sections import Section

Kind = TypeVar("Kind", bound=Section)


def read_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: no such file, not YAML, or no mapping.
    """
    if not file.is_file():
        raise ConfigError(f"no configuration file at {file}; give the path of a YAML file such as configs/tiny/*.yaml")
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid YAML: {_one_line(error)}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{file} holds {type(raw).__name__}, expected a mapping of configuration keys")
    return raw


def overridden(raw: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy with ``a.b=c`` overrides applied, values read as YAML.

    Raises:
        ConfigError: an override is not KEY=VALUE, or goes below a value.
    """
    changed = copy.deepcopy(dict(raw))
    for override in overrides:
        _apply_override(changed, override)
    return changed


def validated(kind: type[Kind], raw: Mapping[str, Any], source: str) -> Kind:
    """A section of a mapping.

    Raises:
        ConfigError: names ``source`` and every key that is unknown, missing or has a wrong value.
    """
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise ConfigError(f"{source}: {'; '.join(_problems(kind, error))}") from error


def problems_of(kind: type[Section], raw: Mapping[str, Any]) -> list[str]:
    """What :func:`validated` refuses a mapping for, one line per key; none when it is valid."""
    try:
        kind.model_validate(raw)
    except ValidationError as error:
        return _problems(kind, error)
    return []


def is_sweep(file: str | Path) -> bool:
    """Whether a YAML file describes a sweep: it alone has a base.

    Raises:
        ConfigError: as :func:`read_yaml`.
    """
    return "base" in read_yaml(Path(file))


def dump_config(config: Section) -> str:
    """YAML text that :func:`read_yaml` reads back to the values of an equal configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override!r} is not KEY=VALUE; write for example --set guidance.weight=0.1")
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML: {_one_line(error)}") from error
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        value = float(value)  # YAML 1.1 reads 1e-3 as text
    *parents, last = key.strip().split(".")
    node = raw
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override!r}: {parent} is a value, not a section")
        node = child
    node[last] = value


def _problems(kind: type[Section], error: ValidationError) -> list[str]:
    return [_describe(kind, problem) for problem in error.errors()]


def _describe(kind: type[Section], problem: Mapping[str, Any]) -> str:
    """One validation problem as ``path: reason (choices)``."""
    location = [part for part in problem["loc"] if isinstance(part, str)]
    section, keys = kind, list[str]()
    for number, part in enumerate(location[:-1]):
        if part not in section.model_fields:
            continue  # the tag of a union, which pydantic puts between its key and the keys below
        keys.append(part)
        section = _below(section, part, tag=location[number + 1])
    keys += location[-1:]
    path = ".".join(keys) or "run"
    if problem["type"] == "extra_forbidden":
        known = list(section.model_fields)
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"unknown key {path}; {hint}valid keys here: {', '.join(known)}"
    if problem["type"] == "missing":
        return f"{path} is missing; set it in the file or with --set {path}=VALUE"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{path}: {message}, got {without_credentials(repr(problem['input']))}" if location else message


def _below(section: type[Section], part: str, tag: str) -> type[Section]:
    """The section under a key; of a union the member whose ``kind`` is ``tag``."""
    found: list[type[Section]] = []
    pending: list[Any] = [section.model_fields[part].annotation]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, Section):
            found.append(annotation)
        else:
            pending += get_args(annotation)
    named = [c for c in found if "kind" in c.model_fields and tag in get_args(c.model_fields["kind"].annotation)]
    return (named or found or [section])[0]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
