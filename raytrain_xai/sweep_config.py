"""Configuration of a sweep: one base run, the space of values that are tried, how it is searched, and how often.

A sweep's YAML file names the base (another YAML file, or the mapping itself) and dotted paths into it::

    name: loss-weight
    base: ../guidance/scenes_birds.yaml
    space:
      guidance.loss: [energy, l1]
      guidance.weight: {loguniform: [0.01, 10]}
    search: {kind: random, trials: 12}
    seeds: [0, 1, 2]

Checks that need the schema of the base are in :mod:`raytrain_xai.sweeps.checks`; files are read by
:func:`raytrain_xai.sweeps.load.load_sweep`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_serializer, model_validator

from raytrain_xai.sections import Section, StrategyName

AxisKind = Literal["grid", "choice", "uniform", "loguniform", "randint"]
Scalar = str | int | float | bool | None
Direction = Literal["max", "min"]

AXIS_KINDS: tuple[AxisKind, ...] = ("grid", "choice", "uniform", "loguniform", "randint")
_RANGES = ("uniform", "loguniform", "randint")


class Axis(Section):
    """The values that one dotted path takes; written ``{kind: [values]}``, a plain list is a grid.

    grid: every value, crossed with all other axes. choice: one of the values at random. uniform, loguniform: a number
    of the range [a, b], in the second case of a uniform logarithm. randint: an integer from a to b, both included.
    """

    kind: AxisKind
    values: tuple[Scalar, ...]

    @model_validator(mode="before")
    @classmethod
    def _written(cls, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return {"kind": "grid", "values": [_number(item) for item in value]}
        if isinstance(value, Mapping) and "values" not in value:
            if len(value) != 1 or next(iter(value)) not in AXIS_KINDS:
                raise ValueError(f"an axis is a list of values, or one of {', '.join(AXIS_KINDS)} with its values")
            kind, values = next(iter(value.items()))
            if not isinstance(values, list | tuple):
                raise ValueError(f"{kind} needs a list of values")
            return {"kind": kind, "values": [_number(item) for item in values]}
        return value

    @model_validator(mode="after")
    def _has_values(self) -> Self:
        if not self.values:
            raise ValueError(f"{self.kind} is empty; give at least one value")
        if len({(type(value), value) for value in self.values}) < len(self.values):
            raise ValueError(f"{self.kind} names a value twice")
        if self.kind in _RANGES:
            _check_range(self.kind, self.values)
        return self

    @model_serializer
    def _as_written(self) -> dict[str, list[Scalar]]:
        return {self.kind: list(self.values)}

    @property
    def is_range(self) -> bool:
        """Whether it has ends instead of values, so that no grid can list it."""
        return self.kind in _RANGES


def dotted(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted paths and values of a nested mapping, in order; ``{kind: [...]}`` of an axis stays whole."""
    for key, item in value.items():
        is_axis = isinstance(item, Mapping) and len(item) == 1 and next(iter(item)) in AXIS_KINDS
        if isinstance(item, Mapping) and item and not is_axis:
            yield from dotted(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item


def _paths(value: Any) -> Any:
    """Nested keys as dotted paths: ``{optim: {lr: 1}}`` is ``{optim.lr: 1}``; the later of equals counts."""
    return dict(dotted(value)) if isinstance(value, Mapping) else value


def _subspace(value: Any) -> Any:
    """As :func:`_paths`; a single value is an axis of one value."""
    paths = _paths(value)
    if not isinstance(paths, dict):
        return paths
    return {path: item if isinstance(item, list | Mapping | Axis) else [item] for path, item in paths.items()}


def _number(value: Any) -> Any:
    is_exponent = isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value)
    return float(value) if is_exponent else value  # YAML 1.1 reads 1e-3 as text


def _check_range(kind: AxisKind, values: tuple[Scalar, ...]) -> None:
    if len(values) != 2 or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise ValueError(f"{kind} needs two numbers, its ends")
    low, high = values
    assert isinstance(low, int | float) and isinstance(high, int | float)
    if low >= high:
        raise ValueError(f"{kind} needs a lower end below the upper one")
    if kind == "loguniform" and low <= 0:
        raise ValueError("loguniform needs ends above 0")
    if kind == "randint" and not (isinstance(low, int) and isinstance(high, int)):
        raise ValueError("randint needs whole numbers")


Values = Annotated[dict[str, Any], BeforeValidator(_paths)]
Space = Annotated[dict[str, Axis], BeforeValidator(_subspace)]


class BaselineConfig(Section):
    """The unguided run that every trial starts from, trained once and shared."""

    set: Values = {}
    """Dotted path -> value over base and fixed, for the baseline alone; guidance.weight is 0 anyway."""
    each_seed: bool = False
    """One baseline per seed instead of one with the first seed."""


