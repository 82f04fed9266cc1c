"""The run on Ray Train workers: one TorchTrainer, errors as one line, records streamed back to the driver.

Checkpoints are ours alone; Ray is told metrics only. Its checkpoint registry would delete by age what the Pareto front
keeps, and on a restart it insists on every folder it ever registered (Ray 2.60, ``checkpoint_manager_snapshot.json``).
"""

from __future__ import annotations

import tempfile
import threading
import uuid
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.train import ControllerError, TrainingFailedError, WorkerGroupError

from raytrain_xai.config import AnyRunConfig, parse_job
from raytrain_xai.errors import RunError, XaiError
from raytrain_xai.run_folder import CONFIG, run_location
from raytrain_xai.runners.cluster import shortage
from raytrain_xai.runners.tracking import Publish, Record
from raytrain_xai.runners.worker import Work, Worker
from raytrain_xai.storage import exists

_POLL_S = 0.5


class ProgressBoard:
    """Actor between worker 0 and the driver, which may be on different machines."""

    def __init__(self) -> None:
        self._records: list[Record] = []

    def publish(self, record: Record) -> None:
        """Called by worker 0, which does not wait."""
        self._records.append(record)

    def take(self) -> list[Record]:
        """What came in since the last call."""
        records, self._records = self._records, []
        return records


class StopOnOwnErrors(ray.train.UserCallback):
    """Ends the run at errors that a restart would only repeat (wrong data, non-finite loss, superseded attempt).

    Ray restarts the workers after any exception; one raised here, in the controller, it does not retry.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """Raise the first error of this package."""
        for error in worker_exceptions.values():
            if isinstance(error, XaiError):
                raise error


def run_on_ray(
    config: AnyRunConfig, work: Work, publish: Publish, callbacks: Sequence[ray.train.UserCallback] = ()
) -> dict[str, Any]:
    """Train on ``config.workers`` workers of the connected Ray cluster.

    Restarts after a crash continue from the newest checkpoint.

    Args:
        work: what every worker does; picklable.
        publish: called in this process with every record of worker 0.
        callbacks: told, in Ray's controller of the run, of every evaluation.

    Returns:
        Content of ``metrics.json``, as worker 0 returned it.

    Raises:
        RunError: the workers crashed more often than ``resources.max_failures``, or a run error of the loop.
        DataError, CheckpointError: from a worker.
    """
    with tempfile.TemporaryDirectory(prefix="rx-") as ray_storage, live_board(publish) as board:
        lack = shortage(config)
        if lack is not None:
            publish({"kind": "event", "step": 0, "epoch": 0, "event": "waiting", "message": lack})
        trainer = ray.train.torch.TorchTrainer(
            _train_on_worker,
            train_loop_config={
                "config": config.model_dump(mode="json"),
                "work": work,
                "board": board,
            },
            scaling_config=_scaling(config),
            run_config=ray.train.RunConfig(
                name=f"{config.name}-{uuid.uuid4().hex[:8]}",  # a name that Ray knows would resume by itself
                storage_path=ray_storage,
                failure_config=ray.train.FailureConfig(max_failures=config.resources.max_failures),
                callbacks=[StopOnOwnErrors(), *callbacks],
            ),
        )
        try:
            metrics = trainer.fit().return_value
        except TrainingFailedError as error:
            raise error_to_show(error, config) from error
        except SystemExit as error:  # Ray's answer to Ctrl-C, with exit code 0
            raise KeyboardInterrupt from error
        assert metrics is not None, "worker 0 returns the metrics"
        return metrics


def _scaling(config: AnyRunConfig) -> ray.train.ScalingConfig:
    resources = {"CPU": config.resources.cpus_per_worker}
    if config.resources.gpus_per_worker > 0:
        resources["GPU"] = config.resources.gpus_per_worker
    return ray.train.ScalingConfig(
        num_workers=config.workers, use_gpu="GPU" in resources, resources_per_worker=resources
    )


def _train_on_worker(raw: dict[str, Any]) -> dict[str, Any]:
    """What a Ray worker runs; everything but these lines is the same outside Ray."""
    config = parse_job(raw["config"])
    torch.set_num_threads(max(1, int(config.resources.cpus_per_worker)))
    context = ray.train.get_context()
    worker = Worker(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=ray.train.torch.get_device(),
        publish=partial(send, raw["board"]),
        report=ray.train.report,
    )
    run = run_location(config)
    if not exists(run.child(CONFIG)):
        raise RunError(f"{run.uri} is not visible on every node; use shared storage (a network folder or s3://)")
    return raw["work"](worker, config)


def send(board: Any, record: Record) -> None:
    """Hand a record to a :class:`ProgressBoard`, without waiting."""
    board.publish.remote(record)


@contextmanager
def live_board(publish: Publish) -> Generator[Any]:
    """An actor for records, and a thread that hands them to ``publish`` until the block ends."""
    board: Any = ray.remote(ProgressBoard).options(num_cpus=0).remote()
    done = threading.Event()

    def poll() -> None:
        is_last = False
        while not is_last:
            is_last = done.wait(_POLL_S)
            for record in ray.get(board.take.remote()):
                publish(record)

    with ThreadPoolExecutor(1) as executor:
        polling = executor.submit(poll)
        try:
            yield board
        finally:
            done.set()
        polling.result()


def error_to_show(error: TrainingFailedError, config: AnyRunConfig) -> XaiError:
    """The error to show for a failed ``fit``."""
    run = run_location(config).uri
    if isinstance(error, ControllerError):
        cause = error.controller_failure
        if isinstance(cause, XaiError):
            return cause
        return RunError(f"Ray Train failed: {_brief(cause)}; continue with `raytrain-xai resume {run}`")
    failures = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    for failure in failures.values():
        if isinstance(failure, XaiError):
            return failure
    seen = "; ".join(f"worker {rank}: {_brief(failure)}" for rank, failure in sorted(failures.items()))
    return RunError(
        f"the workers failed {config.resources.max_failures + 1} time(s), last with {seen or _brief(error)}; "
        f"continue with `raytrain-xai resume {run}`, or raise resources.max_failures"
    )


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__
