"""What happens to a run between its groups of workers, in Ray's controller: ends, moves, and waits with an end.

Ray Train restarts workers after a crash, a preemption or a change of their number, and waits for ever for machines that
it lacks. Here it is told which errors a restart would only repeat; the workers are asked for a checkpoint before they
are taken away; and waiting is bounded.

The states of the controller have no public interface (Ray 2.60): :class:`Supervisor` is a callback of its internal one.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

import ray
import ray.train
from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback
from ray.train.v2._internal.execution.controller.state import PreemptingState, ResizingState, RunningState

from raytrain_xai.config import AnyRunConfig
from raytrain_xai.errors import RelocatedError, RunError, StoppedError, XaiError
from raytrain_xai.run_folder import run_location
from raytrain_xai.runners.cluster import missing
from raytrain_xai.runners.worker import Halt

_PAUSE_S = 0.2
_LEAVING_S = 60.0  # for a checkpoint before another number of workers goes on; then those since the last are repeated


class StopOnOwnErrors(ray.train.UserCallback):
    """Ends the run at errors that a restart would only repeat (wrong data, non-finite loss, a newer attempt, a stop).

    Ray restarts the workers after any exception; one raised here, in the controller, it does not retry. Workers that
    left for others to continue did not fail: that is counted as what it is, a preemption.
    """

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:  # noqa: ARG002
        """Raise the first error of this package."""
        own = [error for error in worker_exceptions.values() if isinstance(error, XaiError)]
        for error in own:
            if not isinstance(error, RelocatedError):
                raise error
        if own:
            raise ray.train.PreemptionError(ray.train.PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={}))


class Supervisor(ControllerCallback, WorkerGroupCallback):
    """Follows the states of the controller; see the module. Picklable."""

    def __init__(self, config: AnyRunConfig, board: Any) -> None:
        self._config = config
        self._board = board
        self._waiting_since: float | None = None
        self._group: Any = None

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Remember the workers that are there now."""
        self._group = worker_group

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """Called at every step of the control loop, with equal states where it has nothing to do but wait.

        Raises:
            StoppedError: a stop was asked for while there are no workers that would hear it.
            RunError: ``resources.capacity_deadline_s`` is over.
        """
        if current_state.is_terminal() or type(current_state).__name__ == "ShuttingDownState":
            return
        if isinstance(current_state, RunningState):
            self._waiting_since = None
        elif isinstance(current_state, PreemptingState):
            if not isinstance(previous_state, PreemptingState):
                self._board.ask.remote(Halt("preemption", _notice(current_state.preemption_info)))
        elif isinstance(current_state, ResizingState):
            decision: Any = current_state.scaling_decision
            self._make_room(decision.num_workers)
        else:
            self._wait()
            if type(previous_state) is type(current_state):
                time.sleep(_PAUSE_S)  # the loop would turn thousands of times a second

    def _make_room(self, num_workers: int) -> None:
        """Ask the workers for a checkpoint; when this returns, Ray ends them.

        Raises:
            XaiError: of a worker, meanwhile.
        """
        self._board.ask.remote(Halt("resize", f"there is room for {num_workers} worker(s)"))
        deadline = time.monotonic() + _LEAVING_S
        has_failed = False
        while time.monotonic() < deadline and not has_failed and not ray.get(self._board.has_left.remote()):
            with suppress(ray.train.PreemptionError):  # so StopOnOwnErrors calls it that they left
                # a worker that reports an evaluation goes on when this is heard
                has_failed = bool(self._group.poll_status(timeout=_PAUSE_S).errors)
            time.sleep(_PAUSE_S)

    def _wait(self) -> None:
        """Once more without workers."""
        now, limit = time.monotonic(), self._config.resources.capacity_deadline_s
        run = run_location(self._config).uri
        if self._waiting_since is None:
            self._waiting_since = now
            ray.get(self._board.welcome.remote())
        halt: Any = ray.get([self._board.asked.remote()])[0]
        if halt is not None:
            raise StoppedError(
                f"stopped by {halt.reason} while no workers were there; continue with `raytrain-xai resume {run}`",
                halt.exit_code,
            )
        if limit is not None and now - self._waiting_since > limit:
            raise RunError(
                f"{now - self._waiting_since:.0f} s without workers (resources.capacity_deadline_s={limit:g}): "
                f"{_lack(self._config)}; when there is room, continue with `raytrain-xai resume {run}`"
            )


def _notice(info: Any) -> str:
    """A preemption, for people."""
    nodes = ", ".join(node[:8] for node in info.preempted_node_ids)
    if info.deadline_ms is None:
        return f"node {nodes} is about to be taken away"
    return f"node {nodes} is taken away in {max(0.0, info.deadline_ms / 1000 - time.time()):.0f} s"


def _lack(config: AnyRunConfig) -> str:
    size, resources = config.resources.sizes(config.workers)[0], config.resources
    need = f"{size} worker(s) with {resources.cpus_per_worker:g} CPU"
    if resources.gpus_per_worker > 0:
        need += f" and {resources.gpus_per_worker:g} GPU"
    lack = missing(config)
    has = "the cluster has that much, but others use it" if lack is None else f"the cluster does not offer {lack}"
    return f"the run needs {need} each, {has}"
