"""What is wrong with a sweep, found before anything starts: every trial's configuration is made once and validated.

What only the data can tell is in :func:`raytrain_xai.sweeps.objectives.check_on_data`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.config import AnyRunConfig, RunConfig, parse_job
from raytrain_xai.config_text import problems_of
from raytrain_xai.errors import ConfigError
from raytrain_xai.insight_config import InsightRunConfig
from raytrain_xai.sweep_config import (
    AshaScheduler,
    FifoScheduler,
    GridSearch,
    OptunaSearch,
    PbtScheduler,
    RandomSearch,
    SweepConfig,
)
from raytrain_xai.sweeps.objectives import metrics_in_use, refusal
from raytrain_xai.sweeps.plan import baseline_config, baseline_seeds, describe_values, make_plan, run_values
from raytrain_xai.sweeps.space import Point, all_points, corner_points

OWN_KEYS = {"name": "the sweep names its trials", "storage": "set storage of the sweep", "seed": "set seeds", "job": ""}
_KINDS = {("classify", False): RunConfig, ("concepts", False): ConceptRunConfig, ("concepts", True): InsightRunConfig}
SHARED_KEYS = ("model.name", "model.weights", "data.path", "data.measured")
"""What trials that start from one baseline have in common."""
MUTABLE = (
    "optim", "loss", "mixing", "guidance.weight", "guidance.reduction", "guidance.box_dilation", "data.crop_area",
    "data.magnitude", "data.erase", "distill.kd_weight", "distill.temperature", "distill.explanation_weight",
    "distill.explain_every", "distill.truth_weight", "distill.baseline_weight",
)  # fmt: skip
"""Keys and sections that population based training may change while a trial is trained; what is learned stays."""
_SHOWN = 10


def check_sweep(config: SweepConfig, source: str = "sweep") -> None:
    """Refuse a sweep that cannot be searched as it says, or some of whose trials cannot be.

    Raises:
        ConfigError: lists all problems: unknown keys with near matches, refused values, an empty space, ranges in a
            grid, metrics that a trial does not measure, schedulers and searchers that do not go together.
    """
    problems = [*_key_problems(config), *_search_problems(config), *_scheduler_problems(config)]
    problems += [*_strategy_problems(config), *(list(_trial_problems(config)) or _baseline_problems(config))]
    if not problems:
        return
    shown = problems[:_SHOWN]
    rest = len(problems) - len(shown)
    raise ConfigError(f"{source}: " + "; ".join([*shown, *([f"and {rest} more"] if rest else [])]))


def _key_problems(config: SweepConfig) -> Iterator[str]:
    spaces = {"space": config.space, **{f"cases[{n}]": case for n, case in enumerate(config.cases)}}
    given = {"fixed": config.fixed, **spaces}
    if config.baseline is not None:
        given["baseline.set"] = config.baseline.set
    for place, keys in given.items():
        for key in keys:
            if key in OWN_KEYS:
                yield f"{place}: {key} cannot be set for trials; {OWN_KEYS[key] or 'base decides it'}"
    for place, keys in spaces.items():
        twice = [key for key in keys if key in config.fixed or (place != "space" and key in config.space)]
        if twice:
            yield f"{', '.join(twice)} is in {place} and in fixed or space; keep one"
        shared = [key for key in keys if config.baseline is not None and key in SHARED_KEYS]
        if shared:
            yield f"{', '.join(shared)} cannot vary: all trials start from one baseline; leave baseline out, or fix it"


def _search_problems(config: SweepConfig) -> Iterator[str]:
    spaces = [config.space, *config.cases]
    axes = {key: axis for space in spaces for key, axis in space.items()}
    if not axes and not (config.search.kind == "grid" and len(config.seeds) > 1):
        yield "the space is empty; give space or cases an axis, such as guidance.weight: [0.1, 1], or several seeds"
        return
    match config.search:
        case GridSearch():
            drawn = [f"{key} ({axis.kind})" for key, axis in axes.items() if axis.kind != "grid"]
            if drawn:
                yield f"a grid cannot list {', '.join(drawn)}; write lists of values, or set search.kind=random"
        case RandomSearch():
            if all(axis.kind == "grid" for axis in axes.values()):
                yield "search.kind=random has nothing to draw, every axis is a grid; set search.kind=grid"
        case OptunaSearch():
            if config.strategies or len(config.seeds) > 1:
                yield "search.kind=optuna proposes points for one seed; leave strategies out and give one seed"


def _scheduler_problems(config: SweepConfig) -> Iterator[str]:
    scheduler = config.scheduler
    if isinstance(scheduler, FifoScheduler):
        return
    if isinstance(config.search, OptunaSearch) and (scheduler.kind == "pbt" or len(config.objectives) > 1):
        yield (
            f"scheduler.kind={scheduler.kind} compares trials by one metric, search.kind=optuna by "
            f"{', '.join(config.objectives)}; set scheduler.kind=fifo"
        )
    if isinstance(scheduler, AshaScheduler):
        if scheduler.max_t is not None and scheduler.max_t < scheduler.grace_period:
            yield f"scheduler.max_t={scheduler.max_t} is below scheduler.grace_period={scheduler.grace_period}"
        return
    yield from _pbt_problems(config, scheduler)


def _pbt_problems(config: SweepConfig, scheduler: PbtScheduler) -> Iterator[str]:
    if not scheduler.mutate:
        yield "scheduler.mutate is empty; name a key that may change while a trial is trained, such as optim.lr"
    keys = {key for space in (config.space, *config.cases, scheduler.mutate) for key in space}
    fixed = sorted(key for key in keys if key == "optim.name" or not _is_mutable(key))
    if fixed:
        yield (
            f"a trial that goes on from another one cannot change {', '.join(fixed)}; with scheduler.kind=pbt only "
            f"{', '.join(MUTABLE)} (without optim.name) can vary"
        )
    if config.strategies or len(config.seeds) > 1:
        yield "scheduler.kind=pbt compares trials of one seed and no strategies, which go on from each other"
    if _is_listed(config) and len(all_points(config)) < 2:
        yield "scheduler.kind=pbt needs a population of two trials or more"


def _strategy_problems(config: SweepConfig) -> Iterator[str]:
    if not config.strategies:
        return
    if config.baseline is None:
        yield "strategies choose images by what the baseline makes of them; add baseline: {}"
    if any("guidance.annotation_order" in keys for keys in (config.fixed, config.space, *config.cases)):
        yield "strategies set guidance.annotation_order themselves; leave it out"
    if _is_listed(config) and all(spec.strategy is None for spec in make_plan(config)):
        yield (
            "strategies change nothing: every trial has all images annotated, or none, or no guidance; vary "
            "guidance.annotated_fraction"
        )


def _trial_problems(config: SweepConfig) -> Iterator[str]:
    """Problems of single trials, each kind once with the first trial it occurs in."""
    first: dict[str, Point] = {}
    found: Counter[str] = Counter()
    points = _points_to_check(config)
    for point in points:
        for problem in _point_problems(config, point):
            first.setdefault(problem, point)
            found[problem] += 1
    for problem, count in found.items():
        where = "in every trial" if count == len(points) else f"with {describe_values(first[problem])}"
        more = f" and {count - 1} more" if 1 < count < len(points) else ""
        yield f"{problem} ({where}{more})" if len(points) > 1 else problem


def _baseline_problems(config: SweepConfig) -> Iterator[str]:
    for seed in baseline_seeds(config)[:1]:
        try:
            baseline_config(config, seed)
        except ConfigError as error:
            yield str(error)


def _points_to_check(config: SweepConfig) -> list[Point]:
    """All points where they are known, else the ends of the ranges; and what population based training may draw."""
    if _is_listed(config):
        points = all_points(config)
    else:
        points = [p for case in config.cases or ({},) for p in corner_points({**config.space, **case})]
    if isinstance(config.scheduler, PbtScheduler):
        points += [{**points[0], **mutated} for mutated in corner_points(config.scheduler.mutate)]
    return points


def _is_listed(config: SweepConfig) -> bool:
    """Whether the points are known before the sweep runs; a grid with a range has none and is refused."""
    axes = [axis for space in (config.space, *config.cases) for axis in space.values()]
    return isinstance(config.search, RandomSearch) or (
        isinstance(config.search, GridSearch) and not any(axis.is_range for axis in axes)
    )


def _is_mutable(key: str) -> bool:
    return any(key == section or key.startswith(f"{section}.") for section in MUTABLE)


def _point_problems(config: SweepConfig, point: Point) -> list[str]:
    try:
        raw = run_values(config, point)
    except ConfigError as error:
        return [str(error)]
    kind = _KINDS.get((raw.get("job", "classify"), "encoder" in raw))
    problems = [] if kind is None else problems_of(kind, raw)
    if problems:
        return problems
    try:
        run = parse_job(raw)
    except ConfigError as error:
        return [str(error)]
    refused = [refusal(metric, run) for metric in metrics_in_use(config)]
    return [*(text for text in refused if text is not None), *_too_late(config, run)]


def _too_late(config: SweepConfig, run: AnyRunConfig) -> Sequence[str]:
    """A scheduler that could decide nothing before the end of a trial."""
    scheduler = config.scheduler
    if isinstance(scheduler, FifoScheduler):
        return ()
    first = max(run.evaluation.every_epochs, getattr(scheduler, "grace_period", 1), getattr(scheduler, "interval", 1))
    if first < run.epochs:
        return ()
    return (
        f"scheduler.kind={scheduler.kind} decides nothing before the last of {run.epochs} epochs; lower "
        "evaluation.every_epochs, scheduler.grace_period or scheduler.interval, or raise epochs",
    )
