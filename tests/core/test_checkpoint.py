"""Checkpoints are complete or absent, verified when read, and contain nothing that could run."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from raytrain_xai import checkpoint as module
from raytrain_xai.checkpoint import (
    EMA,
    MANIFEST,
    MODEL,
    OPTIMIZER,
    STATE,
    Checkpoint,
    checkpoint_name,
    complete_steps,
    delete_checkpoint,
    read_checkpoint,
    read_newest,
    superseded,
    sweep,
    write_checkpoint,
)
from raytrain_xai.errors import CheckpointError, DataError, RunError
from raytrain_xai.storage import Location, locate

FILES = (MODEL, OPTIMIZER, STATE, MANIFEST)


def example(step: int) -> Checkpoint:
    torch.manual_seed(step)
    weight = torch.randn(3, 4, 5, 5).to(memory_format=torch.channels_last)
    model = {"conv.weight": weight, "count": torch.tensor(step), "half": torch.randn(7).to(torch.bfloat16)}
    return Checkpoint(step, model, {"conv.weight/exp_avg": weight * 0.1}, {"step": step, "history": []})


def write(parent: Location, step: int) -> Path:
    return Path(write_checkpoint(parent, example(step), lambda: None).path)


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[k].dtype == b[k].dtype and torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def parent(tmp_path: Path) -> Location:
    return locate(str(tmp_path / "checkpoints"))


def test_what_is_written_is_read_back_bit_by_bit(parent: Location) -> None:
    write(parent, 12)
    loaded, expected = read_checkpoint(parent.child("step-00000012")), example(12)
    assert same(loaded.model, expected.model)
    assert same(loaded.optimizer, expected.optimizer)
    assert (loaded.step, loaded.state) == (12, expected.state)


def test_an_average_is_kept_beside_the_weights_and_is_what_is_measured(parent: Location) -> None:
    average = {name: value + 1 for name, value in example(12).model.items()}
    folder = write_checkpoint(parent, replace(example(12), ema=average), lambda: None)
    loaded = read_checkpoint(folder)
    assert same(loaded.model, example(12).model) and same(loaded.ema, average)
    assert loaded.measured is loaded.ema
    (Path(folder.path) / EMA).unlink()
    with pytest.raises(CheckpointError, match="ema.safetensors is missing"):
        read_checkpoint(folder)
    plain = read_checkpoint(locate(str(write(parent, 13))))
    assert plain.ema == {} and plain.measured is plain.model


def test_optimiser_state_is_not_read_when_not_needed(parent: Location) -> None:
    folder = write(parent, 1)
    (folder / OPTIMIZER).unlink()
    assert read_checkpoint(parent.child(folder.name), with_optimizer=False).optimizer == {}


def test_equal_contents_give_equal_files_whatever_the_memory_format(parent: Location, tmp_path: Path) -> None:
    first, content = write(parent, 3), example(3)
    plain = {name: value.contiguous() for name, value in content.model.items()}
    other = locate(str(tmp_path / "other"))
    second = Path(write_checkpoint(other, Checkpoint(3, plain, content.optimizer, content.state), lambda: None).path)
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in FILES)


def test_files_open_with_plain_safetensors_and_json(parent: Location) -> None:
    folder = write(parent, 5)
    assert sorted(file.name for file in folder.iterdir()) == sorted(FILES)
    assert set(safetensors.torch.load_file(folder / MODEL)) == {"conv.weight", "count", "half"}
    manifest = json.loads((folder / MANIFEST).read_text())
    assert manifest["files"][STATE]["bytes"] == (folder / STATE).stat().st_size


@pytest.mark.parametrize("written", range(4))
def test_a_writer_killed_between_files_leaves_the_older_checkpoint_in_use(
    parent: Location, written: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(parent, 10)
    monkeypatch.setattr(module, "write_bytes", fail_after(written, module.write_bytes))
    with pytest.raises(DataError, match="disk full"):
        write(parent, 20)
    assert complete_steps(parent) == [10]
    newest, problems = read_newest(parent)
    assert newest is not None and newest.step == 10 and problems == []
    assert sweep(parent, 10) == ([checkpoint_name(20)] if written else [])
    assert complete_steps(parent) == [10]


def fail_after(count: int, write_bytes: Callable[..., None]) -> Callable[..., None]:
    done = 0

    def write_some(at: Location, data: bytes) -> None:
        nonlocal done
        if done == count:
            raise DataError("disk full")
        done += 1
        write_bytes(at, data)

    return write_some


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", ["nothing", "first byte", "half", "all but one", "one bit flipped", "one byte more"])
def test_a_damaged_file_is_never_used(parent: Location, name: str, keep: str) -> None:
    write(parent, 10)
    file = write(parent, 20) / name
    data = file.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    damaged = {
        "nothing": b"",
        "first byte": data[:1],
        "half": data[:middle],
        "all but one": data[:-1],
        "one bit flipped": flipped,
        "one byte more": data + b"}",
    }[keep]
    file.write_bytes(damaged)
    newest, problems = read_newest(parent)
    assert newest is not None and newest.step == 10
    assert len(problems) == 1 and "step-00000020" in problems[0]


def test_a_checkpoint_moved_to_another_step_is_not_taken_for_it(parent: Location) -> None:
    write(parent, 20).rename(Path(parent.path) / "step-00000030")
    with pytest.raises(CheckpointError, match="step-00000030/manifest.json is damaged"):
        read_checkpoint(parent.child("step-00000030"))


@pytest.mark.parametrize("name", [MODEL, OPTIMIZER, STATE])
def test_a_missing_file_is_named(parent: Location, name: str) -> None:
    (write(parent, 20) / name).unlink()
    with pytest.raises(CheckpointError, match=f"step-00000020 is damaged: {name} is missing"):
        read_checkpoint(parent.child("step-00000020"))


def test_a_run_is_not_started_over_because_all_its_checkpoints_are_damaged(parent: Location) -> None:
    (write(parent, 20) / MODEL).write_bytes(b"")
    with pytest.raises(CheckpointError, match="no usable checkpoint.*delete .* to start over"):
        read_newest(parent)


def test_no_checkpoint_at_all_is_a_fresh_start(parent: Location) -> None:
    assert read_newest(parent) == (None, [])


def test_another_format_version_is_refused(parent: Location) -> None:
    file = write(parent, 20) / MANIFEST
    file.write_text(file.read_text().replace('"format_version": 1', '"format_version": 2'))
    with pytest.raises(CheckpointError, match="format version 2, this release reads 1"):
        read_checkpoint(parent.child("step-00000020"))


def test_a_refused_commit_leaves_no_checkpoint(parent: Location) -> None:
    def refuse() -> None:
        raise RunError("superseded")

    with pytest.raises(RunError):
        write_checkpoint(parent, example(7), refuse)
    assert complete_steps(parent) == []


def test_rewriting_a_step_never_pairs_an_old_manifest_with_new_files(
    parent: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(parent, 10)
    monkeypatch.setattr(module, "write_bytes", fail_after(1, module.write_bytes))
    with pytest.raises(DataError):
        write(parent, 10)
    assert complete_steps(parent) == []


def test_sweep_deletes_incomplete_and_newer_checkpoints_only(parent: Location) -> None:
    for step in (10, 20, 30):
        write(parent, step)
    (Path(parent.path) / "step-00000020" / MANIFEST).unlink()
    (Path(parent.path) / "stray").mkdir()
    assert sweep(parent, 10) == ["step-00000020", "step-00000030", "stray"]
    assert complete_steps(parent) == [10]
    assert sweep(parent, None) == ["step-00000010"]


def test_an_interrupted_deletion_leaves_an_incomplete_folder(parent: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = parent.child(write(parent, 10).name)
    real: Callable[[Location], None] = module.delete_tree

    def die_at_folder(at: Location) -> None:
        if at.path == folder.path:
            raise DataError("killed")
        real(at)

    monkeypatch.setattr(module, "delete_tree", die_at_folder)
    with pytest.raises(DataError):
        delete_checkpoint(folder)
    assert complete_steps(parent) == []


@pytest.mark.parametrize(
    ("keep", "protected", "gone"),
    [
        (2, set[int](), [10, 20, 30]),  # of 10 20 30 40 50
        (1, {20}, [10, 30, 40]),
        (2, {10, 50}, [20, 30]),
        (9, set[int](), []),
    ],
)
def test_superseded_keeps_the_newest_and_the_protected(keep: int, protected: set[int], gone: list[int]) -> None:
    assert superseded([30, 10, 50, 20, 40], keep, protected) == gone


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]",
        '{"format_version": 1}',
        '{"format_version": 1, "step": 20, "files": {}}',
        '{"format_version": 1, "step": 20, "files": {"model.safetensors": 3}}',
    ],
)
def test_a_manifest_without_its_entries_is_damage(parent: Location, text: str) -> None:
    write(parent, 10)
    (write(parent, 20) / MANIFEST).write_text(text)
    newest, _ = read_newest(parent)
    assert newest is not None and newest.step == 10


def test_pickled_weights_are_not_loaded(parent: Location) -> None:
    """A file that torch.load would execute, with a manifest that vouches for it."""
    folder, bomb = write(parent, 20), Bomb()
    torch.save(bomb, folder / MODEL)
    manifest = json.loads((folder / MANIFEST).read_text())
    data = (folder / MODEL).read_bytes()
    manifest["files"][MODEL] = {"bytes": len(data), "sha256": module.hashlib.sha256(data).hexdigest()}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        read_checkpoint(parent.child("step-00000020"))


class Bomb:
    def __reduce__(self) -> Any:
        return (pytest.fail, ("pickle was executed",))
