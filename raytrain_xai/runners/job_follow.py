"""A submitted job from outside: its output as it comes, its end, and how to stop it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

from raytrain_xai.errors import ConfigError, RunError
from raytrain_xai.runners.job_server import ConnectionLostError, JobServer, calling

STOPPED = 143
"""Exit code of a job that was stopped: what a shell says of a process that SIGTERM ended. Ray does not keep its own."""

_SILENT_S = 30.0  # after which the connection is made anew: one that died unnoticed would be waited for for ever
_LOST_S = 60.0  # a head that restarts is back by then
_AGAIN_S = 1.0

Show = Callable[[str], None]


@dataclass(frozen=True)
class End:
    """How a job ended.

    Attributes:
        code: exit code of its command, or :data:`STOPPED`.
        stopped: it was stopped from outside.
    """

    code: int
    stopped: bool


def end_of(server: JobServer, job: str) -> End | None:
    """How a job ended; None while it waits or runs.

    Raises:
        RunError: it ended without ever running its command.
    """
    with calling(server.url):
        info = server.client.get_job_info(job)
    if not info.status.is_terminal():
        return None
    if info.status == "STOPPED":
        return End(STOPPED, stopped=True)
    if info.driver_exit_code is not None:
        return End(info.driver_exit_code, stopped=False)
    raise RunError(f"job {job} {info.status.lower()} without an exit code: {_last_line(info.message)}")


def request_stop(server: JobServer, job: str) -> None:
    """Ask a job to end: its command gets SIGTERM, writes a checkpoint, and is killed when it takes too long.

    Raises:
        ConfigError: no such job.
    """
    _check_exists(server, job)
    with calling(server.url):
        server.client.stop_job(job)


def _check_exists(server: JobServer, job: str) -> None:
    with calling(server.url):
        known = [info.submission_id for info in server.client.list_jobs() if info.submission_id]
    if job not in known:
        shown = ", ".join(known[-5:]) or "none"
        raise ConfigError(f"no job {job} on the cluster at {server.url}; its latest jobs: {shown}")


async def _until_silent(pieces: AsyncIterator[str]) -> AsyncIterator[str]:
    while True:
        try:
            yield await asyncio.wait_for(anext(pieces), _SILENT_S)
        except (StopAsyncIteration, TimeoutError):
            return


def _last_line(message: str | None) -> str:
    lines = (message or "").strip().splitlines()
    return lines[-1][:500] if lines else "no reason given"


class Follower:
    """Shows the output of a job, from its beginning; goes on where it was when it is interrupted and called again."""

    def __init__(self, server: JobServer, job: str, show: Show) -> None:
        """Look the job up.

        Args:
            show: takes pieces of the output as they come, lines with their ends.

        Raises:
            ConfigError: no such job.
        """
        _check_exists(server, job)
        self._server, self._job, self._show = server, job, show
        self._shown = 0  # characters; a connection made anew begins with all of the output

    def to_end(self) -> End:
        """Show what comes until the job ends; returns at once when it has ended already.

        Raises:
            RunError: the job could not be started, or the cluster does not answer for a minute; the job may go on.
        """
        heard = time.monotonic()
        while True:
            try:
                asyncio.run(self._tail())
                end = end_of(self._server, self._job)
            except ConnectionLostError as error:
                if time.monotonic() - heard > _LOST_S:
                    raise RunError(f"{error}; job {self._job} may go on, see --follow") from error
                time.sleep(_AGAIN_S)
                continue
            if end is not None:
                return end
            heard = time.monotonic()

    async def _tail(self) -> None:
        """Show what is new until the server ends the output or is silent.

        Raises:
            ConnectionLostError: the connection broke.
        """
        import aiohttp

        start = 0
        try:
            async for piece in _until_silent(self._server.client.tail_job_logs(self._job)):
                new = piece[max(self._shown - start, 0) :]
                start += len(piece)
                if new:
                    self._show(new)
                    self._shown += len(new)
        except (aiohttp.ClientError, OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ConnectionLostError(f"the cluster at {self._server.url} does not answer: {reason}") from error
