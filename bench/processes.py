"""Memory and CPU time of the processes that this one has started, from the process table of Linux."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

_REPLICA, _TRAIN_WORKER = b"ray::ServeReplica:", b"RayTrainWorker"
_USER, _SYSTEM = 11, 12  # places of the times in what follows the name of a process in its ``stat``


def replica_pids() -> list[int]:
    """Replicas among the descendants of this process."""
    return pids_of(_REPLICA)


def train_worker_pids() -> list[int]:
    """Workers of Ray Train among the descendants of this process."""
    return [pid for pid in descendants(os.getpid()) if is_train_worker(pid)]


def pids_of(title: bytes) -> list[int]:
    """Actors of Ray among the descendants of this process, by the beginning of their title."""
    return sorted(pid for pid in descendants(os.getpid()) if _command(pid).startswith(title))


def descendants(ancestor: int) -> list[int]:
    """Processes that a process has started, and those that they have."""
    parents = {int(stat.parent.name): _parent(stat) for stat in Path("/proc").glob("[0-9]*/stat")}
    return [pid for pid in parents if pid != ancestor and _is_below(pid, ancestor, parents)]


def is_train_worker(pid: int) -> bool:
    """Whether a process is a worker of Ray Train."""
    return _TRAIN_WORKER in _command(pid)


def cpu_seconds(pids: Iterable[int]) -> dict[int, float]:
    """CPU time that processes have used since they began; those that ended are left out."""
    ticks, found = os.sysconf("SC_CLK_TCK"), dict[int, float]()
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            continue
        found[pid] = (int(fields[_USER]) + int(fields[_SYSTEM])) / ticks
    return found


def resident_bytes(pids: list[int]) -> int:
    """Resident memory of processes together; those that ended count nothing."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))
    return total


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except OSError:
        return 0  # ended meanwhile


def _is_below(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid in parents and pid != ancestor:
        pid = parents[pid]
    return pid == ancestor


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
