"""The trials of a sweep, and the run that each of them is: pure functions of the sweep's configuration."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raytrain_xai.config import AnyRunConfig, parse_job
from raytrain_xai.errors import ConfigError
from raytrain_xai.storage import locate
from raytrain_xai.sweep_config import Scalar, SweepConfig
from raytrain_xai.sweeps.space import all_points

TRIALS, BASELINE = "trials", "baseline"
FRACTION, WEIGHT = "guidance.annotated_fraction", "guidance.weight"


@dataclass(frozen=True)
class TrialSpec:
    """One trial.

    Attributes:
        id: number in the sweep and a hash of the rest, for example 0007-3fa91c; name of its run.
        values: dotted path -> value, over the base and the fixed values.
        seed: of the run.
        strategy: way to choose what is annotated, None for the seeded draw.
    """

    id: str
    values: Mapping[str, Scalar]
    seed: int
    strategy: str | None = None


def make_plan(config: SweepConfig) -> tuple[TrialSpec, ...]:
    """All trials of a grid or random search: every point with every strategy and seed, seeds changing fastest.

    A strategy decides which images are annotated, and changes nothing where all or none are, or where the weight is 0:
    such points are trained without one, once. Empty with Optuna, which proposes while the sweep runs.
    """
    raw = _base_values(config)
    found: dict[str, tuple[Mapping[str, Scalar], str | None, int]] = {}
    for point in all_points(config):
        strategies = config.strategies if config.strategies and _chooses(raw, point) else (None,)
        for strategy in strategies:
            for seed in config.seeds:
                found.setdefault(_hash(point, seed, strategy), (point, strategy, seed))
    return tuple(
        TrialSpec(_name(number, key), point, seed, strategy)
        for number, (key, (point, strategy, seed)) in enumerate(found.items())
    )


def trial_spec(number: int, values: Mapping[str, Scalar], seed: int) -> TrialSpec:
    """The trial that a searcher proposes as the one with this number, from 0."""
    return TrialSpec(_name(number, _hash(values, seed, None)), dict(values), seed)


def trial_config(
    config: SweepConfig, spec: TrialSpec, *, baseline: str | None = None, order: str | None = None
) -> AnyRunConfig:
    """The run that a trial is, in ``trials/`` of the sweep's folder.

    Args:
        config: of the sweep.
        spec: the trial.
        baseline: address of the run whose weights it starts from.
        order: address of the annotation order of its strategy.
    Raises:
        ConfigError: a path or value is refused; names the trial and its values.
    """
    own: dict[str, Any] = {"name": spec.id, "storage": sweep_address(config, TRIALS), "seed": spec.seed}
    if baseline is not None:
        own["model.weights"] = baseline
    if order is not None:
        own["guidance.annotation_order"] = order
    return resolve(config, {**spec.values, **own}, source=f"trial {spec.id} ({describe_values(spec.values)})")


def resolve(config: SweepConfig, values: Mapping[str, Scalar], *, source: str) -> AnyRunConfig:
    """The run that values (dotted path -> value) over base and fixed describe.

    Raises:
        ConfigError: a path or value is refused; begins with ``source``.
    """
    try:
        raw = run_values(config, values)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    return parse_job(raw, source=source)


def run_values(config: SweepConfig, values: Mapping[str, Scalar]) -> dict[str, Any]:
    """The configuration of :func:`resolve` before it is validated.

    Raises:
        ConfigError: a path goes below a value.
    """
    raw = _base_values(config)
    for path, value in values.items():
        set_path(raw, path, value)
    raw.setdefault("name", config.name)  # a base that is no file needs none, every run gets its own
    return raw


def baseline_seeds(config: SweepConfig) -> tuple[int, ...]:
    """Seeds of the baselines that are trained: of each repeat, or the first alone; none without a baseline."""
    if config.baseline is None:
        return ()
    return config.seeds if config.baseline.each_seed else config.seeds[:1]


def baseline_name(config: SweepConfig, seed: int) -> str:
    """Name of the baseline that trials with this seed start from, for example s0."""
    seeds = baseline_seeds(config)
    assert seeds, "the sweep has no baseline"
    return f"s{seed if seed in seeds else seeds[0]}"


def baseline_config(config: SweepConfig, seed: int) -> AnyRunConfig:
    """The unguided run with a seed, in ``baseline/`` of the sweep's folder.

    Raises:
        ConfigError: a path or value is refused, or ``baseline.set`` guides.
    """
    assert config.baseline is not None
    own: dict[str, Any] = {"name": f"s{seed}", "storage": sweep_address(config, BASELINE), "seed": seed}
    if config.base.get("job", "classify") != "classify":
        raise ConfigError("baseline: it is for classifiers, this sweep is of concept runs; leave baseline out")
    run = resolve(config, {WEIGHT: 0.0, **config.baseline.set, **own}, source="baseline")
    assert run.job == "classify"
    if run.guidance.weight > 0:
        raise ConfigError(f"baseline: it is unguided, but {WEIGHT} is {run.guidance.weight}; leave it out of set")
    return run


def sweep_address(config: SweepConfig, *parts: str) -> str:
    """Address of the sweep's folder, or of a place in it."""
    return locate(config.storage).child(config.name, *parts).uri


def set_path(raw: dict[str, Any], path: str, value: Any) -> None:
    """Set the value at a dotted path, in place; sections that are absent or null are made.

    Raises:
        ConfigError: the path goes below a value.
    """
    *parents, last = path.split(".")
    node = raw
    for parent in parents:
        child = node.get(parent)
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"{path}: {parent} is a value ({child!r}), not a section")
        node = child
    node[last] = value


def get_path(raw: Mapping[str, Any], path: str) -> Any:
    """The value at a dotted path, None where there is none."""
    node: Any = raw
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return node


def describe_values(values: Mapping[str, Scalar]) -> str:
    """For people: ``guidance.loss=l1, guidance.weight=0.1``."""
    shown = (f"{path}={f'{value:.4g}' if isinstance(value, float) else value}" for path, value in values.items())
    return ", ".join(shown) or "no values"


def _base_values(config: SweepConfig) -> dict[str, Any]:
    raw = copy.deepcopy(config.base)
    for path, value in config.fixed.items():
        set_path(raw, path, value)
    return raw


def _chooses(raw: Mapping[str, Any], point: Mapping[str, Scalar]) -> bool:
    """Whether it matters which images are annotated: guidance is on, and not all nor none of them are."""
    fraction = point.get(FRACTION, get_path(raw, FRACTION))
    weight = point.get(WEIGHT, get_path(raw, WEIGHT))
    return fraction not in (None, 0, 1) and weight not in (None, 0)


def _hash(values: Mapping[str, Scalar], seed: int, strategy: str | None) -> str:
    text = json.dumps([dict(values), seed, strategy], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _name(number: int, key: str) -> str:
    return f"{number:04d}-{key[:6]}"
