"""What checkpoints and failures cost over a long run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from raytrain_xai.scaling_config import CheckpointValues, HardwareValues

_HOUR_S = 3600.0


@dataclass(frozen=True)
class Interruptions:
    """Of a run on some devices.

    Attributes:
        checkpoint_s: to write one.
        every_s: training between two.
        mtbf_s: mean time between failures of any device.
        checkpoint_share, lost_share: of the time, spent on writing, and on restarts and steps that are done again.
    """

    checkpoint_s: float
    every_s: float
    mtbf_s: float
    checkpoint_share: float
    lost_share: float


def interruptions(checkpoint: CheckpointValues, hardware: HardwareValues, devices: int) -> Interruptions:
    """Shares of the time that are no training.

    A failure costs the restart and, on average, half of what lies between two checkpoints. Where ``every_s`` is not
    given it is sqrt(2 · time to write one · time between failures) (Young, 1974). When a failure costs more than the
    time to the next one, nothing gets done: ``lost_share`` is 1.
    """
    write_s = checkpoint.bytes / checkpoint.bytes_per_s
    mtbf_s = hardware.mtbf_hours * _HOUR_S / devices
    every_s = math.sqrt(2 * write_s * mtbf_s) if checkpoint.every_s is None else checkpoint.every_s
    cost_s = hardware.restart_s + (every_s + write_s) / 2
    return Interruptions(write_s, every_s, mtbf_s, write_s / (every_s + write_s), min(1.0, cost_s / mtbf_s))
