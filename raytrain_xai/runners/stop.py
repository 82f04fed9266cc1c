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

import torch

from raytrain_xai.runners.collective import broadcast_json, broadcast_tensors, is_distributed
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

    Its cost is that of a small broadcast every half second; alone, a worker asks at every step.
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
        halt = self._worker.asked() if self._worker.rank == 0 else None
        told = torch.tensor([self._steps_ahead(step), halt is not None], device=self._worker.device)
        broadcast_tensors([told])
        ahead, is_asked = told.tolist()
        self._due = step + ahead
        if not is_asked:
            return None
        return Halt(**broadcast_json(None if halt is None else asdict(halt), self._worker.device))

    def _steps_ahead(self, step: int) -> int:
        """In how many steps to ask again; only the answer of worker 0 counts."""
        now = time.monotonic()
        pace = (step - self._last_step) * _INTERVAL_S / max(now - self._last_time, 1e-6)
        self._ahead = max(1, min(round(pace), 2 * self._ahead))  # a few quick steps are no promise for the next ones
        self._last_step, self._last_time = step, now
        return self._ahead
