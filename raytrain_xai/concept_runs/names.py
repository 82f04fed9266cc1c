"""Names of concepts: ``names.json`` in the folder of a concept run, given by people or proposed by a catalogue."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.run_folder import read_json, write_json
from raytrain_xai.storage import Location, exists

NAMES = "names.json"
MAX_LENGTH = 80


def read_names(run: Location) -> dict[int, str]:
    """Concept -> name, of the concepts that have one; a name that was given stands before one that was proposed.

    Raises:
        CheckpointError: the file is damaged.
    """
    content = _read(run)
    return _names(content["proposed"]) | _names(content["names"])


def given_names(run: Location) -> dict[int, str]:
    """Concept -> name, of the concepts that were named by people.

    Raises:
        CheckpointError: the file is damaged.
    """
    return _names(_read(run)["names"])


def rename(run: Location, changes: Mapping[int, str], num_concepts: int) -> None:
    """Give names to concepts, or take them back; every change is kept in ``history`` with its time.

    Args:
        run: folder of the concept run.
        changes: concept -> name; an empty name takes a given one back, so that a proposed one shows again.
        num_concepts: size of the dictionary.
    Raises:
        ConfigError: no such concept, or a name that is too long or has control characters; nothing is changed.
        CheckpointError: the file is damaged.
    """
    cleaned = {concept: name.strip() for concept, name in changes.items()}
    for concept, name in cleaned.items():
        if not 0 <= concept < num_concepts:
            raise ConfigError(f"no concept {concept}; this run has concepts 0 to {num_concepts - 1}")
        if len(name) > MAX_LENGTH or not name.isprintable():
            raise ConfigError(
                f"a name has at most {MAX_LENGTH} printable characters, got {name!r} for concept {concept}"
            )
    content = _read(run)
    names: dict[str, str] = content["names"]
    for concept, name in cleaned.items():
        before = names.pop(str(concept), "")
        if name:
            names[str(concept)] = name
        if name != before:
            content["history"].append({"concept": concept, "from": before, "to": name, "time": round(time.time(), 3)})
    write_json(run.child(NAMES), content)


def propose(run: Location, proposed: Mapping[int, str]) -> None:
    """Replace all proposed names; given ones stay.

    Raises:
        CheckpointError: the file is damaged.
    """
    content = _read(run)
    write_json(run.child(NAMES), content | {"proposed": {str(concept): name for concept, name in proposed.items()}})


def _read(run: Location) -> dict[str, Any]:
    """``names`` and ``proposed``, concept -> name, and ``history``, oldest first."""
    at = run.child(NAMES)
    empty: dict[str, Any] = {"names": {}, "proposed": {}, "history": []}
    found: Any = read_json(at) if exists(at) else {}
    content = empty | found if isinstance(found, dict) else {}
    if not all(isinstance(content.get(key), type(value)) for key, value in empty.items()):
        raise CheckpointError(f"{at.uri} is damaged: expected an object with names, proposed and history")
    return content


def _names(stored: Mapping[str, str]) -> dict[int, str]:
    return {int(concept): name for concept, name in stored.items()}
