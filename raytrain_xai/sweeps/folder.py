"""The folder of a sweep: its configuration, its plan, and what became of every trial.

Layout of ``<storage>/<name>/``: ``sweep.yaml``, ``plan.jsonl``, ``trials/<id>/`` and ``baseline/s<seed>/`` (ordinary
run folders), ``state/<id>.json``, ``orders/<strategy>-s<seed>.json``, and the results: ``trials.parquet``,
``points.parquet``, ``fronts.json``, ``report.html``. These files alone say where a sweep is; nothing else is needed to
continue it. ``attempts/`` holds the claims of those that drove it, see :class:`raytrain_xai.run_folder.Attempt`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import yaml

from raytrain_xai.config import dump_config, validated
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.run_folder import storage_and_name, write_json
from raytrain_xai.storage import Location, exists, list_names, locate, read_bytes, read_many, write_bytes
from raytrain_xai.sweep_config import SweepConfig
from raytrain_xai.sweeps.plan import BASELINE, TRIALS, TrialSpec, baseline_name

SWEEP, PLAN, STATE, ORDERS = "sweep.yaml", "plan.jsonl", "state", "orders"
Status = Literal["finished", "stopped", "failed"]


@dataclass(frozen=True)
class TrialState:
    """How a trial ended; written last, so a trial without one has not.

    Attributes:
        status: finished; stopped by the scheduler; failed.
        error: one line, None unless failed.
        attempts: processes that were started for it.
        seconds: of the last of them, until the end of the trial.
        retryable: False when the reason is in the configuration or the data, so that another attempt ends alike.
    """

    status: Status
    error: str | None
    attempts: int
    seconds: float
    retryable: bool = False


def create_sweep(config: SweepConfig, plan: Sequence[TrialSpec]) -> Location:
    """Start a sweep's folder: its configuration, then its plan.

    Raises:
        ConfigError: the name is taken.
    """
    at = locate(config.storage).child(config.name)
    if exists(at.child(SWEEP)):
        raise ConfigError(
            f"name {config.name!r} is taken: {at.uri} holds a sweep; continue it with `raytrain-xai tune --resume "
            f"{at.uri}` or choose another with --set name=NAME"
        )
    write_plan(at, plan)
    write_bytes(at.child(SWEEP), dump_config(config).encode())
    return at


def find_sweep(address: str) -> Location:
    """Locate an existing sweep.

    Raises:
        ConfigError: no sweep at this address.
    """
    at = locate(address)
    if not exists(at.child(SWEEP)):
        raise ConfigError(f"{address} is not a sweep: it has no {SWEEP}; give the folder <storage>/<name> of a sweep")
    return at


def read_sweep(at: Location) -> SweepConfig:
    """Configuration of a stored sweep, with the name and storage of where it lies now.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = at.child(SWEEP)
    try:
        raw = yaml.safe_load(read_bytes(file))
        config = validated(SweepConfig, raw, file.uri)
    except (yaml.YAMLError, ConfigError) as error:
        raise CheckpointError(f"{file.uri} is damaged: {' '.join(str(error).split())}") from error
    storage, name = storage_and_name(at)
    return config.model_copy(update={"storage": storage, "name": name})


def write_plan(at: Location, plan: Sequence[TrialSpec]) -> None:
    """Store the trials, whole or not at all."""
    write_bytes(at.child(PLAN), _lines(plan))


def append_plan(at: Location, *specs: TrialSpec) -> None:
    """Add trials that a searcher proposed. One writer, the driver of the sweep."""
    write_bytes(at.child(PLAN), read_bytes(at.child(PLAN)) + _lines(specs))


def read_plan(at: Location) -> tuple[TrialSpec, ...]:
    """The trials, in order.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = at.child(PLAN)
    try:
        return tuple(TrialSpec(**json.loads(line)) for line in read_bytes(file).splitlines())
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{file.uri} is damaged: {' '.join(str(error).split())}") from error


def read_spec(at: Location, trial: str) -> TrialSpec:
    """One trial of the plan. Its line is the number in its id: the others, maybe thousands, are not parsed.

    Raises:
        CheckpointError: the file is damaged, or has no such trial.
    """
    file = at.child(PLAN)
    try:
        spec = TrialSpec(**json.loads(read_bytes(file).splitlines()[int(trial.partition("-")[0])]))
    except (ValueError, TypeError, IndexError) as error:
        raise CheckpointError(f"{file.uri} is damaged: {' '.join(str(error).split())} (at trial {trial})") from error
    if spec.id != trial:
        raise CheckpointError(f"{file.uri} is damaged: it has {spec.id} in the place of {trial}")
    return spec


def write_state(at: Location, trial: str, state: TrialState) -> None:
    """Say how a trial ended; the last thing that happens to it."""
    write_json(at.child(STATE, f"{trial}.json"), asdict(state))


def read_state(at: Location, trial: str) -> TrialState | None:
    """How a trial ended; None while it has not.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = at.child(STATE, f"{trial}.json")
    return _parse_state(file, read_bytes(file)) if exists(file) else None


def read_states(at: Location) -> dict[str, TrialState]:
    """Id -> state of every trial that ended.

    Raises:
        CheckpointError: a file is damaged.
    """
    folder = at.child(STATE)
    names = [name for name in list_names(folder) if name.endswith(".json")]
    found = zip(names, read_many(folder, names), strict=True)
    return {name.removesuffix(".json"): _parse_state(folder.child(name), data) for name, data in found}


def _parse_state(file: Location, data: bytes) -> TrialState:
    try:
        return TrialState(**json.loads(data))
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{file.uri} is damaged: {' '.join(str(error).split())}") from error


def _lines(specs: Sequence[TrialSpec]) -> bytes:
    return "".join(json.dumps(asdict(spec)) + "\n" for spec in specs).encode()


def trial_run(at: Location, trial: str) -> Location:
    """Run folder of a trial."""
    return at.child(TRIALS, trial)


def baseline_run(at: Location, config: SweepConfig, seed: int) -> Location:
    """Run folder of the baseline that trials with this seed start from."""
    return at.child(BASELINE, baseline_name(config, seed))


def order_file(at: Location, config: SweepConfig, strategy: str, seed: int) -> Location:
    """File of the annotation order of a strategy, as the baseline of this seed gives it."""
    return at.child(ORDERS, f"{strategy}-{baseline_name(config, seed)}.json")
