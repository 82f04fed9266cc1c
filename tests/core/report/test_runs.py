"""Run folders as a report reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raytrain_xai.config import parse_config
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.report.runs import differences, read_runs
from raytrain_xai.storage import locate, write_bytes

MINIMAL = {"name": "a", "epochs": 1, "data": {"path": "d"}, "model": {"name": "resnet18"}}


@pytest.fixture(scope="module")
def storage(make_run: Any, birds: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs ``one`` and ``two``, and another ``one`` in a second storage."""
    folder = tmp_path_factory.mktemp("storage")
    make_run(folder / "a", "one", birds)
    make_run(folder / "a", "two", birds)
    make_run(folder / "b", "one", birds)
    return folder


def test_curves_and_time_come_from_the_log(storage: Path) -> None:
    [run] = read_runs([str(storage / "a" / "one")])
    assert run.validation_curve("epg") == ([1.0, 2.0], [0.25, 0.5])
    assert run.validation_curve("worst_group") == ([], [])
    # Steps 5 and 15 of 10 an epoch.
    assert run.training_curve("loc") == ([0.5, 1.5], [0.2, 0.1])
    assert run.training_s() == 30 + 50  # the break between the attempts is not training
    assert [point["on_front"] for point in run.evaluated] == [False, True]


def test_runs_of_one_name_are_told_apart(storage: Path) -> None:
    uris = [str(storage / "a" / "one"), str(storage / "b" / "one"), str(storage / "a" / "two")]
    assert [run.label for run in read_runs(uris)] == [f"one ({uris[0]})", f"one ({uris[1]})", "two"]


def test_a_run_given_twice_is_refused(storage: Path) -> None:
    one = str(storage / "a" / "one")
    with pytest.raises(ConfigError, match="more than once"):
        read_runs([one, str(storage / "a" / "two"), f"{storage}/a/../a/one".replace("/a/../", "/")])


def test_folders_that_are_no_finished_runs(storage: Path, make_run: Any, birds: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run"):
        read_runs([str(storage)])
    with pytest.raises(ConfigError, match="no run given"):
        read_runs([])
    unfinished = make_run(tmp_path, "unfinished", birds)
    Path(unfinished, "metrics.json").unlink()
    with pytest.raises(CheckpointError, match=r"not finished.*resume"):
        read_runs([unfinished])
    broken = make_run(tmp_path, "broken", birds)
    write_bytes(locate(broken).child("metrics.jsonl"), b'{"kind": "event"}\n{"kind": "st')
    with pytest.raises(CheckpointError, match="line 2"):
        read_runs([broken])


def test_differences_are_the_keys_that_differ_without_the_name() -> None:
    first = parse_config(MINIMAL)
    second = parse_config(MINIMAL | {"name": "b", "seed": 3, "guidance": {"attribution": "gradcam"}})
    assert differences([first, second]) == [("seed", ["0", "3"]), ("guidance.attribution", ["–", "gradcam"])]
    assert differences([first, first]) == []
    assert differences([first]) == []
