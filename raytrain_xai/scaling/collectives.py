"""How long gradients take to travel."""

from __future__ import annotations

import math

from raytrain_xai.scaling_config import HardwareValues, ReduceValues


def ring_bytes(num_bytes: float, devices: int) -> float:
    """Bytes that each device sends in a ring all-reduce: 2 (N - 1) / N of the message (Patarasuk & Yuan, 2009)."""
    return 2 * (devices - 1) / devices * num_bytes


def all_reduce_s(reduce: ReduceValues, hardware: HardwareValues, devices: int) -> float:
    """Time of the all-reduces of a step, none for one device.

    One ring through all devices: its slowest link is the one between nodes as soon as there are two. For the latency
    of a message, twice the depth of a binary tree, which libraries switch to where a ring would be slower.
    """
    if devices == 1:
        return 0.0
    is_one_node = devices <= hardware.devices_per_node
    bandwidth = hardware.node_bytes_per_s if is_one_node else hardware.network_bytes_per_s
    latency = 2 * math.ceil(math.log2(devices)) * hardware.latency_s
    return ring_bytes(reduce.bytes, devices) / bandwidth + reduce.messages * latency
