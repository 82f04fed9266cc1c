"""How fast a run goes and how long it will take."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Lap:
    """Time since the last reading.

    Attributes:
        steps: optimiser steps done.
        elapsed_s: seconds, more than 0.
        input_wait: share of them spent waiting for data.
        seconds_left: to the end of training, at the mean pace of this attempt.
    """

    steps: int
    elapsed_s: float
    input_wait: float
    seconds_left: float


class Pace:
    """Times steps.

    Args:
        first_step: where this attempt starts.
        num_steps: where the run ends.
    """

    def __init__(self, first_step: int, num_steps: int) -> None:
        self.num_steps = num_steps
        self._read_at_step = self._first_step = first_step
        self._read_at = self._started_at = time.monotonic()
        self._waited = 0.0

    def timed(self, items: Iterable[T]) -> Iterator[T]:
        """The items of an epoch, with the time spent waiting for them counted; what came before is not counted."""
        self._read_at, self._waited = time.monotonic(), 0.0
        iterator = iter(items)
        while True:
            asked_at = time.monotonic()
            try:
                item = next(iterator)
            except StopIteration:
                return
            self._waited += time.monotonic() - asked_at
            yield item

    def lap(self, step: int) -> Lap:
        """What passed up to ``step``; starts the next lap."""
        now, steps = time.monotonic(), step - self._read_at_step
        elapsed = max(now - self._read_at, 1e-9)
        per_step = (now - self._started_at) / (step - self._first_step)
        lap = Lap(steps, elapsed, self._waited / elapsed, per_step * (self.num_steps - step))
        self._read_at, self._read_at_step, self._waited = now, step, 0.0
        return lap
