"""Optuna as a searcher of Ray Tune: several objectives, spaces that are unions, and sweeps that go on.

Ray 2.60 has a searcher for Optuna, which knows no conditional spaces, takes past results with a single objective only,
and is resumed by unpickling it. This one asks and tells an Optuna study itself; where a sweep is, its files say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray.tune.search import Searcher

from raytrain_xai.storage import Location
from raytrain_xai.sweep_config import Axis, OptunaSearch, Scalar, SweepConfig
from raytrain_xai.sweeps.folder import append_plan, read_plan, read_state
from raytrain_xai.sweeps.plan import TrialSpec, trial_spec

Measured = Callable[[str], Mapping[str, float]]
"""Validation metrics of a trial that ended, by its id."""

_CASE = "case"


class PlannedOptuna(Searcher):
    """Hands out the trials of a sweep: first those that were proposed and never ended, then new ones.

    Every new trial is in the plan before Tune hears of it.

    Args:
        at: folder of the sweep.
        config: of the sweep; ``search.kind`` is optuna.
        measured: of trials that ended.
        pending: trials of the plan that have to be trained (again).
    """

    def __init__(
        self, at: Location, config: SweepConfig, measured: Measured, pending: Sequence[TrialSpec]
    ) -> None:  # fmt: skip
        import optuna  # pyright: ignore[reportMissingImports] - optional extra

        super().__init__()
        assert isinstance(config.search, OptunaSearch)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._at, self._config, self._measured = at, config, measured
        self._total = config.search.trials
        self._asked: dict[str, tuple[TrialSpec, Any]] = {}  # by Tune's id: not told yet
        plan = read_plan(at)
        # The seed with the number of past trials: a resumed study must not propose its first points again.
        sampler = optuna.samplers.TPESampler(seed=config.search.seed + len(plan))
        directions: list[Any] = ["maximize" if way == "max" else "minimize" for way in config.objectives.values()]
        self._study = optuna.create_study(directions=directions, sampler=sampler)
        again = {spec.id for spec in pending}
        for spec in plan:
            if spec.id not in again:
                self._tell(self._ask_for(spec.values), measured(spec.id))
        self._pending = list(pending)
        self._planned = len(plan)

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """See Ray's class."""
        if self._pending:
            spec = self._pending.pop(0)
            self._asked[trial_id] = (spec, self._ask_for(spec.values))
            return {"trial": spec.id}
        assert self._planned < self._total, "Tune is told how many trials are left"
        trial = self._study.ask()
        spec = trial_spec(self._planned, propose(trial, self._config), self._config.seeds[0])
        append_plan(self._at, spec)
        self._planned += 1
        self._asked[trial_id] = (spec, trial)
        return {"trial": spec.id}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Only ends count."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False,  # noqa: ARG002
    ) -> None:  # fmt: skip
        """See Ray's class. A trial that the scheduler stopped counts with its last evaluation, a failed one as such."""
        spec, trial = self._asked.pop(trial_id)
        state = read_state(self._at, spec.id)
        is_failed = error or (state is not None and state.status == "failed")
        self._tell(trial, {} if is_failed else self._measured(spec.id))

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save, see above."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore, see above."""

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        """Nothing to save, see above."""

    def _ask_for(self, values: Mapping[str, Scalar]) -> Any:
        """A trial of the study with these values."""
        self._study.enqueue_trial(parameters(values, self._config))
        trial = self._study.ask()
        propose(trial, self._config)
        return trial

    def _tell(self, trial: Any, val: Mapping[str, float]) -> None:
        import optuna  # pyright: ignore[reportMissingImports] - optional extra

        if val.keys() >= self._config.objectives.keys():
            self._study.tell(trial, [val[name] for name in self._config.objectives])
        else:
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)


def propose(trial: Any, config: SweepConfig) -> dict[str, Scalar]:
    """Values that an Optuna trial suggests; with cases it first chooses one of them."""
    case = 0 if len(config.cases) < 2 else int(trial.suggest_categorical(_CASE, list(range(len(config.cases)))))
    return {path: _suggest(trial, name, axis) for path, (name, axis) in _named(config, case).items()}


def parameters(values: Mapping[str, Scalar], config: SweepConfig) -> dict[str, Any]:
    """Inverse of :func:`propose`: what Optuna calls the values of a trial of the plan."""
    for case in range(max(1, len(config.cases))):
        named = _named(config, case)
        if named.keys() == values.keys() and all(_holds(axis, values[path]) for path, (_, axis) in named.items()):
            own = {name: values[path] for path, (name, _) in named.items()}
            return own | ({_CASE: case} if len(config.cases) > 1 else {})
    raise AssertionError("the plan of a sweep holds points of its space")


def _named(config: SweepConfig, case: int) -> dict[str, tuple[str, Axis]]:
    """Path -> (Optuna's name, axis): ranges of different cases differ, and so must their names."""
    shared = {path: (path, axis) for path, axis in config.space.items()}
    own = config.cases[case] if config.cases else {}
    return shared | {path: (f"{path} ({case})", axis) for path, axis in own.items()}


def _suggest(trial: Any, name: str, axis: Axis) -> Scalar:
    match axis.kind:
        case "uniform":
            return trial.suggest_float(name, *axis.values)
        case "loguniform":
            return trial.suggest_float(name, *axis.values, log=True)
        case "randint":
            return trial.suggest_int(name, *axis.values)
        case _:
            return trial.suggest_categorical(name, list(axis.values))


def _holds(axis: Axis, value: Scalar) -> bool:
    if not axis.is_range:
        return value in axis.values
    low, high = axis.values
    return isinstance(value, int | float) and isinstance(low, int | float) and isinstance(high, int | float) and (
        low <= value <= high
    )  # fmt: skip
