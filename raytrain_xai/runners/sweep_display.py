"""How a sweep goes, from the records of its trials: a table on a terminal, one line per event elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from raytrain_xai.runners.tracking import Publish, Record
from raytrain_xai.sweeps.plan import BASELINE, describe_values

if TYPE_CHECKING:
    from rich.table import Table

_ROWS = 12  # of the table: what runs, then what ended last
_COLOURS = {"finished": "green", "stopped": "yellow", "failed": "red"}


@dataclass(frozen=True)
class _Shown:
    """A trial, as far as it is known here."""

    key: str
    status: str
    values: str
    epochs: int
    epoch: int = 0
    fraction: float = 0.0  # of its steps that are done
    num_steps: int = 0
    val: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_over(self) -> bool:
        return self.status in _COLOURS


class SweepProgress:
    """Counts, rates and rows of a sweep.

    Args:
        clock: seconds, only their differences count.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._name, self._total = "sweep", 0
        self._metrics: Sequence[str] = ()
        self._before: Mapping[str, str] = {}  # ended in an earlier call, by status
        self._trials: dict[str, _Shown] = {}
        self._start: float | None = None

    def take(self, record: Record) -> str | None:
        """Note a record; returns the line that tells it, None for what is worth none."""
        match record["kind"]:
            case "sweep":
                return self._begin(record)
            case "trial":
                return self._on_trial(record)
            case "epoch":
                self._update(record["trial"], epoch=record["epoch"], val=record["val"])
                return f"{record['trial']} epoch {self._epochs(record['trial'])}: {self._numbers(record['val'])}"
            case "step":
                return self._on_step(record)
            case _:
                return self._on_event(record)

    def seconds_left(self) -> float | None:
        """Until all trials have ended, at the rate so far; None while no trial has done a step."""
        own = [trial for trial in self._trials.values() if not trial.key.startswith(BASELINE)]
        done = sum(1.0 if trial.is_over else trial.fraction for trial in own)
        if self._start is None or done == 0:
            return None
        return (self._clock() - self._start) * (self._total - len(self._ended_before()) - done) / done

    def summary(self) -> str:
        """For example ``3 of 12 trials done, 1 failed, 2 running, 0:12:30 left``."""
        own = [trial for trial in self._trials.values() if not trial.key.startswith(BASELINE)]
        counts = Counter([*self._ended_before(), *(trial.status for trial in own)])
        parts = [f"{sum(counts[status] for status in _COLOURS)} of {self._total} trials done"]
        parts += [f"{counts[status]} {status}" for status in ("stopped", "failed", "running") if counts[status]]
        left = self.seconds_left()
        return ", ".join([*parts, *([] if left is None else [f"{_clock_time(left)} left"])])

    def table(self) -> Table:
        """What runs and what ended last, with a summary."""
        from rich.table import Table
        from rich.text import Text

        table = Table(title=f"{self._name}: {self.summary()}", title_justify="left", expand=False)
        for column in ("trial", "values", "epoch", *self._metrics, "status"):
            table.add_column(column, justify="left" if column in ("trial", "values", "status") else "right")
        running = [trial for trial in self._trials.values() if not trial.is_over]
        ended = [trial for trial in self._trials.values() if trial.is_over]
        for trial in [*running[-_ROWS:], *reversed(ended[-max(0, _ROWS - len(running)) :])][:_ROWS]:
            metrics = [f"{trial.val[name]:.3f}" if name in trial.val else "" for name in self._metrics]
            status = Text(trial.status, style=_COLOURS.get(trial.status, ""))
            table.add_row(trial.key, Text(trial.values), self._epochs(trial.key, "/"), *metrics, status)
        return table

    def _begin(self, record: Record) -> str:
        self._name, self._total, self._before = record["name"], record["total"], record["ended"]
        self._metrics = record["objectives"]
        return f"{self._name}: {self.summary()}; {record['concurrent']} at a time"

    def _on_trial(self, record: Record) -> str:
        key, status = record["trial"], record["status"]
        if status == "running":
            if self._start is None and not key.startswith(BASELINE):
                self._start = self._clock()
            values = describe_values(record["values"])
            self._trials[key] = _Shown(key, status, values, record["epochs"])
            return f"{key} started: {values}"
        self._update(key, status=status, **({"val": record["val"]} if record.get("val") else {}))
        if status == "retried":
            return f"{key} is tried again after {record['error']}"
        end = f": {record['error']}" if record["error"] else f": {self._numbers(record['val'])}"
        return f"{key} {status}{end} ({self.summary()})"

    def _on_step(self, record: Record) -> None:
        trial = self._trials.get(record["trial"])
        if trial is not None and trial.num_steps:
            self._update(trial.key, fraction=min(1.0, record["step"] / trial.num_steps))

    def _on_event(self, record: Record) -> str | None:
        if record.get("event") == "start":
            self._update(record["trial"], num_steps=record["num_steps"], epoch=record["epoch"])
            return None
        return f"{record.get('trial', self._name)} {record['event']}: {record['message']}"

    def _update(self, key: str, **changes: Any) -> None:
        if key in self._trials:
            self._trials[key] = replace(self._trials[key], **changes)

    def _epochs(self, key: str, of: str = " of ") -> str:
        trial = self._trials.get(key)
        return "" if trial is None else f"{trial.epoch}{of}{trial.epochs}"

    def _numbers(self, val: Mapping[str, float]) -> str:
        return ", ".join(f"{name} {val[name]:.3f}" for name in self._metrics if name in val) or "no numbers"

    def _ended_before(self) -> list[str]:
        """Statuses of what ended before this call and was not trained again in it."""
        return [status for key, status in self._before.items() if key not in self._trials]


@contextmanager
def live_sweep(echo: Callable[[str], None]) -> Generator[Publish]:
    """A function that takes the records of a sweep and shows them on stderr; lines go to ``echo``."""
    progress = SweepProgress()
    if not sys.stderr.isatty():

        def tell(record: Record) -> None:
            line = progress.take(record)
            if line is not None:
                echo(line)

        yield tell
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True)
    with Live(console=console, get_renderable=progress.table, refresh_per_second=2, transient=True):

        def show(record: Record) -> None:
            line = progress.take(record)
            if line is not None and record["kind"] != "epoch":
                console.print(line, highlight=False, markup=False)

        yield show


def _clock_time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"
