"""The board between the driver of a run and its workers: records go one way, requests to leave the other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raytrain_xai.runners.stop import StopRequest
from raytrain_xai.runners.tracking import Publish, Record
from raytrain_xai.runners.worker import Halt

_POLL_S = 0.5
_ASK_S = 0.25
_LAST_WORDS_S = 5.0  # for the records of a run that failed


class ProgressBoard:
    """Actor between worker 0, the controller of Ray Train and the driver, which may be on different machines."""

    def __init__(self) -> None:
        self._records: list[Record] = []
        self._stop: Halt | None = None
        self._move: Halt | None = None
        self._has_left = False

    def publish(self, record: Record) -> None:
        """Called by worker 0, which does not wait."""
        self._records.append(record)

    def take(self) -> list[Record]:
        """What came in since the last call."""
        records, self._records = self._records, []
        return records

    def ask(self, halt: Halt) -> None:
        """Ask the workers to leave; a stop goes before everything else."""
        if halt.kind == "stop":
            self._stop = halt
        else:
            self._move = halt

    def asked(self) -> Halt | None:
        """What the workers are asked for, None without."""
        return self._stop or self._move

    def leave(self) -> None:
        """Called by worker 0, when it has written a checkpoint and told everything."""
        self._has_left = True

    def has_left(self) -> bool:
        """Whether the workers left, since the last call of :meth:`welcome`."""
        return self._has_left

    def welcome(self) -> None:
        """New workers come: what was asked of those before them, apart from a stop, does not concern them."""
        self._move = None
        self._has_left = False


class RemoteRequest:
    """Whether a board asks the workers to leave, as worker 0 sees it: it never waits for the answer."""

    def __init__(self, board: Any) -> None:
        self._board = board
        self._answer: Any = None
        self._halt: Halt | None = None
        self._asked_at = 0.0

    def asked(self) -> Halt | None:
        """The last answer that came; a quarter of a second after it the next question is sent."""
        if self._answer is None:
            if time.monotonic() - self._asked_at >= _ASK_S:
                self._asked_at = time.monotonic()
                self._answer = self._board.asked.remote()
        elif ray.wait([self._answer], timeout=0)[0]:
            self._halt, self._answer = ray.get(self._answer), None
        return self._halt


def send(board: Any, record: Record) -> None:
    """Hand a record to a :class:`ProgressBoard`, without waiting."""
    board.publish.remote(record)


@contextmanager
def live_board(publish: Publish, stop: StopRequest | None = None) -> Generator[Any]:
    """A board, and a thread that looks after it until the block ends.

    Args:
        publish: called in that thread with every record.
        stop: handed on to the board.
    """
    board: Any = ray.remote(ProgressBoard).options(**_lasting()).remote()
    done = threading.Event()

    def poll() -> None:
        is_last, halt = False, None
        while not is_last:
            is_last = done.wait(_POLL_S)
            if stop is not None and (asked := stop.asked()) is not None:
                board.ask.remote(asked)  # again and again: a board that was started anew knows nothing
                if halt is None:
                    publish(event("stopping", f"{asked.reason}; the workers write a checkpoint and leave"))
                halt = asked
            for record in ray.get(board.take.remote()):
                publish(record)

    polling = _in_background(poll)
    try:
        yield board
    except BaseException:
        done.set()
        wait([polling], timeout=_LAST_WORDS_S)  # where the cluster is gone, the board never answers
        raise
    done.set()
    polling.result()


def _in_background(work: Callable[[], None]) -> Future[None]:
    """Do something in a thread that the end of this process does not wait for, unlike those of an executor."""
    result: Future[None] = Future()

    def run() -> None:
        try:
            result.set_result(work())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return result


def _lasting() -> dict[str, Any]:
    """Options of an actor that outlives lost machines: on the node of the driver, and started again if it is killed."""
    here = ray.get_runtime_context().get_node_id()
    there = NodeAffinitySchedulingStrategy(here, soft=False)
    return {"num_cpus": 0, "scheduling_strategy": there, "max_restarts": -1, "max_task_retries": -1}


def event(name: str, message: str) -> Record:
    """A record for the display alone, of something that happened outside the workers."""
    return {"kind": "event", "step": 0, "epoch": 0, "event": name, "message": message}
