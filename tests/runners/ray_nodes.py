"""Ray nodes on loopback as trees of processes of their own, which a test can kill as a machine is lost: all at once."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.processes import descendants

_OBJECT_STORE_BYTES = 80 << 20
_PATIENCE_S = 180
_STARTED, _TRIES = "Ray runtime started.", 3
_REPOSITORY = Path(__file__).resolve().parents[2]
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_agent_register_timeout_ms": "120000",  # a node whose agents need more than 10 s to start ends otherwise
    "RAY_health_check_initial_delay_ms": "1000",  # a lost node is noticed after about 3 s, not 15 s
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "3",
}


@dataclass(frozen=True)
class Node:
    """A machine of the cluster: ``ray start --block`` and all below it."""

    process: subprocess.Popen[bytes]
    log: Path

    def has_started(self) -> bool:
        """Waits until it says so; False when it gave up, as Ray does after 30 s on a machine that is busy."""
        until = time.monotonic() + _PATIENCE_S
        while _STARTED not in self.log.read_text(errors="replace"):
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < until, f"a machine does not start: {self.log.read_text(errors='replace')}"
            time.sleep(0.1)
        return True

    def kill(self) -> None:
        """End every process of the node at once, as a power cut does."""
        kill_tree(self.process)


@dataclass(frozen=True)
class Nodes:
    """A cluster whose head offers no CPU.

    Attributes:
        address: ``127.0.0.1:PORT`` of the head.
        env: for whoever joins, with the token.
        head: the first machine.
        folder: where Ray keeps its sockets and logs.
        workers: the other machines, those killed included.
    """

    address: str
    env: dict[str, str]
    head: Node
    folder: Path
    workers: list[Node] = field(default_factory=list)

    def add(self, num_cpus: int = 1, *own: str) -> Node:
        """One more machine; it joins some seconds later."""
        node = _start(["--address", self.address, "--num-cpus", str(num_cpus), *own], self.env, self.folder)
        self.workers.append(node)
        return node


@contextmanager
def nodes(workers: int, dashboard: int | None = None, head_cpus: int = 0) -> Generator[Nodes]:
    """A cluster of a head and ``workers`` nodes of one CPU for the time of the block; nothing is left of it.

    Args:
        dashboard: its port on loopback; None: none, and no jobs.
        head_cpus: what the head offers.
    """
    folder = Path(tempfile.mkdtemp(prefix="rxn-"))  # short: socket paths are limited
    env = {**os.environ, **_SETTINGS, "RAY_AUTH_TOKEN": secrets.token_hex(16), "PYTHONPATH": str(_REPOSITORY)}
    port = free_port()
    head = ["--head", "--port", str(port), "--num-cpus", str(head_cpus)]
    head += ["--include-dashboard", str(dashboard is not None).lower()]
    head += [] if dashboard is None else ["--dashboard-host", "127.0.0.1", "--dashboard-port", str(dashboard)]
    cluster = Nodes(f"127.0.0.1:{port}", env, _start([*head, "--temp-dir", str(folder)], env, folder), folder)
    try:
        assert cluster.head.has_started(), cluster.head.log.read_text(errors="replace")
        for _ in range(workers):  # one after the other: together they choose the same name for their socket, and end
            started = (cluster.add().has_started() for _ in range(_TRIES))
            assert any(started), cluster.workers[-1].log.read_text(errors="replace")
        yield cluster
    finally:
        for node in (*cluster.workers, cluster.head):
            node.kill()
        shutil.rmtree(folder, ignore_errors=True)


def free_port() -> int:
    """A port on loopback that nobody has right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def kill_tree(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL a child of this process and all its descendants; first stopped, so that none starts another meanwhile."""
    if process.poll() is not None:
        return  # killed before: by now its number may be that of another process
    family = [process.pid, *descendants(process.pid)]
    for signal_number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in family:
            try:
                os.kill(pid, signal_number)
            except ProcessLookupError:
                continue
        family += [pid for pid in descendants(process.pid) if pid not in family]
    process.wait(_PATIENCE_S)


def _start(arguments: list[str], env: dict[str, str], folder: Path) -> Node:
    command = [
        str(Path(sys.executable).parent / "ray"), "start", "--block", "--node-ip-address", "127.0.0.1",
        "--object-store-memory", str(_OBJECT_STORE_BYTES), "--disable-usage-stats",
        "--dashboard-agent-listen-port", str(free_port()),  # otherwise one port for all, and jobs find no agent
        *arguments,
    ]  # fmt: skip
    with tempfile.NamedTemporaryFile(prefix="node-", suffix=".log", dir=folder, delete=False) as log:
        return Node(
            subprocess.Popen(command, env=env, stdout=log, stderr=log, stdin=subprocess.DEVNULL), Path(log.name)
        )