class GridSearch(Section):
    """Every combination of the values of all axes."""

    kind: Literal["grid"] = "grid"


class RandomSearch(Section):
    """Draws of the axes that are no grids, the same for every combination of those that are."""

    kind: Literal["random"]
    trials: int = Field(ge=1, le=100_000)
    seed: int = Field(default=0, ge=0)


class OptunaSearch(Section):
    """Optuna proposes values from what the trials before reached in ``objectives``; grids are choices to it."""

    kind: Literal["optuna"]
    trials: int = Field(ge=1, le=100_000)
    seed: int = Field(default=0, ge=0)


class FifoScheduler(Section):
    """Every trial takes all its epochs."""

    kind: Literal["fifo"] = "fifo"


class AshaScheduler(Section):
    """Asynchronous successive halving: of the trials that reached a rung, all but the best 1/reduction_factor stop."""

    kind: Literal["asha"]
    metric: str
    """Of the validation split."""
    mode: Direction = "max"
    max_t: int | None = Field(default=None, ge=1)
    """Epochs after which nothing is stopped any more; nothing: the epochs of the trials."""
    grace_period: int = Field(default=1, ge=1)
    """Epochs of the first rung."""
    reduction_factor: float = Field(default=3.0, gt=1)

    @field_validator("metric", mode="before")
    @classmethod
    def _compares_by_one(cls, value: Any) -> Any:
        return _one_metric(value)


class PbtScheduler(Section):
    """Population based training: weak trials go on from a strong one, with its values changed a little."""

    kind: Literal["pbt"]
    metric: str
    """Of the validation split."""
    mode: Direction = "max"
    interval: int = Field(default=1, ge=1)
    """Epochs between comparisons."""
    mutate: Space
    """Dotted path -> values from which a changed one is drawn."""
    quantile: float = Field(default=0.25, gt=0, le=0.5)
    """Share of the trials that is weak, and that is strong."""

    @field_validator("metric", mode="before")
    @classmethod
    def _compares_by_one(cls, value: Any) -> Any:
        return _one_metric(value)


def _one_metric(value: Any) -> Any:
    if isinstance(value, list | tuple):
        raise ValueError("a scheduler compares trials by one metric; for several use search.kind=optuna with fifo")
    return value


def _kind_alone(value: Any) -> Any:
    return {"kind": value} if isinstance(value, str) else value


AnySearch = Annotated[GridSearch | RandomSearch | OptunaSearch, Field(discriminator="kind")]
AnyScheduler = Annotated[FifoScheduler | AshaScheduler | PbtScheduler, Field(discriminator="kind")]


class SweepConfig(Section):
    """Everything that defines a sweep."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    storage: str = "runs"
    """Folder or s3:// address; the sweep lives in <storage>/<name>/."""
    base: dict[str, Any]
    """A run's configuration; in a file also the path of a run's YAML, relative to the file."""
    fixed: Values = {}
    """Dotted path -> value, over base."""
    baseline: BaselineConfig | None = None
    space: Space = {}
    """Dotted path -> axis."""
    cases: tuple[Space, ...] = ()
    """Parts of the space that are added up, each combined with ``space``: other weights for every loss, for example."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    """Every point is trained with each of them."""
    strategies: tuple[StrategyName, ...] = ()
    """Ways to choose what is annotated, from the baseline; every point is trained with each of them."""
    search: AnySearch = GridSearch()
    scheduler: AnyScheduler = FifoScheduler()
    objectives: dict[str, Direction] = Field(default={"f1": "max", "epg": "max", "iou": "max"}, min_length=1)
    """Metrics of the validation split and which way is better: of the fronts, and of Optuna."""
    concurrent: int | None = Field(default=None, ge=1)
    """Trials at a time, as far as the cluster holds them; nothing: as many as it holds. Where an autoscaler
    has yet to bring the first nodes for trials with workers of their own, say how many."""
    retries: int = Field(default=1, ge=0)
    """Further attempts of a trial whose process died; each goes on from the newest checkpoint."""
    galleries: Literal["all", "front", "none"] = "all"
    """Trials that get a report.html of their own with pictures."""

    @field_validator("search", "scheduler", mode="before")
    @classmethod
    def _kinds_alone(cls, value: Any) -> Any:
        return _kind_alone(value)

    @field_validator("seeds", "strategies")
    @classmethod
    def _all_different(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(value)) < len(value):
            raise ValueError("names one twice")
        return value

    @field_validator("seeds")
    @classmethod
    def _any(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value:
            raise ValueError("is empty; give at least one seed")
        return value
