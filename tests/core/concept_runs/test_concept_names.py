"""Names of concepts: proposed ones, given ones, and what happened to them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raytrain_xai.concept_runs.names import given_names, propose, read_names, rename
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.storage import locate


def test_given_names_stand_before_proposed_ones(tmp_path: Path) -> None:
    run = locate(str(tmp_path))
    assert read_names(run) == {}
    propose(run, {3: "cat 1", 4: "cat 2"})
    rename(run, {4: " whiskers ", 7: "Räder"}, 10)
    assert read_names(run) == {3: "cat 1", 4: "whiskers", 7: "Räder"}
    assert given_names(run) == {4: "whiskers", 7: "Räder"}
    propose(run, {4: "dog 1"})
    assert read_names(run) == {4: "whiskers", 7: "Räder"}
    rename(run, {4: "", 7: "wheels"}, 10)
    assert read_names(run) == {4: "dog 1", 7: "wheels"}


def test_history_keeps_every_change(tmp_path: Path) -> None:
    run = locate(str(tmp_path))
    for name in ("a", "a", "b", ""):
        rename(run, {5: name}, 10)
    history = json.loads((tmp_path / "names.json").read_text())["history"]
    changes = [(entry["concept"], entry["from"], entry["to"]) for entry in history]
    assert changes == [(5, "", "a"), (5, "a", "b"), (5, "b", "")]
    assert all(entry["time"] > 0 for entry in history)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({3: "ok", 10: "x"}, "no concept 10; this run has concepts 0 to 9"),
        ({-1: "x"}, "no concept -1"),
        ({3: "ok", 2: "a\nb"}, "80 printable characters, got .* for concept 2"),
        ({2: "a" * 81}, "printable characters"),
    ],
)
def test_bad_names_change_nothing(tmp_path: Path, changes: dict[int, str], message: str) -> None:
    run = locate(str(tmp_path))
    with pytest.raises(ConfigError, match=message):
        rename(run, changes, 10)
    assert read_names(run) == {}


@pytest.mark.parametrize("content", ["{", '{"names": ["a"]}', "[]"])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "names.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"names\.json is damaged"):
        read_names(locate(str(tmp_path)))
