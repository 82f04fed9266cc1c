"""Tasks on Ray actors: one task at a time each, whichever is free; lost actors are replaced."""

from __future__ import annotations

import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
import torch
from ray.exceptions import RayActorError, RayError, RayTaskError

from raytrain_xai.errors import RunError, XaiError
from raytrain_xai.runners.cluster import missing, shortage
from raytrain_xai.runners.tasks import Crew, Result, Task
from raytrain_xai.runners.tracking import Publish

T = TypeVar("T", bound=Task)
Make = Callable[[], Callable[[T], Result]]


class TaskActor:
    """A worker process: builds its state at the first task, then works.

    Errors travel as values: raised ones would reach the driver wrapped, with a stack trace as their message.
    """

    def __init__(self, make: Make[Any], num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self._make = make
        self._work: Callable[[Any], Result] | None = None

    def ready(self) -> None:
        """Answers once the process is there."""

    def run(self, task: Any) -> Result | XaiError:
        """Result of a task, or why it cannot have one."""
        try:
            if self._work is None:
                self._work = self._make()
            return self._work(task)
        except XaiError as error:
            return error
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            raise RuntimeError(f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})") from error


def work_on_ray(make: Make[T], tasks: Sequence[T], crew: Crew, show: Publish) -> Iterator[tuple[T, Result]]:
    """Do tasks on the connected cluster; yields (task, result) as they finish, see :func:`~.tasks.run_tasks`.

    Tasks go to actors that are there: on a cluster with room for a part of the crew, that part does all of it.
    """
    waiting = deque(tasks)
    busy: dict[Any, tuple[Any, T | None]] = {}  # reference to come -> actor and its task; None: it is starting
    idle: list[Any] = []
    lost = 0
    lack = shortage(crew)
    if lack is not None:
        show({"kind": "event", "event": "waiting", "message": lack})
    try:
        for _ in range(min(crew.workers, len(tasks))):
            _start_actor(make, crew, busy)
        remaining = len(tasks)
        while remaining:
            while waiting and idle:
                actor, task = idle.pop(), waiting.popleft()
                busy[actor.run.remote(task)] = (actor, task)
            [reference] = _next(busy, idle, crew)
            actor, task = busy.pop(reference)
            try:
                answer = ray.get(reference)
            except RayTaskError as error:
                raise RunError(f"{_name(task)} failed: {_brief(error.cause)}") from error
            except RayError as error:  # the process or its node is gone
                if isinstance(error, RayActorError) and error.actor_init_failed:
                    raise RunError(f"no worker can be started: {str(error).strip().splitlines()[-1]}") from error
                lost += 1
                if lost > crew.resources.max_failures:
                    raise RunError(_lost_too_often(task, lost, error)) from error
                show({"kind": "event", "event": "lost", "message": f"a worker at {_name(task)}; another takes over"})
                ray.kill(actor)
                _start_actor(make, crew, busy)
                if task is not None:
                    waiting.appendleft(task)
                continue
            idle.append(actor)
            if task is not None:
                if isinstance(answer, XaiError):
                    raise answer
                remaining -= 1
                yield task, answer
    finally:
        for actor in [*idle, *(actor for actor, _ in busy.values())]:
            ray.kill(actor)


def _next(busy: dict[Any, tuple[Any, T | None]], idle: list[Any], crew: Crew) -> list[ray.ObjectRef]:
    """The next reference that is ready, [] never.

    Raises:
        RunError: not one actor was there for ``resources.capacity_deadline_s``.
    """
    is_waiting = not idle and all(task is None for _, task in busy.values())
    limit = crew.resources.capacity_deadline_s if is_waiting else None
    ready, _ = ray.wait(list(busy), num_returns=1, timeout=limit)
    if not ready:
        lack = missing(crew) or "room: others use the cluster"
        raise RunError(
            f"{limit:g} s without workers (resources.capacity_deadline_s); the cluster does not offer {lack}; start "
            "again when it does"
        )
    return ready


def _start_actor(make: Make[T], crew: Crew, busy: dict[Any, tuple[Any, T | None]]) -> None:
    resources = crew.resources
    options = ray.remote(TaskActor).options(num_cpus=resources.cpus_per_worker, num_gpus=resources.gpus_per_worker)
    actor: Any = options.remote(make, max(1, int(resources.cpus_per_worker)))
    busy[actor.ready.remote()] = (actor, None)


def _name(task: Task | None) -> str:
    return "starting a worker" if task is None else f"task {task.key}"


def _lost_too_often(task: Task | None, lost: int, error: RayError) -> str:
    return (
        f"{lost} worker(s) were lost, the last at {_name(task)} ({_brief(error)}); what is finished is kept: start "
        "again to go on, with fewer workers if memory is short, or raise resources.max_failures"
    )


def _brief(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
