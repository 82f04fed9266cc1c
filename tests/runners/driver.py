"""The command line in a process of its own, whose output tests wait for and which they send signals to."""

from __future__ import annotations

import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

_PATIENCE_S = 300


class Driver:
    """A command and what it wrote so far, standard output and error together."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._queue: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def wait_for(self, pattern: str) -> str:
        """The first line from here on that ``pattern`` is found in."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                line = self._queue.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"{pattern!r} did not come: {self.lines}") from None
            assert line is not None, f"ended without {pattern!r}: {self.lines}"
            self.lines.append(line)
            if re.search(pattern, line):
                return line

    def end(self) -> tuple[int, list[str]]:
        """Exit code and all lines, once the command has ended."""
        code = self.process.wait(_PATIENCE_S)
        while (line := self._queue.get(timeout=_PATIENCE_S)) is not None:
            self.lines.append(line)
        return code, self.lines

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process of the command alone."""
        self.process.send_signal(number)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(line.rstrip())
        self._queue.put(None)


@contextmanager
def driver(*arguments: str, env: Mapping[str, str], before: str = "") -> Iterator[Driver]:
    """``raytrain-xai`` with arguments; killed at the end of the block if it is still there.

    Args:
        before: statements that its process runs first.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", f"{before}\nfrom raytrain_xai.cli.main import main\nmain()", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, env=env,
    )  # fmt: skip
    try:
        yield Driver(process)
    finally:
        process.kill()
        process.wait()
