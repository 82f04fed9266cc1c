"""Runs in processes of their own, which tests kill, stop and start again."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from raytrain_xai.config import AnyRunConfig, RunConfig, parse_config, parse_job
from raytrain_xai.data.run_data import open_run_data
from raytrain_xai.errors import XaiError
from raytrain_xai.run_folder import CONFIG, run_location, write_config
from raytrain_xai.runners import loop
from raytrain_xai.runners.train import Launch, resume_run, start_run
from raytrain_xai.runners.worker import Worker

_PATIENCE_S = 240
_PROCESSES = multiprocessing.get_context("forkserver")  # forks of a process that has torch: cheap
_PROCESSES.set_forkserver_preload(["raytrain_xai.runners.train", "torchvision"])


@dataclass
class Mortal:
    """A run in another process.

    Attributes:
        process: the one that trains.
        records: those that came so far.
        error: of this package, with which the run ended; ``NAME: message``.
        is_done: whether it trained to the end.
    """

    process: BaseProcess
    connection: Connection
    records: list[dict[str, Any]] = field(default_factory=list)
    error: str = ""
    is_done: bool = False

    @classmethod
    def start(cls, config: AnyRunConfig, before: Callable[[], None] | None = None) -> Mortal:
        """Begin a run, or resume it where its folder exists.

        Args:
            config: with ``workers=0``.
            before: called in the other process first; picklable.
        """
        here, there = _PROCESSES.Pipe()
        process = _PROCESSES.Process(target=_train, args=(config.model_dump(mode="json"), before, there), daemon=True)
        process.start()
        there.close()
        return cls(process, here)

    def wait_for_steps(self, count: int) -> bool:
        """Until ``count`` more steps were logged; False when the run ended before."""
        while count > 0 and self._take():
            count -= self.records[-1]["kind"] == "step"
        return count == 0

    def wait(self) -> Mortal:
        """Until the process ends."""
        while self._take():
            pass
        self.process.join(_PATIENCE_S)
        assert self.process.exitcode is not None, "the process goes on after its last word"
        return self

    def send(self, signal_number: signal.Signals) -> None:
        """Send a signal to the process."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal_number)

    def kill(self) -> None:
        """End the process without warning."""
        self.send(signal.SIGKILL)
        self.wait()

    def _take(self) -> bool:
        """Receive one message; False at the end of the process."""
        assert self.connection.poll(_PATIENCE_S), "nothing was heard of the run for too long"
        try:
            kind, content = self.connection.recv()
        except (EOFError, OSError):
            return False
        if kind == "record":
            self.records.append(content)
            return True
        self.is_done, self.error = kind == "done", content
        return False


def _train(raw: dict[str, Any], before: Callable[[], None] | None, connection: Connection) -> None:
    if before is not None:
        before()
    config = parse_job(raw)
    launch = Launch("local", lambda record: connection.send(("record", record)))
    run = Path(config.storage) / config.name
    try:
        if (run / CONFIG).exists():
            resume_run(str(run), [], launch)
        else:
            start_run(config, launch)
    except XaiError as error:
        connection.send(("error", f"{type(error).__name__}: {error}"))
    else:
        connection.send(("done", ""))


def train_together(config: RunConfig) -> None:
    """A run whose workers are processes of this machine, joined without Ray; returns when it is done."""
    write_config(run_location(config), config)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    raw = config.model_dump(mode="json")
    workers = [_PROCESSES.Process(target=_join, args=(raw, rank, port), daemon=True) for rank in range(config.workers)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(_PATIENCE_S)
        assert worker.exitcode == 0, "a worker failed"


def _join(raw: dict[str, Any], rank: int, port: int) -> None:
    def ignore(_: dict[str, Any]) -> None:
        """Nobody watches."""

    config = parse_config(raw)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=config.workers)
    worker = Worker(rank, config.workers, torch.device("cpu"), ignore, ignore)
    loop.train(worker, config, open_run_data(config.data, config.seed))
    dist.destroy_process_group()
