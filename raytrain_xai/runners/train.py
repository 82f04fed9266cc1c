"""Runs from the driver's side: check, create or reopen the run folder, train in this process or on Ray workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from raytrain_xai.align_config import AlignRunConfig
from raytrain_xai.caption_config import CaptionRunConfig
from raytrain_xai.checkpoint import complete_steps, read_checkpoint_of
from raytrain_xai.config import AnyRunConfig, RunConfig, job_with_overrides, parse_job
from raytrain_xai.data.run_data import open_run_data
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.insight_config import InsightRunConfig
from raytrain_xai.run_folder import (
    CHECKPOINTS,
    METRICS,
    SUMS,
    create_run,
    open_run,
    read_config,
    read_json,
    run_location,
    storage_and_name,
    write_config,
)
from raytrain_xai.runners.align_job import plan_align
from raytrain_xai.runners.caption_job import plan_captions
from raytrain_xai.runners.changes import RESUMABLE, RESUMABLE_OF, changed_keys
from raytrain_xai.runners.cluster import connected
from raytrain_xai.runners.concept_job import plan_concepts
from raytrain_xai.runners.insight_job import plan_insight
from raytrain_xai.runners.job import Job, Launch
from raytrain_xai.runners.loop import train
from raytrain_xai.runners.preflight import check_run, resolve_paths
from raytrain_xai.runners.tutor import TEACHER
from raytrain_xai.runners.worker import Worker
from raytrain_xai.storage import Location, delete_tree, exists


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    Attributes:
        run: its address.
        metrics: content of ``metrics.json``.
        was_finished: True when there was nothing left to train.
    """

    run: str
    metrics: dict[str, Any]
    was_finished: bool = False


def start_run(config: AnyRunConfig, launch: Launch) -> Outcome:
    """Train a new run.

    Raises:
        ConfigError, DataError, CheckpointError: wrong input; nothing was started, and no folder made.
        StoppedError: ``launch.stop`` asked, and there is a checkpoint to resume from.
        RunError: the run failed; what it saved can be resumed.
    """
    job = _plan(config, stored=None)
    return _run(job, launch, partial(create_run, job.config))


def check_start(config: AnyRunConfig) -> None:
    """Check that a new run could start, and nothing more; raises as :func:`start_run` does before it starts."""
    _plan(config, stored=None)


def resume_run(run: str, overrides: Sequence[str], launch: Launch) -> Outcome:
    """Continue a run from its newest complete checkpoint, or say that it is finished.

    Args:
        run: run folder or s3:// address.
        overrides: ``a.b=c`` for the keys in :data:`raytrain_xai.runners.changes.RESUMABLE`; epochs can only be raised.

    Raises:
        ConfigError: no such run, a published one, or an override that would change what was trained.
        RunError: the run failed again.
    """
    at = open_run(run)
    if exists(at.child(SUMS)):
        raise ConfigError(
            f"{run} is a published run, which has no optimiser state to go on from; start a new run with "
            f"--set model.weights={run}"
        )
    stored = read_config(at)
    before = parse_job(stored, source=f"{run}/config.yaml")
    config = job_with_overrides(stored, overrides, source="resume")
    _check_changes(before, config)
    storage, name = storage_and_name(at)
    config = config.model_copy(update={"storage": storage, "name": name})  # the folder may have moved
    if exists(at.child(METRICS)) and config.epochs == before.epochs:
        return Outcome(run, read_json(at.child(METRICS)), was_finished=True)
    job = _plan(config, stored=at)

    def reopen() -> None:
        write_config(at, job.config)
        delete_tree(at.child(METRICS))  # from here on the run is unfinished

    return _run(job, launch, reopen)


def _plan(config: AnyRunConfig, stored: Location | None) -> Job:
    """Check a run, new or ``stored``, and say what to do for it."""
    is_new = stored is None or not complete_steps(stored.child(CHECKPOINTS))
    if isinstance(config, RunConfig):
        config = resolve_paths(config)
        teacher = None
        if stored is not None and config.distill is not None and not is_new:
            teacher = read_checkpoint_of(stored, "last").state[TEACHER]
        info = check_run(config, is_new=is_new, teacher=teacher)
        return Job(config, partial(_train_classifier, info.fingerprint))
    if isinstance(config, AlignRunConfig):
        return plan_align(config)
    if isinstance(config, CaptionRunConfig):
        return plan_captions(config, stored)
    if isinstance(config, InsightRunConfig):
        return plan_insight(config, stored)
    return plan_concepts(config, stored)


def _run(job: Job, launch: Launch, begin: Callable[[], object]) -> Outcome:
    """Train; ``begin`` touches the run folder, once it is certain that there are workers to train on."""
    config, uri = job.config, run_location(job.config).uri
    if config.workers > 0:
        with connected(config, launch.address, debug=launch.debug):
            begin()
            job.prepare(launch)
            from raytrain_xai.runners.ray_train import run_on_ray  # imports Ray, which reads its settings then

            return Outcome(uri, run_on_ray(config, job.work, launch))
    begin()
    job.prepare(launch)
    device = torch.device("cuda" if config.resources.gpus_per_worker > 0 else "cpu")
    worker = Worker(rank=0, world_size=1, device=device, publish=launch.publish, report=launch.report)
    if launch.stop is None:
        return Outcome(uri, job.work(worker, config))
    with launch.stop.at_signals():
        return Outcome(uri, job.work(replace(worker, asked=launch.stop.asked), config))


def _train_classifier(fingerprint: str, worker: Worker, config: RunConfig) -> dict[str, Any]:
    """The work of a classifier's run; the data set has to be the driver's, seen from this machine."""
    info = open_run_data(config.data, config.seed)
    if info.fingerprint != fingerprint:
        raise DataError(f"{config.data.path} on this node is not the data set the run was started with; share one")
    return train(worker, config, info)


def _check_changes(before: AnyRunConfig, after: AnyRunConfig) -> None:
    free = RESUMABLE + RESUMABLE_OF[before.job]
    if after.epochs < before.epochs:
        raise ConfigError(f"epochs can only be raised on resume, from {before.epochs}; got {after.epochs}")
    for key, (old, _) in changed_keys(before, after, free).items():
        raise ConfigError(
            f"{key} cannot change on resume (it was {old!r}); only {', '.join(free)} can. "
            "Train under a new name instead"
        )
