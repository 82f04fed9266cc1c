"""The model of a job on many devices, against numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from raytrain_xai.config_text import validated
from raytrain_xai.errors import ConfigError
from raytrain_xai.scaling.collectives import all_reduce_s, ring_bytes
from raytrain_xai.scaling.forecast import SIZES, forecast
from raytrain_xai.scaling.goodput import interruptions
from raytrain_xai.scaling.index import index_cost
from raytrain_xai.scaling_config import IndexValues, ScalingValues


def values(**sections: dict[str, Any]) -> ScalingValues:
    """10 ms a step of 10 samples on any device, 1 MB of gradients, and nothing that disturbs it."""
    raw: dict[str, dict[str, Any]] = {
        "step": {"batch": 10, "batch_is": "per_device", "samples_per_s": 1000},
        "reduce": {"bytes": 1e6},
        "input": {"bytes_per_sample": 1e3, "reads": 2, "decoded_per_core": 1e6, "cores_per_device": 1},
        "hardware": {
            "devices_per_node": 4, "node_bytes_per_s": 1e9, "network_bytes_per_s": 1e8, "latency_s": 0,
            "storage_bytes_per_s": 1e12, "mtbf_hours": 1e9, "restart_s": 0,
        },
        "checkpoint": {"bytes": 1e6, "bytes_per_s": 1e12, "every_s": 3600},
    }  # fmt: skip
    for name, section in sections.items():
        raw[name] = raw[name] | section
    return validated(ScalingValues, raw, source="test")


def test_gradients_travel_round_a_ring_whose_slowest_link_counts() -> None:
    assert ring_bytes(100, 1) == 0
    assert ring_bytes(100, 4) == 150
    given = values(hardware={"latency_s": 1e-5}, reduce={"messages": 3})
    assert all_reduce_s(given.reduce, given.hardware, 1) == 0
    # 1.5 MB at 1 GB/s, and three messages of 2 x 2 hops; with a fifth device over the network: 1.6 MB at 100 MB/s
    assert all_reduce_s(given.reduce, given.hardware, 4) == pytest.approx(1.5e-3 + 3 * 4e-5)
    assert all_reduce_s(given.reduce, given.hardware, 5) == pytest.approx(16e-3 + 3 * 6e-5)


def test_what_overlap_does_not_hide_is_added_to_the_step() -> None:
    """Two nodes: 2 * 7/8 MB at 100 MB/s are 17.5 ms, of which 4 ms travel while 10 ms are computed."""
    found = forecast(values(reduce={"overlap": 0.4}), 8)
    assert found.reduce_s == pytest.approx(17.5e-3)
    assert found.parts["gradients"] == pytest.approx(13.5e-3)
    assert found.step_s == pytest.approx(23.5e-3)
    assert found.efficiency == pytest.approx(10 / 23.5, rel=1e-6)
    assert found.samples_per_s == pytest.approx(80 / 23.5e-3, rel=1e-6)
    assert found.bottleneck == "gradients"
    assert forecast(values(reduce={"overlap": 1.0}), 2).parts["gradients"] == 0


def test_a_shared_batch_pays_the_fixed_part_of_a_step_on_every_device() -> None:
    """100 samples: 5 + 100 ms on one device; 25 on each of four: 5 + 25 ms, of which 105 / 4 are of use."""
    given = values(step={"batch": 100, "batch_is": "global", "fixed_s": 5e-3}, reduce={"bytes": 0})
    found = forecast(given, 4)
    assert found.step_s == pytest.approx(30e-3)
    assert found.efficiency == pytest.approx(26.25 / 30, rel=1e-6)
    assert found.bottleneck == "small batches"
    with pytest.raises(ConfigError, match=r"step.batch=100 samples cannot be shared out among 128 devices; raise it"):
        forecast(given, 128)


@pytest.mark.parametrize(
    ("sections", "devices", "supplied"),
    [
        ({"input": {"decoded_per_core": 100, "cores_per_device": 5}}, 1, 500),  # cores
        ({"hardware": {"network_bytes_per_s": 4e6}, "reduce": {"bytes": 0}}, 8, 500),  # 4 MB/s for 4 devices, 2 kB each
        ({"hardware": {"storage_bytes_per_s": 8e6}, "reduce": {"bytes": 0}}, 8, 500),  # 8 MB/s for 8 devices
    ],
)
def test_devices_wait_for_what_reaches_them(sections: dict[str, Any], devices: int, supplied: float) -> None:
    found = forecast(values(**sections), devices)
    assert found.samples_per_s == pytest.approx(devices * supplied, rel=1e-6)
    assert found.bottleneck == "input"


def test_decoding_before_the_step_is_added_and_not_hidden() -> None:
    slow = {"decoded_per_core": 2000.0}
    assert forecast(values(input=slow), 1).step_s == pytest.approx(10e-3)
    assert forecast(values(input=slow | {"ahead": False}), 1).step_s == pytest.approx(15e-3)


def test_all_wait_for_the_slowest() -> None:
    """The largest of N normal numbers is about sqrt(2 ln N) deviations out: 2.04 for 8."""
    found = forecast(values(step={"variation": 0.1}, reduce={"bytes": 0}), 8)
    assert found.step_s == pytest.approx(10e-3 * 1.2039, rel=1e-4)


def test_checkpoints_are_as_frequent_as_failures_ask_for() -> None:
    """100 devices of 200000 s each fail every 2000 s; 10 s to write: every sqrt(2 * 10 * 2000) = 200 s."""
    given = values(
        checkpoint={"bytes": 1e9, "bytes_per_s": 1e8, "every_s": None},
        hardware={"mtbf_hours": 2e5 / 3600, "restart_s": 30},
    )
    found = interruptions(given.checkpoint, given.hardware, 100)
    assert (found.checkpoint_s, found.mtbf_s) == (10, pytest.approx(2000))
    assert found.every_s == pytest.approx(200)
    assert found.checkpoint_share == pytest.approx(10 / 210)
    assert found.lost_share == pytest.approx((30 + 105) / 2000)


def test_a_job_that_fails_faster_than_it_restarts_gets_nowhere() -> None:
    found = forecast(values(hardware={"mtbf_hours": 1, "restart_s": 60}), 100)
    assert (found.efficiency, found.samples_per_s, found.bottleneck) == (0, 0, "failures")


@pytest.mark.parametrize("devices", SIZES)
def test_shares_of_the_time_sum_to_one(devices: int) -> None:
    given = values(
        step={"batch": 4096, "batch_is": "global", "fixed_s": 1e-3, "variation": 0.02}, reduce={"overlap": 0.4},
        input={"decoded_per_core": 300}, hardware={"mtbf_hours": 1000, "restart_s": 60, "latency_s": 1e-5},
        checkpoint={"bytes_per_s": 1e6, "every_s": 600},
    )  # fmt: skip
    found = forecast(given, devices)
    assert found.efficiency + sum(found.losses.values()) == pytest.approx(1)
    assert min(found.losses.values()) >= 0


def test_gradients_larger_than_the_checkpoint_are_a_mistake() -> None:
    with pytest.raises(ConfigError, match="reduce.bytes is more than checkpoint.bytes"):
        values(reduce={"bytes": 1e9})


def test_the_index_grows_with_images_and_files() -> None:
    small = index_cost(IndexValues(images=1_000_000, shard_rows=512), 8)
    assert (small.files, small.advice) == (1954, ())
    assert small.node_bytes == 8 * small.worker_bytes
    large = index_cost(IndexValues(images=1_000_000_000, shard_rows=512), 8)
    assert large.files == 1_953_125
    assert large.worker_bytes == pytest.approx(1000 * small.worker_bytes, rel=1e-3)
    assert large.advice[0] == "1,953,125 files: prepare with --shard-rows 8192"
    assert len(large.advice) == 4
    fewer = index_cost(IndexValues(images=1_000_000_000, shard_rows=8192), 8)
    assert fewer.files == 122_071 and not [said for said in fewer.advice if "files" in said.split(":")[0]]
