"""Sweeps from the driver's side: check, make or reopen the folder, then baselines, annotation orders and trials.

A sweep is what its folder holds. Whatever stops it, :func:`resume_sweep` reads the plan, what ended and the run
folders, and goes on with the rest; Ray Tune keeps nothing that is needed later.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from raytrain_xai.config import AnyRunConfig
from raytrain_xai.errors import ConfigError, RunError
from raytrain_xai.run_folder import Attempt, claim_attempt
from raytrain_xai.runners.capacity import check_machine, cluster_capacity, crew_of_trials, trials_at_a_time
from raytrain_xai.runners.cluster import connected
from raytrain_xai.runners.job import Launch
from raytrain_xai.runners.sweep_paths import absolute_sweep, first_trial
from raytrain_xai.runners.train import check_start
from raytrain_xai.runners.trial import baseline_of, measured_of
from raytrain_xai.storage import Location, delete_tree
from raytrain_xai.sweep_config import FifoScheduler, OptunaSearch, PbtScheduler, SweepConfig
from raytrain_xai.sweeps.folder import (
    STATE,
    create_sweep,
    find_sweep,
    read_plan,
    read_state,
    read_states,
    read_sweep,
)
from raytrain_xai.sweeps.gather import gather, update_results
from raytrain_xai.sweeps.objectives import check_on_data
from raytrain_xai.sweeps.plan import TrialSpec, baseline_config, baseline_seeds, make_plan, trial_config
from raytrain_xai.sweeps.table import Sweep

if TYPE_CHECKING:
    from raytrain_xai.runners.tune_trials import Trials


def start_sweep(config: SweepConfig, launch: Launch) -> Sweep:
    """Train a new sweep.

    Args:
        config: as :func:`raytrain_xai.sweeps.load.load_sweep` gives it.
        launch: where, and who takes the records: those of the runs, with ``trial``, and of ``kind`` ``sweep`` and
            ``trial`` about the sweep itself.
    Returns:
        Its results, which are in its tables too.
    Raises:
        ConfigError, DataError, CheckpointError: wrong input, more workers than the cluster can give; nothing was
            started, and no folder made.
        RunError: the baseline failed, or no trial finished; what there is can be resumed. A SupersededError: another
            process drives the sweep by now, which goes on.
    """
    config = absolute_sweep(config)
    plan = make_plan(config)
    _check(config, plan)
    return _run(config, launch, lambda: claim_attempt(create_sweep(config, plan)))


def resume_sweep(address: str, launch: Launch, *, concurrent: int | None = None) -> Sweep:
    """Continue a sweep: trials that are under way from their newest checkpoints, failed ones once more.

    A process that still drives the sweep is superseded: it notices within seconds and stops.

    Args:
        address: folder of the sweep, or s3:// address.
        launch: see :func:`start_sweep`.
        concurrent: trials at a time, instead of what the sweep says.
    Raises:
        ConfigError: no such sweep.
        RunError: see :func:`start_sweep`.
    """
    at = find_sweep(address)
    config = absolute_sweep(read_sweep(at))
    if concurrent is not None:
        config = config.model_copy(update={"concurrent": concurrent})
    _check_search(config)

    def reopen() -> Attempt:
        attempt = claim_attempt(at)
        baselines = [baseline_of(config, seed).key for seed in baseline_seeds(config)]
        states = {**read_states(at), **{key: read_state(at, key) for key in baselines}}
        for key, state in states.items():
            if state is not None and state.status == "failed":
                delete_tree(at.child(STATE, f"{key}.json"))
        return attempt

    return _run(config, launch, reopen)


def _check(config: SweepConfig, plan: Sequence[TrialSpec]) -> None:
    """What can be known to fail fails now: every trial is a configuration, and the first run could start."""
    _check_search(config)
    varied = {key for space in (config.space, *config.cases) for key in space}
    if config.baseline is not None:
        varied |= config.baseline.set.keys()
    uneven = sorted(key for key in varied if key == "workers" or key.startswith("resources."))
    if uneven:
        raise ConfigError(f"{', '.join(uneven)} cannot differ between the runs of a sweep; set it in base or fixed")
    if isinstance(config.scheduler, PbtScheduler) and _example(config).workers > 0:
        raise ConfigError(
            "scheduler.kind=pbt hands checkpoints from trial to trial, which trials with workers of their own "
            "cannot do; set fixed.workers=0"
        )
    if isinstance(config.scheduler, PbtScheduler) and config.concurrent is not None:
        raise ConfigError(
            "scheduler.kind=pbt takes turns with all its trials on the whole cluster; leave concurrent out"
        )
    runs = [trial_config(config, spec) for spec in plan] or [trial_config(config, first_trial(config))]
    check_on_data(config, runs)
    check_start(_example(config))


def _check_search(config: SweepConfig) -> None:
    if isinstance(config.search, OptunaSearch) and importlib.util.find_spec("optuna") is None:
        raise ConfigError("search.kind is optuna, which is not installed; pip install 'raytrain-xai[optuna]'")


def _example(config: SweepConfig) -> AnyRunConfig:
    """The run that comes first; all of a sweep have its workers and resources."""
    seeds = baseline_seeds(config)
    return baseline_config(config, seeds[0]) if seeds else trial_config(config, first_trial(config))


def _run(config: SweepConfig, launch: Launch, begin: Callable[[], Attempt]) -> Sweep:
    """Everything after the checks; ``begin`` claims the folder, once it is certain that a trial fits."""
    run = _example(config)
    if launch.address == "local":
        check_machine(run)
    crew = crew_of_trials(run, config.concurrent or 1, launch.address, debug=launch.debug)
    with connected(crew, launch.address, debug=launch.debug):
        concurrent = trials_at_a_time(run, cluster_capacity(), config.concurrent)
        attempt = begin()
        from raytrain_xai.runners.board import live_board  # imports Ray, which reads its settings then
        from raytrain_xai.runners.sweep_tasks import order_images, write_pages
        from raytrain_xai.runners.tune_trials import Trials

        with live_board(launch.publish) as board:
            trials = Trials(attempt, config, run, board, concurrent, launch.debug)
            try:
                _announce(trials, launch)
                _train_baselines(trials)
                order_images(trials)
                _train_trials(trials)
                write_pages(trials)
            except KeyboardInterrupt:
                hint = f"go on with `raytrain-xai tune --resume {attempt.run.uri}`"
                launch.publish({"kind": "event", "event": "interrupted", "message": hint})
                raise
    return _conclude(attempt.run)


def _announce(trials: Trials, launch: Launch) -> None:
    config, plan = trials.config, read_plan(trials.at)
    search = config.search
    ended = {key: state.status for key, state in read_states(trials.at).items()}
    launch.publish({
        "kind": "sweep", "name": config.name, "total": search.trials if isinstance(search, OptunaSearch) else len(plan),
        "concurrent": trials.concurrent, "ended": ended, "objectives": list(config.objectives),
    })  # fmt: skip


def _train_baselines(trials: Trials) -> None:
    from raytrain_xai.runners.tune_trials import run_trials

    keys = [baseline_of(trials.config, seed).key for seed in baseline_seeds(trials.config)]
    missing = [key for key in keys if read_state(trials.at, key) is None]
    if missing:
        run_trials(trials, missing)
    for key in keys:
        state = read_state(trials.at, key)
        if state is None or state.status != "finished":
            reason = state.error if state is not None else "it did not end"
            raise RunError(
                f"{key} failed, and every trial starts from it: {reason}; continue with `raytrain-xai tune --resume "
                f"{trials.at.uri}`"
            )


def _train_trials(trials: Trials) -> None:
    from raytrain_xai.runners.schedulers import build_scheduler
    from raytrain_xai.runners.searchers import PlannedOptuna
    from raytrain_xai.runners.tune_trials import run_trials

    at, config = trials.at, trials.config
    states = read_states(at)
    missing = [spec for spec in read_plan(at) if spec.id not in states]
    scheduler = None
    if not isinstance(config.scheduler, FifoScheduler):
        epochs = max(trial_config(config, spec).epochs for spec in [first_trial(config), *missing])
        scheduler = build_scheduler(config, epochs, [p for p in gather(at).points if p.trial in states])
    if isinstance(config.search, OptunaSearch):
        total = config.search.trials - len(read_plan(at)) + len(missing)
        if total > 0:
            searcher = PlannedOptuna(at, config, partial(measured_of, at), missing)
            run_trials(trials, [], scheduler=scheduler, searcher=searcher, total=total)
    elif missing:
        run_trials(trials, [spec.id for spec in missing], scheduler=scheduler)


def _conclude(at: Location) -> Sweep:
    sweep = update_results(at.uri)
    counts = Counter(row.status for row in sweep.rows if not row.is_baseline)
    if not counts["finished"] + counts["stopped"] or counts["unfinished"]:
        errors = Counter(row.error for row in sweep.rows if row.error).most_common(1)
        first = f", most often with: {errors[0][0]}" if errors else ""
        raise RunError(
            f"{at.uri}: {counts['finished']} of {counts.total()} trials finished, {counts['failed']} failed{first}; "
            f"continue with `raytrain-xai tune --resume {at.uri}`"
        )
    return sweep
