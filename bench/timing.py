"""Timing on a machine that is shared: interleaved rounds, and ratios within a round.

On the CPU the measure is process CPU time on one thread, which other programs disturb little; on CUDA it is events on
the stream, with the peak of allocated memory. Only ratios mean anything.
"""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of malloc.h


@dataclass(frozen=True)
class Options:
    """How to measure: number of interleaved rounds and the device."""

    rounds: int
    device: torch.device


@dataclass(frozen=True)
class Timings:
    """Seconds per round and peak memory of each variant."""

    seconds: Mapping[str, list[float]]
    peak_mib: Mapping[str, float]

    def median_s(self, variant: str) -> float:
        """Median over the rounds."""
        return median(self.seconds[variant])

    def ratio(self, variant: str, reference: str) -> float:
        """Median over the rounds of time of ``variant`` / time of ``reference``, both of the same round."""
        pairs = zip(self.seconds[variant], self.seconds[reference], strict=True)
        return median(a / b for a, b in pairs)


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        bench, case: what was measured.
        value: ratio of two times, see ``measure``.
        measure: what the ratio means, such as ``speed-up`` or ``/ own plain step``.
        target: bound on ``value``.
        is_minimum: the target is a least value (speed-ups) or a greatest one (costs).
        error: largest relative difference between ours and the peer.
        tolerance: what ``error`` may be at most.
        detail: medians, memory.
    """

    bench: str
    case: str
    value: float
    measure: str
    target: float
    is_minimum: bool
    error: float
    tolerance: float
    detail: str

    @property
    def reached(self) -> bool:
        """Whether the target holds."""
        return self.value >= self.target if self.is_minimum else self.value <= self.target

    @property
    def agrees(self) -> bool:
        """Whether ours and the peer compute the same; NaN does not agree."""
        return self.error <= self.tolerance


def interleave(variants: Mapping[str, Callable[[], object]], options: Options, *, repeats: int = 1) -> Timings:
    """Run every variant once per round, in turn, after one round that is not counted.

    Args:
        variants: name -> work; what it returns is dropped.
        repeats: calls per measurement, for work of less than about 20 ms.
    """
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    peaks: dict[str, float] = dict.fromkeys(variants, 0.0)
    for work in variants.values():
        work()
    for _ in range(options.rounds):
        for name, work in variants.items():
            elapsed, peak = _measure(work, repeats, options.device)
            seconds[name].append(elapsed)
            peaks[name] = max(peaks[name], peak)
    return Timings(seconds, peaks)


def keep_freed_memory() -> None:
    """Let the C allocator keep what is freed, as the CUDA allocator of torch does.

    glibc gives the top of its heap back to the system and pays for it with page faults at the next allocation: up to
    half the time of work on few megabytes, for whichever variant holds larger tensors, and different in each run.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for parameter in (_TRIM_THRESHOLD, _MMAP_THRESHOLD):
            mallopt(parameter, 2**30)


def relative_error(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference over the norm of ``expected``."""
    return float((actual - expected).norm() / expected.norm().clamp(min=1e-30))


def describe(timings: Timings, *variants: str) -> str:
    """Medians, and peaks where they were measured, as ``name 12.3 ms``."""
    parts = [f"{name} {timings.median_s(name) * 1e3:.1f} ms" for name in variants]
    peaks = [f"{name} {timings.peak_mib[name]:.0f} MiB" for name in variants if timings.peak_mib[name] > 0]
    return ", ".join(parts + peaks)


def _measure(work: Callable[[], object], repeats: int, device: torch.device) -> tuple[float, float]:
    """(seconds per call, peak MiB or 0)."""
    if device.type != "cuda":
        start = time.process_time()
        for _ in range(repeats):
            work()
        return (time.process_time() - start) / repeats, 0.0
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    begin.record()
    for _ in range(repeats):
        work()
    end.record()
    torch.cuda.synchronize(device)
    return begin.elapsed_time(end) / 1e3 / repeats, torch.cuda.max_memory_allocated(device) / 2**20
