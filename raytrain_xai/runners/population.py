"""Population based training of a sweep's trials (Jaderberg et al., 2017, arXiv 1711.09846).

Ray Tune compares trials and says which one goes on from which ("exploit"), and with what values ("explore"). Its
checkpoints only point at those of the runs. A trial that goes on from another one gets a new run folder, branched from
that checkpoint; the folder it had before is kept in ``segments/<trial>-<number>``, as others may be branched from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from raytrain_xai.config import RunConfig, parse_config, parse_job
from raytrain_xai.run_folder import CONFIG, read_config
from raytrain_xai.runners.branch import branch_run
from raytrain_xai.runners.trial import Trial
from raytrain_xai.storage import (
    Location,
    delete_tree,
    exists,
    list_names,
    list_tree,
    read_bytes,
    rename_folder,
    write_bytes,
)
from raytrain_xai.sweep_config import Scalar, SweepConfig
from raytrain_xai.sweeps.folder import trial_run
from raytrain_xai.sweeps.plan import TRIALS, get_path, set_path, sweep_address

SEGMENTS = "segments"
POINTER = "pointer.json"


@dataclass(frozen=True)
class Pointer:
    """A checkpoint of a trial.

    Attributes:
        trial: its id.
        segment: run folders that the trial had before the one the checkpoint is in.
        step: of the checkpoint.
    """

    trial: str
    segment: int
    step: int

    def write(self, folder: str) -> None:
        """Store it in a folder on this machine."""
        Path(folder, POINTER).write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def read(cls, folder: str) -> Pointer:
        """Inverse of :meth:`write`."""
        return cls(**json.loads(Path(folder, POINTER).read_text(encoding="utf-8")))


def num_segments(at: Location, trial: str) -> int:
    """Run folders that a trial had before its present one."""
    return sum(name.rpartition("-")[0] == trial for name in list_names(at.child(SEGMENTS)))


def run_of(at: Location, pointer: Pointer) -> Location:
    """Run folder that a pointer points into, wherever it is by now."""
    if num_segments(at, pointer.trial) > pointer.segment:
        return at.child(SEGMENTS, f"{pointer.trial}-{pointer.segment}")
    return trial_run(at, pointer.trial)


def initial_values(at: Location, config: SweepConfig, trial: Trial) -> dict[str, Scalar]:
    """Values of the mutated paths that a trial begins or goes on with."""
    run = trial_run(at, trial.key)
    raw = read_config(run) if exists(run.child(CONFIG)) else trial.config.model_dump(mode="json")
    return {path: get_path(raw, path) for path in _mutated(config)}


def prepare(
    at: Location, config: SweepConfig, trial: Trial, values: Mapping[str, Scalar], pointer: Pointer | None
) -> Trial:
    """Make the run folder of a trial ready to be trained, and say what it is now.

    Args:
        at: folder of the sweep.
        config: of the sweep.
        trial: as the plan has it.
        values: of the mutated paths, as the scheduler has them.
        pointer: checkpoint to go on from; None: the trial's own newest one, if any.
    Raises:
        ConfigError: the values are refused.
        CheckpointError: the checkpoint is gone or damaged.
    """
    run = trial_run(at, trial.key)
    if pointer is not None and pointer.trial != trial.key:
        source = run_of(at, pointer)
        own = _with_values(read_config(source), values)
        if exists(run.child(CONFIG)):
            _move(run, at.child(SEGMENTS, f"{trial.key}-{num_segments(at, trial.key)}"))
        delete_tree(run)
        branch = own.model_copy(update={"name": trial.key, "storage": sweep_address(config, TRIALS)})
        branch_run(source, pointer.step, branch)
        return replace(trial, config=branch, values={**trial.values, **values})
    count = num_segments(at, trial.key)
    if not exists(run.child(CONFIG)) and count:  # killed while it was about to be branched
        delete_tree(run)
        _move(at.child(SEGMENTS, f"{trial.key}-{count - 1}"), run)
    if exists(run.child(CONFIG)):
        stored = read_config(run)
        now = {path: get_path(stored, path) for path in _mutated(config)}
        return replace(trial, config=parse_job(stored), values={**trial.values, **now})
    fresh = _with_values(trial.config.model_dump(mode="json"), values)
    keep = max(fresh.checkpoint.keep, fresh.epochs)  # others may go on from any of them, a little later
    fresh = fresh.model_copy(update={"checkpoint": fresh.checkpoint.model_copy(update={"keep": keep})})
    return replace(trial, config=fresh, values={**trial.values, **values})


def _mutated(config: SweepConfig) -> tuple[str, ...]:
    assert config.scheduler.kind == "pbt"
    return tuple(config.scheduler.mutate)


def _with_values(raw: dict[str, Any], values: Mapping[str, Scalar]) -> RunConfig:
    for path, value in values.items():
        set_path(raw, path, value)
    return parse_config(raw, source="population based training")


def _move(source: Location, target: Location) -> None:
    if source.is_local:
        Path(target.path).parent.mkdir(parents=True, exist_ok=True)
        rename_folder(source, target)
        return
    for file in list_tree(source):
        write_bytes(target.child(*file.split("/")), read_bytes(source.child(*file.split("/"))))
    delete_tree(source)
