"""GPU-hours, by hand: a month has 730 hours."""

from __future__ import annotations

from shipped_values import render

from raytrain_xai.cluster.estimate import GpuHours, gpu_hours


def test_hours_and_prices() -> None:
    values = render(
        "base", "jobs={}", "nightly={}", "train={min_replicas: 1, max_replicas: 3, gpus: 4}",
        "spot={max_replicas: 10, gpus: 2}", "serve={min_replicas: 2, max_replicas: 2}",
        "estimate={duty: 0.25, price_per_gpu_hour: 2}",
    ).values  # fmt: skip
    rows = gpu_hours(values)
    # train: 1 x 4 always, 2 x 4 a quarter of the time; spot: 10 x 2 a quarter; serve: 2 x 1 always
    assert rows == [
        GpuHours("train", 2920, 2920 + 1460, 2.0),
        GpuHours("spot", 0, 3650, None),
        GpuHours("serve", 1460, 1460, 2.0),
    ]
    assert rows[0].cost == (5840, 8760)
    assert rows[1].cost is None


def test_without_a_duty_everything_counts() -> None:
    rows = gpu_hours(render("base", "jobs={}", "nightly={}", "serve=null", "train={max_replicas: 2, gpus: 1}").values)
    assert [(row.low, row.high) for row in rows] == [(0, 1460)]


def test_no_gpus() -> None:
    assert gpu_hours(render("cpu").values) == []
