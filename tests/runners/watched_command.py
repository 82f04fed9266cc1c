"""A command line in a process of its own, and what can be seen of it and its descendants from outside while it runs."""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

# Ray's folder stays behind, so that it can be searched; everything else is the command as it is installed.
_PROGRAM = """
import types
import raytrain_xai.runners.cluster as cluster
cluster.shutil = types.SimpleNamespace(rmtree=lambda *arguments, **options: None)
from raytrain_xai.cli.main import main
main()
"""
_LISTENING = "0A"
_REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Listener:
    """A socket that waits for connections: its address, and the command line of its process."""

    host: str
    port: int
    process: str

    @property
    def is_exposed(self) -> bool:
        """Whether other machines could reach it."""
        ip = ipaddress.ip_address(self.host)
        return not (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


@dataclass
class Watched:
    """A running command. What was seen grows until it ends."""

    process: subprocess.Popen[str]
    mark: str
    listeners: set[Listener] = field(default_factory=set)
    command_lines: set[str] = field(default_factory=set)
    output: list[str] = field(default_factory=list)
    told: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, text: str, limit_s: float) -> None:
        """Wait for a line of output that holds ``text``, or for the end of the output."""
        with self.told:
            self.told.wait_for(lambda: any(text in line or not line for line in self.output), limit_s)

    def look(self) -> None:
        """See what listens now."""
        sockets = _listening_sockets()
        for process in _marked(self.mark):
            try:
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                links = [os.readlink(entry) for entry in (process / "fd").iterdir()]
            except OSError:
                continue  # gone by now
            self.command_lines.add(command)
            for link in links:
                if link in sockets:
                    self.listeners.add(Listener(*sockets[link], command))


@contextmanager
def watched(arguments: list[str], environment: Mapping[str, str]) -> Iterator[Watched]:
    """Start ``raytrain-xai ARGUMENTS`` and watch it twice a second; it ends with the block."""
    mark = uuid.uuid4().hex
    environment = {**os.environ, **environment, "RX_MARK": mark, "PYTHONPATH": str(_REPOSITORY)}
    process = subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    found = Watched(process, mark)
    done = threading.Event()
    threads = [threading.Thread(target=_read, args=(found,)), threading.Thread(target=_watch, args=(found, done))]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        done.set()
        for thread in threads:
            thread.join()


def _read(found: Watched) -> None:
    assert found.process.stdout is not None
    while not found.output or found.output[-1]:
        line = found.process.stdout.readline()  # empty at the end
        with found.told:
            found.output.append(line)
            found.told.notify_all()


def _watch(found: Watched, done: threading.Event) -> None:
    while not done.wait(0.5):
        found.look()


def _listening_sockets() -> dict[str, tuple[str, int]]:
    """Name of a socket as links of a process show it -> address and port."""
    sockets: dict[str, tuple[str, int]] = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == _LISTENING:
                sockets[f"socket:[{columns[9]}]"] = _address(columns[1])
    return sockets


def _address(text: str) -> tuple[str, int]:
    """``0100007F:1F90`` -> 127.0.0.1 and 8080: words in the order of this machine's bytes."""
    address, port = text.rsplit(":", 1)
    raw = b"".join(struct.pack("=I", int(address[at : at + 8], 16)) for at in range(0, len(address), 8))
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw), int(port, 16)


def _marked(mark: str) -> Iterator[Path]:
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and f"RX_MARK={mark}".encode() in (process / "environ").read_bytes():
                yield process
        except OSError:
            continue
