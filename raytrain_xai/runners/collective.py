"""Exchange between workers without pickle: JSON values and dicts of tensors, as bytes in one collective each.

Every function is a collective: all workers call it, the same number of times. In a run without a process group
(one worker inside the calling process) they return what was passed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

from raytrain_xai.concepts.workers import ALONE, Workers


class _Group:
    """All workers of the process group, as :class:`raytrain_xai.concepts.workers.Workers`."""

    @property
    def rank(self) -> int:
        return dist.get_rank()

    @property
    def world_size(self) -> int:
        return dist.get_world_size()

    def sum(self, values: Tensor) -> Tensor:
        return sum_over_workers(values)

    def gather(self, values: Tensor) -> Tensor:
        gathered = values.new_empty(self.world_size * values.shape[0], *values.shape[1:])
        dist.all_gather_into_tensor(gathered, values.contiguous())
        return gathered


def joined_workers() -> Workers:
    """The workers of this run, for steps that are taken together."""
    return _Group() if is_distributed() else ALONE


def is_distributed() -> bool:
    """Whether this process belongs to a group of several workers."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def all_true(flag: Tensor) -> bool:
    """Whether a () bool tensor is true on every worker; one reduction and one device sync."""
    if is_distributed():
        votes = flag.to(torch.int32)
        dist.all_reduce(votes, dist.ReduceOp.MIN)
        flag = votes
    return bool(flag.item())


def sum_over_workers(values: Tensor) -> Tensor:
    """Element-wise sum over the workers."""
    if is_distributed():
        dist.all_reduce(values)
    return values


def broadcast_tensors(tensors: Iterable[Tensor]) -> None:
    """Overwrite tensors with those of worker 0; in place."""
    if is_distributed():
        for tensor in tensors:
            dist.broadcast(tensor, src=0)


def broadcast_json(value: Any, device: torch.device) -> Any:
    """The value of worker 0, on every worker. Others may pass anything."""
    if not is_distributed():
        return value
    payload = json.dumps(value).encode() if dist.get_rank() == 0 else b""
    length = torch.tensor(len(payload), device=device)
    dist.broadcast(length, src=0)
    data = _to_tensor(payload, int(length.item()), device)
    dist.broadcast(data, src=0)
    return json.loads(bytes(data.cpu().numpy()))


def gather_json(value: Any, device: torch.device) -> list[Any]:
    """The values of all workers in the order of their ranks, on every worker."""
    return [json.loads(data) for data in _gather_bytes(json.dumps(value).encode(), device)]


def gather_tensors(tensors: Mapping[str, Tensor], device: torch.device) -> list[dict[str, Tensor]]:
    """The dicts of all workers in the order of their ranks, on every worker, on the CPU.

    Shapes may differ between workers; types and bits arrive unchanged.
    """
    packed = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    if not is_distributed():
        return [packed]
    gathered = _gather_bytes(safetensors.torch.save(packed), device)
    return [safetensors.torch.load(data) for data in gathered]


def _gather_bytes(payload: bytes, device: torch.device) -> list[bytes]:
    if not is_distributed():
        return [payload]
    world_size = dist.get_world_size()
    lengths = torch.zeros(world_size, dtype=torch.int64, device=device)
    lengths[dist.get_rank()] = len(payload)
    dist.all_reduce(lengths)
    longest = int(lengths.max().item())
    parts = [torch.empty(longest, dtype=torch.uint8, device=device) for _ in range(world_size)]
    dist.all_gather(parts, _to_tensor(payload, longest, device))
    return [bytes(part[:length].cpu().numpy()) for part, length in zip(parts, lengths.tolist(), strict=True)]


def _to_tensor(payload: bytes, length: int, device: torch.device) -> Tensor:
    """``payload`` as (length,) uint8, zero-padded."""
    padded = bytearray(payload.ljust(length, b"\0"))  # writable, as torch.frombuffer wants it
    return torch.frombuffer(padded, dtype=torch.uint8).to(device) if padded else torch.empty(0, dtype=torch.uint8)
