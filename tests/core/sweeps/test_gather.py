"""Results of a sweep from its run folders, and the tables they are stored in."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raytrain_xai.config import validated
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.storage import Location, locate, read_bytes, write_bytes
from raytrain_xai.sweep_config import SweepConfig
from raytrain_xai.sweeps.folder import TrialState, create_sweep, write_state
from raytrain_xai.sweeps.gather import gather, open_sweep, update_results
from raytrain_xai.sweeps.plan import TrialSpec, make_plan
from raytrain_xai.sweeps.table import PointRow, TrialRow, read_points, read_rows, write_points, write_rows

MakeRun = Callable[..., str]
VAL = {"f1": 0.75, "epg": 0.5, "iou": 0.2, "iou_threshold": 0.3}
FIRST = {"f1": 0.5, "epg": 0.25, "iou": 0.2, "iou_threshold": 0.3}
TEST = {"f1": 0.7, "epg": 0.45, "iou": 0.25}


@pytest.fixture(scope="module")
def swept(birds: str, make_run: MakeRun, tmp_path_factory: pytest.TempPathFactory) -> tuple[Location, list[TrialSpec]]:
    """A baseline and five trials: finished, stopped after an epoch, failed before one, under way, not begun."""
    storage = tmp_path_factory.mktemp("sweeps")
    raw = {
        "name": "s", "storage": str(storage), "baseline": {},
        "base": {"epochs": 2, "data": {"path": birds, "image_size": 32}, "model": {"name": "squeezenet1_1"}},
        "space": {"guidance.weight": [0.1, 0.2, 0.3, 0.4, 0.5]},
    }  # fmt: skip
    config = validated(SweepConfig, raw, "sweep")
    plan = list(make_plan(config))
    at = create_sweep(config, plan)
    baseline = make_run(storage / "s" / "baseline", "s0", birds)
    for spec in plan[:4]:
        folder = storage / "s" / "trials" / spec.id
        shutil.copytree(baseline, folder, ignore=shutil.ignore_patterns("checkpoints"))
        if spec is plan[0]:
            continue
        (folder / "metrics.json").unlink()
        records = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
        (folder / "metrics.jsonl").write_text("".join(records[:3] if spec is not plan[2] else records[:2]))
    write_state(at, "baseline/s0", TrialState("finished", None, 1, 90.0))
    write_state(at, plan[0].id, TrialState("finished", None, 2, 100.0))
    write_state(at, plan[1].id, TrialState("stopped", None, 1, 35.0))
    write_state(at, plan[2].id, TrialState("failed", "no", 1, 25.0))
    return at, plan


def test_rows_say_what_became_of_every_trial(swept: tuple[Location, list[TrialSpec]]) -> None:
    at, plan = swept
    rows = gather(at).rows
    assert [row.id for row in rows] == ["baseline/s0", *(spec.id for spec in plan)]
    values = [{"guidance.weight": weight} for weight in (0.1, 0.2, 0.3, 0.4, 0.5)]
    assert rows[0] == TrialRow(
        "baseline/s0", "finished", 0, None, {}, VAL, TEST, "baseline/s0", 2, 80.0, 90.0, None, is_baseline=True
    )
    run = f"trials/{plan[0].id}"
    assert rows[1] == TrialRow(plan[0].id, "finished", 0, None, values[0], VAL, TEST, run, 2, 80.0, 100.0)
    assert (rows[2].status, rows[2].val, rows[2].test, rows[2].epochs, rows[2].training_s) == (
        "stopped", FIRST, {}, 1, 30.0,
    )  # fmt: skip
    assert (rows[3].status, rows[3].error, rows[3].val, rows[3].epochs) == ("failed", "no", {}, 0)
    assert (rows[4].status, rows[4].val, rows[4].seconds) == ("unfinished", FIRST, 0.0)
    assert rows[5] == TrialRow(plan[4].id, "unfinished", 0, None, values[4], {}, {}, None, 0, 0.0, 0.0)


def test_a_population_shows_the_values_of_the_run_it_goes_on_with(
    swept: tuple[Location, list[TrialSpec]], tmp_path: Path
) -> None:
    raw = {
        "name": "p", "storage": str(tmp_path), "base": {}, "space": {"guidance.weight": [0.1, 0.2]},
        "scheduler": {"kind": "pbt", "metric": "f1", "mutate": {"optim.lr": [0.5, 1]}},
    }  # fmt: skip
    config = validated(SweepConfig, raw, "sweep")
    plan = make_plan(config)
    at = create_sweep(config, plan)
    shutil.copytree(swept[0].child("baseline", "s0").path, at.child("trials", plan[1].id).path)
    first, second = gather(at).rows
    assert first.values == {"guidance.weight": 0.1}  # not begun
    assert second.values == {"guidance.weight": 0.0, "optim.lr": 1e-4}  # as its config.yaml says


def test_points_are_the_evaluated_checkpoints(swept: tuple[Location, list[TrialSpec]]) -> None:
    at, plan = swept
    points = gather(at).points
    assert [point.trial for point in points] == [
        "baseline/s0", "baseline/s0", plan[0].id, plan[0].id, plan[1].id, plan[3].id,
    ]  # fmt: skip
    assert points[2:5] == [
        PointRow(plan[0].id, 10, 1, FIRST, is_selected=False),
        PointRow(plan[0].id, 20, 2, VAL, is_selected=True),
        PointRow(plan[1].id, 10, 1, FIRST, is_selected=False),
    ]


def test_tables_hold_what_was_gathered(swept: tuple[Location, list[TrialSpec]]) -> None:
    at, plan = swept
    gathered = open_sweep(at.uri)  # there are no tables yet
    updated = update_results(at.uri)
    assert (updated.rows, updated.points) == (gathered.rows, gathered.points)
    stored = open_sweep(at.uri)
    assert stored.config == gathered.config
    assert list(stored.rows) == gathered.rows and list(stored.points) == gathered.points
    table = pq.read_table(at.child("trials.parquet").path)
    assert table["guidance.weight"].to_pylist() == [None, 0.1, 0.2, 0.3, 0.4, 0.5]
    assert table["val/f1"].to_pylist() == [0.75, 0.75, 0.5, None, 0.5, None]
    fronts = json.loads(read_bytes(at.child("fronts.json")))
    assert fronts == {
        "objectives": {"f1": "max", "epg": "max", "iou": "max"}, "by": None,
        "groups": [{"value": None, "trials": [plan[0].id], "checkpoints": [[plan[0].id, 20]]}],
    }  # fmt: skip


def test_damage_is_named(swept: tuple[Location, list[TrialSpec]], tmp_path: Path) -> None:
    at = locate(str(tmp_path))
    write_bytes(at.child("trials.parquet"), b"PAR1 not really")
    with pytest.raises(CheckpointError, match=r"trials.parquet is not a readable Parquet file"):
        read_rows(at)
    write_bytes(at.child("points.parquet"), read_bytes(swept[0].child("plan.jsonl")))
    with pytest.raises(CheckpointError, match=r"points.parquet is not a readable"):
        read_points(at)
    pq.write_table(pq.read_table(_plain_table(tmp_path)), at.child("trials.parquet").path)
    with pytest.raises(CheckpointError, match=r"not a table of this release; write it again"):
        read_rows(at)
    with pytest.raises(ConfigError, match="is not a sweep"):
        open_sweep(str(tmp_path))


def _plain_table(folder: Path) -> str:
    import pyarrow as pa

    pq.write_table(pa.table({"trial": ["a"]}), folder / "other.parquet")
    return str(folder / "other.parquet")


def test_values_of_any_kind_come_back_as_they_were(tmp_path: Path) -> None:
    at = locate(str(tmp_path))
    values = [{"a": 1, "b": None, "c": "x"}, {"a": 1.5, "b": True, "c": 3}, {"a": None}, {}]
    rows = tuple(
        TrialRow(str(n), "finished", n, "random", own, {}, {}, None, 1, 0.5, 1.0) for n, own in enumerate(values)
    )
    write_rows(at, rows)
    assert read_rows(at) == rows
    table = pq.read_table(at.child("trials.parquet").path)
    assert table["a"].to_pylist() == [1.0, 1.5, None, None] and table["c"].to_pylist() == ['"x"', "3", None, None]
    write_rows(at, ())
    write_points(at, ())
    assert read_rows(at) == () == read_points(at)


def test_ten_thousand_trials_are_read_in_under_a_second(tmp_path: Path) -> None:
    at = locate(str(tmp_path))
    val = {"f1": 0.1, "epg": 0.2, "iou": 0.3, "map": 0.4, "accuracy": 0.5}
    rows = [
        TrialRow(str(n), "finished", n % 3, None, {"guidance.weight": n / 7, "guidance.loss": "l1"}, val, val,
                 f"trials/{n}", 3, 1.0, 2.0)
        for n in range(10_000)
    ]  # fmt: skip
    write_rows(at, rows)
    start = time.perf_counter()
    assert len(read_rows(at)) == 10_000
    assert time.perf_counter() - start < 1.5  # .3 s alone; this machine may be busy
