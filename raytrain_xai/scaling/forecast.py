"""How fast a job is on many devices, and what keeps it from being faster.

A model of synchronous data-parallel training: every device computes its part, gradients are summed over all devices
while that is possible, all wait for the slowest and for their data, worker 0 writes checkpoints, and a failure sends
all back to the newest one. It knows nothing of congestion, of several jobs on a network and of evaluations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from raytrain_xai.errors import ConfigError
from raytrain_xai.scaling.collectives import all_reduce_s
from raytrain_xai.scaling.goodput import Interruptions, interruptions
from raytrain_xai.scaling_config import ScalingValues, StepValues

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
LOSSES = ("small batches", "slowest device", "gradients", "input", "checkpoints", "failures")
"""Why devices do less than one alone, in the order in which the parts of a step add up."""


@dataclass(frozen=True)
class Forecast:
    """A job on some devices.

    Attributes:
        devices: how many.
        step_s: of one optimiser step.
        parts: seconds of a step by cause: ``computing`` at the rate of one device, and of :data:`LOSSES` those within
            a step.
        reduce_s: of the all-reduces, of which ``parts["gradients"]`` is not hidden behind the computing.
        pauses: checkpoints and failures.
        samples_per_s: over a long time, all devices together.
        efficiency: that over so many times the rate of one device that only computes.
    """

    devices: int
    step_s: float
    parts: dict[str, float]
    reduce_s: float
    pauses: Interruptions
    samples_per_s: float
    efficiency: float

    @property
    def losses(self) -> dict[str, float]:
        """Share of the time by cause; with the efficiency they sum to 1."""
        working = (1 - self.pauses.checkpoint_share) * (1 - self.pauses.lost_share)
        shares = {name: working * self.parts.get(name, 0.0) / self.step_s for name in LOSSES}
        shares["checkpoints"] = self.pauses.checkpoint_share * (1 - self.pauses.lost_share)
        shares["failures"] = self.pauses.lost_share
        return shares

    @property
    def bottleneck(self) -> str:
        """The largest loss."""
        return max(self.losses, key=self.losses.__getitem__)


def forecast(values: ScalingValues, devices: int) -> Forecast:
    """A job on so many devices.

    Raises:
        ConfigError: more devices than samples in a step.
    """
    step, whole = values.step, values.step.batch
    batch = whole if step.batch_is == "per_device" else whole / devices
    if batch < 1:
        raise ConfigError(f"step.batch={whole} samples cannot be shared out among {devices} devices; raise it")
    alone_s = _computing_s(step, whole) / whole  # of a sample, on one device
    computing_s = _computing_s(step, batch)
    parts = {"computing": batch * alone_s, "small batches": computing_s - batch * alone_s}
    slowest = step.variation * math.sqrt(2 * math.log(devices))
    parts["slowest device"] = computing_s * slowest
    reduce_s = all_reduce_s(values.reduce, values.hardware, devices)
    parts["gradients"] = max(0.0, reduce_s - values.reduce.overlap * computing_s)
    input_s = batch / _supplied_per_device(values, devices)
    parts["input"] = max(0.0, input_s - sum(parts.values())) if values.input.ahead else input_s
    step_s = sum(parts.values())
    pauses = interruptions(values.checkpoint, values.hardware, devices)
    working = (1 - pauses.checkpoint_share) * (1 - pauses.lost_share)
    efficiency = working * parts["computing"] / step_s
    return Forecast(devices, step_s, parts, reduce_s, pauses, efficiency * devices / alone_s, efficiency)


def _computing_s(step: StepValues, batch: float) -> float:
    return step.fixed_s + batch / step.samples_per_s


def _supplied_per_device(values: ScalingValues, devices: int) -> float:
    """Samples per second that reach a device: the least of what cores, network and storage give."""
    hardware, source = values.hardware, values.input
    read_bytes = source.bytes_per_sample * source.reads
    on_node = min(devices, hardware.devices_per_node)
    return min(
        source.cores_per_device * source.decoded_per_core,
        hardware.network_bytes_per_s / on_node / read_bytes,
        hardware.storage_bytes_per_s / devices / read_bytes,
    )
