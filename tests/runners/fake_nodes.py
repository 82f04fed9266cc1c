"""A Ray cluster on this machine whose nodes an autoscaler starts and ends: real nodes, though of one machine.

Ray's own ``AutoscalingCluster`` needs a file that its wheel lacks, and ends every Ray process of the machine; so the
head is started here with Ray's provider of fake nodes, and only what this cluster started is ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_HEAD_ID = "fffffffffffffffffffffffffffffffffffffffffffffffffff00000"  # by which the provider knows the head
_NODE_ID = b"RAY_OVERRIDE_NODE_ID_FOR_TESTING="
_HEAD = _NODE_ID + _HEAD_ID.encode()
_STORE_BYTES = 80 << 20
_MARK = "RAYTRAIN_XAI_FAKE_NODES"  # in the environment of all processes of a cluster, which inherit it
_AGENTS = ("metrics-export", "dashboard-agent-listen", "dashboard-agent-grpc", "runtime-env-agent")
_STARTS = 3  # a raylet gives its agents 15 s to choose ports, which a busy machine may miss; chosen here for the head
_START_S = 90
_END_S = 30


@dataclass(frozen=True)
class Cluster:
    """A head without CPUs, and as many nodes as work needs.

    Attributes:
        address: HOST:PORT to join it at.
        environment: with the token, for processes that join; without the mark of the cluster's own.
        name: value of the mark.
        logs: folder that Ray writes to.
    """

    address: str
    environment: Mapping[str, str] = field(repr=False)
    name: str
    logs: Path

    def nodes(self) -> int:
        """Nodes beside the head right now: their raylets in the table of processes, told apart by the ids of nodes.

        A raylet that starts a process is there twice for a moment.
        """
        raylets = [pid for pid in _marked(self.name) if _argument_zero(pid).endswith("/raylet")]
        return len({node for pid in raylets for node in _variables(pid) if node.startswith(_NODE_ID)} - {_HEAD})

    def wait_for(self, nodes: int, within_s: float) -> None:
        """Return once there are exactly ``nodes`` nodes beside the head.

        Raises:
            TimeoutError: they are not there in time.
        """
        until = time.monotonic() + within_s
        while (seen := self.nodes()) != nodes:
            if time.monotonic() > until:
                raise TimeoutError(f"{seen} node(s) after {within_s:g} s, {nodes} are awaited")
            time.sleep(0.1)


@contextlib.contextmanager
def fake_nodes(most: int, *, idle_s: float, environment: Mapping[str, str]) -> Generator[Cluster]:
    """A cluster that grows from no node to ``most`` of one CPU each, for the time of the block.

    Args:
        idle_s: seconds after which a node without work is ended.
        environment: more variables for the processes of the cluster.
    """
    folder = Path(tempfile.mkdtemp(prefix="rx-"))  # short: sockets lie in it
    port, *agents = _free_ports(1 + len(_AGENTS))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16), "RAY_USAGE_STATS_ENABLED": "0"}
    joining = {**os.environ, **token}
    cluster = Cluster(f"127.0.0.1:{port}", joining, folder.name, folder / "ray")
    (folder / "autoscaler.json").write_text(json.dumps(_autoscaler(port, most, idle_s)))
    head = {
        **joining, **environment, _MARK: cluster.name, "RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1",
        "RAY_enable_autoscaler_v2": "1", "RAY_raylet_start_wait_time_s": str(_START_S),
        "RAY_agent_register_timeout_ms": str(1000 * _START_S),
        "RAY_CLOUD_INSTANCE_ID": _HEAD_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID,
    }  # fmt: skip
    command = [
        sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", "--num-cpus=0",
        "--node-ip-address=127.0.0.1", "--include-dashboard=false", f"--object-store-memory={_STORE_BYTES}",
        f"--temp-dir={cluster.logs}", f"--autoscaling-config={folder / 'autoscaler.json'}",
        *(f"--{agent}-port={at}" for agent, at in zip(_AGENTS, agents, strict=True)),
    ]  # fmt: skip
    try:
        with _started(command, head, folder / "head.txt"):
            yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def counted(cluster: Cluster) -> Generator[list[int]]:
    """The numbers of nodes that there are during the block, each written down when it changes."""
    seen = [cluster.nodes()]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.1):
            if (now := cluster.nodes()) != seen[-1]:
                seen.append(now)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield seen
    finally:
        done.set()
        watching.join()


def _autoscaler(port: int, most: int, idle_s: float) -> dict[str, Any]:
    commands = ("setup", "initialization", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    worker = {"CPU": 1, "object_store_memory": _STORE_BYTES}
    return {
        "cluster_name": "fake", "max_workers": most, "idle_timeout_minutes": idle_s / 60, "upscaling_speed": 100.0,
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "launch_multiple": True, "head_node_id": _HEAD_ID, "gcs_address": f"127.0.0.1:{port}",
            "disable_node_updaters": True,  # they would fail to install Ray on a node, and end it while it works
        },
        "auth": {}, "head_node_type": "ray.head.default", "file_mounts": {}, "cluster_synced_files": [],
        "file_mounts_sync_continuously": False, "rsync_exclude": [], "rsync_filter": [], "docker": {},
        "available_node_types": {
            "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "min_workers": 0, "max_workers": 0},
            "worker": {"resources": worker, "node_config": {}, "min_workers": 0, "max_workers": most},
        },
        **{f"{name}_commands": [] for name in commands},
    }  # fmt: skip


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(number)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@contextlib.contextmanager
def _started(command: list[str], environment: Mapping[str, str], said: Path) -> Generator[None]:
    """The head for the time of the block; with it end all nodes.

    Raises:
        RuntimeError: it did not come up, with what it said.
    """
    for _ in range(_STARTS):
        with said.open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=said.parent)
        try:
            if _comes_up(process, said):
                yield
                return
        finally:
            _end(environment[_MARK])
            process.wait()
    raise RuntimeError(f"the head did not start:\n{said.read_text(errors='replace')}")


def _comes_up(process: subprocess.Popen[bytes], said: Path) -> bool:
    until = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < until:
        if "Ray runtime started" in said.read_text(errors="replace"):
            return True
        time.sleep(0.1)
    return False


def _end(name: str) -> None:
    """End all processes of the cluster and no others; nodes are not children of the head's process."""
    until = time.monotonic() + _END_S
    while (left := _marked(name)) and time.monotonic() < until:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    assert not left, f"processes {left} of the cluster do not end"


def _marked(name: str) -> list[int]:
    """Ids of the processes of the cluster of this name."""
    mark = f"{_MARK}={name}".encode()
    processes = [int(process.name) for process in Path("/proc").glob("[0-9]*")]
    return [pid for pid in processes if mark in _variables(pid)]


def _variables(pid: int) -> list[bytes]:
    """``NAME=VALUE`` of its environment; none when it is gone or of somebody else."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _argument_zero(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0].decode(errors="replace")
    except OSError:
        return ""
