"""Requests to leave a run at a checkpoint: who asks, how all workers hear it at the same step, and how they leave.

Signals and notices reach one process, at any time; workers that compute together can only leave between two steps,
all at the same one. So worker 0 alone listens, and tells the others at steps which all of them know beforehand: about
twice a second, however long a step takes, so that asking costs next to nothing.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType

from raytrain_xai.runners.collective import broadcast_json, is_distributed
from raytrain_xai.runners.worker import Halt, Worker

_INTERVAL_S = 0.5


class StopRequest:
    """Whether a run was asked to stop; the first request counts. Any thread may ask.

    With :meth:`at_signals`, SIGINT (Ctrl-C) and SIGTERM ask, and the second of them ends the process at once.
    """

    def __init__(self) -> None:
        self._halt: Halt | None = None

    def ask(self, halt: Halt) -> None:
        """Ask the run to leave at the next step on which its workers can agree."""
        if self._halt is None:
            self._halt = halt

    def asked(self) -> Halt | None:
        """The request, None so far."""
        return self._halt

    @contextmanager
    def at_signals(self) -> Generator[None]:
        """Listen to signals for the time of the block. In a thread, where Python hears none, this does nothing.

        Raises:
            KeyboardInterrupt: from within the block, at the second signal.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._hear) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - as signal handlers are called
        if self._halt is not None:
            raise KeyboardInterrupt
        self.ask(Halt("stop", signal.Signals(number).name, 128 + number))


class Listener:
    """Asks now and then whether the workers are to leave; all of them hear the same at the same step.

    Its cost is that of two small broadcasts every half second; alone, a worker asks at every step.
    """

    def __init__(self, worker: Worker, step: int) -> None:
        self._worker = worker
        self._last_step, self._last_time = step, time.monotonic()
        self._ahead = 1
        self._due = step + 1

    def asked(self, step: int, *, now: bool = False) -> Halt | None:
        """The request to leave after ``step`` steps, None without. A collective.

        Args:
            now: ask at this step in any case; equal on all workers.
        """
        if not is_distributed():
            return self._worker.asked()
        if step < self._due and not now:
            return None
        answer = broadcast_json(self._answer(step) if self._worker.rank == 0 else None, self._worker.device)
        self._due = step + answer["ahead"]
        return Halt(**answer["halt"]) if answer["halt"] is not None else None

    def _answer(self, step: int) -> dict[str, object]:
        """What worker 0 tells: the request, and in how many steps to ask again."""
        elapsed, halt = time.monotonic() - self._last_time, self._worker.asked()
        pace = (step - self._last_step) * _INTERVAL_S / max(elapsed, 1e-6)
        self._ahead = max(1, min(round(pace), 2 * self._ahead))  # a few quick steps are no promise for the next ones
        self._last_step, self._last_time = step, time.monotonic()
        return {"halt": None if halt is None else asdict(halt), "ahead": self._ahead}
