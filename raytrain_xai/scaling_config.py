"""What a job and the machines under it are like, to foresee how it runs on many devices: ``raytrain-xai scale``.

All numbers are the user's: measured on one device where possible. Sizes are bytes, times seconds, rates per second.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from raytrain_xai.config_text import overridden, read_yaml, validated
from raytrain_xai.sections import Section


class StepValues(Section):
    batch: int = Field(ge=1)
    """Samples (images, or vectors of an autoencoder) of a step; see ``batch_is``."""
    batch_is: Literal["per_device", "global"] = "global"
    """per_device: grows with the devices (weak scaling); global: shared out among them, as ``batch_size`` of a run."""
    samples_per_s: float = Field(gt=0)
    """Of one device alone that has its data, without the fixed part of a step."""
    fixed_s: float = Field(default=0.0, ge=0)
    """Of a step whatever its batch: launching, the optimiser, the clipping."""
    variation: float = Field(default=0.0, ge=0, lt=1)
    """Standard deviation of the time of a step over its mean; all wait for the slowest."""


class ReduceValues(Section):
    bytes: float = Field(ge=0)
    """Gradients of a step: trainable parameters times 4, or 2 in half precision."""
    overlap: float = Field(default=0.0, ge=0, le=1)
    """Share of the computing time during which gradients can travel already. Plain steps: about 2/3. With a loss on
    explanations they are complete in the last two of five passes only: .4. Autoencoders: 0."""
    messages: int = Field(default=1, ge=1)
    """All-reduces of a step (buckets of 25 MB, and one for the numbers that are checked)."""


class InputValues(Section):
    bytes_per_sample: float = Field(gt=0)
    """As stored."""
    reads: float = Field(default=2.5, ge=1)
    """Bytes read for each byte used: workers share files; see ``python -m bench read_share``."""
    decoded_per_core: float = Field(gt=0)
    """Samples that one core reads, decodes and augments in a second."""
    cores_per_device: float = Field(gt=0)
    """Decoding processes of a worker; with ``ahead: false`` the worker itself."""
    ahead: bool = True
    """Decoded while the device computes (``data.num_loader_workers`` > 0), or before each step."""


class HardwareValues(Section):
    devices_per_node: int = Field(ge=1)
    node_bytes_per_s: float = Field(gt=0)
    """Between devices of a node, each way, per device."""
    network_bytes_per_s: float = Field(gt=0)
    """Of a node to the others, each way."""
    latency_s: float = Field(default=2e-5, ge=0)
    """Of one message between two devices."""
    storage_bytes_per_s: float = Field(gt=0)
    """That the storage of the data can give to all nodes together."""
    mtbf_hours: float = Field(gt=0)
    """Mean time between failures of one device with its part of the node."""
    restart_s: float = Field(default=60.0, ge=0)
    """From a failure to the first step of the restarted group, without the steps that are repeated."""


class CheckpointValues(Section):
    bytes: float = Field(gt=0)
    """Weights, optimiser state and, where there is one, the average: about 12 bytes a parameter with Adam."""
    bytes_per_s: float = Field(gt=0)
    """That worker 0 hashes and writes; the others wait for it at the next step."""
    every_s: float | None = Field(default=None, gt=0)
    """Time between checkpoints; nothing: the best one for the failures of so many devices."""


class IndexValues(Section):
    images: int = Field(ge=1)
    """Of the training split."""
    shard_rows: int = Field(default=512, ge=64)
    """Images per file, as given to ``data prepare``."""
    id_bytes: int = Field(default=16, ge=1)
    """Mean length of an id."""
    boxes_per_image: float = Field(default=1.0, ge=0)


class ScalingValues(Section):
    step: StepValues
    reduce: ReduceValues
    input: InputValues
    hardware: HardwareValues
    checkpoint: CheckpointValues
    index: IndexValues | None = None
    epochs: int = Field(default=1, ge=1)
    """Over the images of ``index``, for the length of the training."""

    @model_validator(mode="after")
    def _bytes_are_no_kilobytes(self) -> Self:
        if self.reduce.bytes > self.checkpoint.bytes:
            raise ValueError(
                "reduce.bytes is more than checkpoint.bytes, which holds the weights of these gradients; give both in "
                "bytes"
            )
        return self


def load_scaling(file: str | Path, overrides: Sequence[str] = ()) -> ScalingValues:
    """Read a file of values, apply ``a.b=c`` overrides and validate.

    Raises:
        ConfigError: no such file, or names every key that is unknown or has a wrong value.
    """
    return validated(ScalingValues, overridden(read_yaml(Path(file)), overrides), source=str(file))
