"""Local paths of a sweep made absolute: its trials run in other working directories, and it may be resumed from one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.config import AnyRunConfig, RunConfig, parse_job
from raytrain_xai.errors import ConfigError
from raytrain_xai.insight_config import InsightRunConfig
from raytrain_xai.runners.concept_job import absolute_paths
from raytrain_xai.runners.insight_job import absolute_insight
from raytrain_xai.runners.preflight import absolute, resolve_paths
from raytrain_xai.sweep_config import Axis, SweepConfig, dotted
from raytrain_xai.sweeps.plan import TrialSpec, get_path, set_path, trial_config, trial_spec


def first_trial(config: SweepConfig) -> TrialSpec:
    """A trial with the first value of every axis, whatever the search."""
    space = {**config.space, **(config.cases[0] if config.cases else {})}
    return trial_spec(0, {path: axis.values[0] for path, axis in space.items()}, config.seeds[0])


def absolute_sweep(config: SweepConfig) -> SweepConfig:
    """The same sweep with absolute local paths, wherever in it they are.

    Which values are paths is known to the run alone, so every text is put into a trial and what the run makes of it is
    taken.

    Raises:
        ConfigError: the values of a trial are refused.
    """
    config = config.model_copy(update={"storage": absolute(config.storage)})
    trial = trial_config(config, first_trial(config)).model_dump(mode="json")
    base = copy.deepcopy(config.base)
    for path, value in dotted(base):
        set_path(base, path, _resolved(trial, path, value))
    baseline = config.baseline
    if baseline is not None:
        baseline = baseline.model_copy(update={"set": _values(trial, baseline.set)})
    return config.model_copy(
        update={
            "base": base,
            "fixed": _values(trial, config.fixed),
            "baseline": baseline,
            "space": _space(trial, config.space),
            "cases": tuple(_space(trial, case) for case in config.cases),
        }
    )


def resolved_run(config: AnyRunConfig) -> AnyRunConfig:
    """A run of a kind that is swept with absolute local paths.

    Raises:
        ConfigError: it is of another kind.
    """
    match config:
        case RunConfig():
            return resolve_paths(config)
        case ConceptRunConfig():
            return absolute_paths(config)
        case InsightRunConfig():
            return absolute_insight(config)
        case _:
            raise ConfigError(f"job: {config.job} is not swept; a sweep trains classifiers and concepts")


def _values(trial: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    return {path: _resolved(trial, path, value) for path, value in values.items()}


def _space(trial: Mapping[str, Any], space: Mapping[str, Axis]) -> dict[str, Axis]:
    return {
        path: Axis(kind=axis.kind, values=tuple(_resolved(trial, path, value) for value in axis.values))
        for path, axis in space.items()
    }


def _resolved(trial: Mapping[str, Any], path: str, value: Any) -> Any:
    """What a run makes of a value; where it has no place in this trial (another kind of model), it is left alone."""
    if not isinstance(value, str | list):
        return value
    raw = copy.deepcopy(dict(trial))
    set_path(raw, path, value)
    try:
        run = resolved_run(parse_job(raw))
    except ConfigError:
        return value
    return get_path(run.model_dump(mode="json"), path)
