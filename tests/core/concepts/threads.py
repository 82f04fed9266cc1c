"""Workers as threads of this process: every collective of a step really happens, without starting processes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import torch
from torch import Tensor


class Group:
    """Threads that exchange tensors."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.barrier = Barrier(world_size, timeout=20)
        self.slots: list[Tensor] = [torch.empty(0)] * world_size

    def exchange(self, rank: int, values: Tensor) -> list[Tensor]:
        self.slots[rank] = values
        self.barrier.wait()
        everyone = [slot.clone() for slot in self.slots]
        self.barrier.wait()
        return everyone


class ThreadWorker:
    def __init__(self, group: Group, rank: int) -> None:
        self.group, self.rank, self.world_size = group, rank, group.world_size

    def sum(self, values: Tensor) -> Tensor:
        return values.copy_(torch.stack(self.group.exchange(self.rank, values)).sum(dim=0))  # in place, as gloo does

    def gather(self, values: Tensor) -> Tensor:
        return torch.cat(self.group.exchange(self.rank, values))


def together(world_size: int, work: Callable[[ThreadWorker], Any]) -> list[Any]:
    """Results of ``work`` of every rank."""
    group = Group(world_size)
    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(lambda rank: work(ThreadWorker(group, rank)), range(world_size)))
