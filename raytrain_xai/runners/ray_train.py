"""The run on Ray Train workers: one TorchTrainer, errors as one line, records streamed back to the driver.

Checkpoints are ours alone; Ray is told metrics only. Its checkpoint registry would delete by age what the Pareto front
keeps, and on a restart it insists on every folder it ever registered (Ray 2.60, ``checkpoint_manager_snapshot.json``).
"""

from __future__ import annotations

import tempfile
import threading
import uuid
from concurrent.futures import Future
from contextlib import nullcontext
from functools import partial
from typing import Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.exceptions import RayError
from ray.train import ControllerError, TrainingFailedError, WorkerGroupError

from raytrain_xai.config import AnyRunConfig, parse_job
from raytrain_xai.errors import RelocatedError, RunError, StoppedError, XaiError
from raytrain_xai.run_folder import CONFIG, run_location
from raytrain_xai.runners.autoscaling import coordinator_on_head
from raytrain_xai.runners.board import RemoteRequest, event, live_board, send
from raytrain_xai.runners.cluster import shortage
from raytrain_xai.runners.job import Launch
from raytrain_xai.runners.supervision import StopOnOwnErrors, Supervisor
from raytrain_xai.runners.worker import Work, Worker
from raytrain_xai.storage import exists

_RESIZE_CHECK_S = 30.0  # how often an elastic run looks for room for more workers, at the price of a restart


def run_on_ray(config: AnyRunConfig, work: Work, launch: Launch) -> dict[str, Any]:
    """Train on ``config.workers`` workers of the connected Ray cluster, or with ``resources.min_workers`` on fewer.

    Restarts after a crash continue from the newest checkpoint; after a notice of preemption and before their number
    changes, workers write one first.

    Args:
        work: what every worker does; picklable.
        launch: its ``publish`` is called in this process with every record of worker 0, its ``callbacks`` are told, in
            Ray's controller of the run, of every evaluation.

    Returns:
        Content of ``metrics.json``, as worker 0 returned it.

    Raises:
        StoppedError: ``launch.stop`` asked.
        RunError: the workers crashed more often than ``resources.max_failures``, there was no room for them in
            ``resources.capacity_deadline_s``, the cluster is gone, or a run error of the loop.
        DataError, CheckpointError: from a worker.
    """
    with (
        tempfile.TemporaryDirectory(prefix="rx-") as ray_storage,
        live_board(launch.publish, launch.stop) as board,
        nullcontext() if launch.stop is None else launch.stop.at_signals(),
    ):
        lack = shortage(config)
        if lack is not None:
            launch.publish(event("waiting", lack))
        coordinator_on_head()
        callbacks: list[Any] = [StopOnOwnErrors(), Supervisor(config, board), *launch.callbacks]
        trainer = ray.train.torch.TorchTrainer(
            _train_on_worker,
            train_loop_config={"config": config.model_dump(mode="json"), "work": work, "board": board},
            scaling_config=_scaling(config),
            run_config=ray.train.RunConfig(
                name=f"{config.name}-{uuid.uuid4().hex[:8]}",  # a name that Ray knows would resume by itself
                storage_path=ray_storage,
                failure_config=ray.train.FailureConfig(max_failures=config.resources.max_failures),
                callbacks=callbacks,
            ),
        )
        try:
            metrics = (trainer.fit() if launch.stop is None else _fit_in_thread(trainer)).return_value
        except TrainingFailedError as error:
            raise error_to_show(error, config) from error
        except RayError as error:  # Ray's controller of the run is gone, and with it all workers
            raise RunError(
                f"lost the Ray cluster, or the machine that runs this on it ({_brief(error)}); when there is a cluster "
                f"again, continue with `raytrain-xai resume {run_location(config).uri}`"
            ) from error
        except SystemExit as error:  # Ray's answer to Ctrl-C, with exit code 0
            raise KeyboardInterrupt from error
        assert metrics is not None, "worker 0 returns the metrics"
        return metrics


def _fit_in_thread(trainer: Any) -> Any:
    """The result of the trainer; in a thread, where Ray does not take over the signals."""
    result: Future[Any] = Future()

    def fit() -> None:
        try:
            result.set_result(trainer.fit())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=fit, name="fit", daemon=True).start()  # a second signal does not wait for it
    return result.result()


def _scaling(config: AnyRunConfig) -> ray.train.ScalingConfig:
    resources = {"CPU": config.resources.cpus_per_worker}
    if config.resources.gpus_per_worker > 0:
        resources["GPU"] = config.resources.gpus_per_worker
    fewest = config.resources.min_workers
    return ray.train.ScalingConfig(
        num_workers=config.workers if fewest is None else (fewest, config.workers),
        elastic_resize_monitor_interval_s=_RESIZE_CHECK_S,
        use_gpu="GPU" in resources,
        resources_per_worker=resources,
    )


def _train_on_worker(raw: dict[str, Any]) -> dict[str, Any]:
    """What a Ray worker runs; everything but these lines is the same outside Ray."""
    config, board = parse_job(raw["config"]), raw["board"]
    torch.set_num_threads(max(1, int(config.resources.cpus_per_worker)))
    context = ray.train.get_context()
    worker = Worker(
        rank=context.get_world_rank(),
        world_size=context.get_world_size(),
        device=ray.train.torch.get_device(),
        publish=partial(send, board),
        report=ray.train.report,
        asked=RemoteRequest(board).asked,
    )
    run = run_location(config)
    if not exists(run.child(CONFIG)):
        raise RunError(f"{run.uri} is not visible on every node; use shared storage (a network folder or s3://)")
    try:
        return raw["work"](worker, config)
    except (StoppedError, RelocatedError):
        if worker.rank == 0:
            ray.get(board.leave.remote())  # after all its records; as soon as this is raised, the workers are ended
        raise


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
