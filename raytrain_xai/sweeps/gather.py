"""Results of a sweep, gathered from its run folders or read from its tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from raytrain_xai.run_folder import CONFIG, LOG, METRICS, logged_seconds, read_config, read_json, read_log
from raytrain_xai.storage import Location, exists, list_names
from raytrain_xai.sweep_config import PbtScheduler, Scalar, SweepConfig
from raytrain_xai.sweeps.folder import (
    TrialState,
    find_sweep,
    read_plan,
    read_state,
    read_states,
    read_sweep,
    trial_run,
)
from raytrain_xai.sweeps.fronts import write_fronts
from raytrain_xai.sweeps.plan import BASELINE, TRIALS, TrialSpec, baseline_seeds, get_path
from raytrain_xai.sweeps.table import ROWS, PointRow, Sweep, TrialRow, read_points, read_rows, write_points, write_rows

_READERS = 16  # runs read together; on S3 reading is all waiting


def open_sweep(address: str) -> Sweep:
    """A sweep with the results in its tables; gathered from its runs while there are none.

    Raises:
        ConfigError: no sweep at this address.
        CheckpointError: a file of it is damaged.
    """
    at = find_sweep(address)
    if not exists(at.child(ROWS)):
        return gather(at)
    return Sweep(at, read_sweep(at), read_rows(at), read_points(at))


def update_results(address: str) -> Sweep:
    """Gather the results of a sweep, finished or not, write its tables and fronts; raises as :func:`open_sweep`."""
    sweep = gather(find_sweep(address))
    write_fronts(sweep)
    write_points(sweep.at, sweep.points)
    write_rows(sweep.at, sweep.rows)
    return sweep


def gather(at: Location) -> Sweep:
    """Results as the run folders of a sweep hold them now.

    Raises:
        CheckpointError: a file of the sweep or of a run is damaged.
    """
    config, plan, states = read_sweep(at), read_plan(at), read_states(at)
    started = set(list_names(at.child(TRIALS)))
    baselines = [at.child(BASELINE, f"s{seed}") for seed in baseline_seeds(config)]
    runs = [*baselines, *(trial_run(at, spec.id) for spec in plan if spec.id in started)]
    with ThreadPoolExecutor(_READERS) as pool:
        read = dict(zip((run.path for run in runs), pool.map(_read_run, runs), strict=True))
    results = [
        _baseline_row(at, seed, read[run.path]) for seed, run in zip(baseline_seeds(config), baselines, strict=True)
    ]
    for spec in plan:
        own = read.get(trial_run(at, spec.id).path)
        results.append(_trial_row(spec, states.get(spec.id), own, _final_values(config, spec, own)))
    return Sweep(at, config, [row for row, _ in results], [point for _, points in results for point in points])


@dataclass(frozen=True)
class _Run:
    """What a run folder tells: ``final`` is None while it is not finished."""

    at: Location
    final: Mapping[str, Any] | None
    evaluations: Sequence[Mapping[str, Any]]
    seconds: float


def _read_run(run: Location) -> _Run | None:
    names = set(list_names(run))
    if CONFIG not in names:
        return None
    log = read_log(run) if LOG in names else []
    final = read_json(run.child(METRICS)) if METRICS in names else None
    return _Run(run, final, [r for r in log if r["kind"] == "epoch"], logged_seconds(log))


def _baseline_row(at: Location, seed: int, run: _Run | None) -> tuple[TrialRow, list[PointRow]]:
    spec = TrialSpec(f"{BASELINE}/s{seed}", {}, seed)
    row, points = _trial_row(spec, read_state(at, spec.id), run, {})
    return replace(row, run=None if run is None else spec.id, is_baseline=True), points


def _trial_row(
    spec: TrialSpec, state: TrialState | None, run: _Run | None, values: Mapping[str, Scalar]
) -> tuple[TrialRow, list[PointRow]]:
    row = TrialRow(
        spec.id,
        "unfinished" if state is None else state.status,
        spec.seed,
        spec.strategy,
        values,
        **_measured(run),
        run=None if run is None else f"{TRIALS}/{spec.id}",
        seconds=0.0 if state is None else state.seconds,
        error=None if state is None else state.error,
    )
    return row, _points(spec.id, run)


def _final_values(config: SweepConfig, spec: TrialSpec, run: _Run | None) -> Mapping[str, Scalar]:
    """Values of a trial; with population based training those of the run it goes on from by now, changed or not."""
    if run is None or not isinstance(config.scheduler, PbtScheduler):
        return spec.values
    stored = read_config(run.at)
    return {path: get_path(stored, path) for path in {**spec.values, **config.scheduler.mutate}}


def _measured(run: _Run | None) -> dict[str, Any]:
    """Fields of a row that come from its run."""
    if run is None:
        return {"val": {}, "test": {}, "epochs": 0, "training_s": 0.0}
    newest = run.evaluations[-1] if run.evaluations else {"val": {}, "epoch": 0}
    final = run.final or {"val": newest["val"]}
    own = {"val": final["val"], "test": final.get("test", {})}
    return {**own, "epochs": newest["epoch"], "training_s": run.seconds}


def _points(trial: str, run: _Run | None) -> list[PointRow]:
    if run is None:
        return []
    selected = None if run.final is None else run.final["selected"]["step"]
    return [
        PointRow(trial, record["step"], record["epoch"], record["val"], record["step"] == selected)
        for record in run.evaluations
    ]
