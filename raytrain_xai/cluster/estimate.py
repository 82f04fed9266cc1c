"""How many GPU-hours a month may cost."""

from __future__ import annotations

from dataclasses import dataclass

from raytrain_xai.cluster_config import ClusterValues, GpuGroupValues

HOURS_A_MONTH = 730.0  # 365 x 24 / 12


@dataclass(frozen=True)
class GpuHours:
    """A kind of workers over a month.

    Attributes:
        group: its name.
        low: GPU-hours of the workers that are always there.
        high: and of all others, for the share of the month in which they are used.
        price: of a GPU-hour, if it is known.
    """

    group: str
    low: float
    high: float
    price: float | None

    @property
    def cost(self) -> tuple[float, float] | None:
        """From the lowest to the highest, in the currency of the price."""
        return None if self.price is None else (self.low * self.price, self.high * self.price)


def gpu_hours(values: ClusterValues) -> list[GpuHours]:
    """Of every kind of workers with GPUs."""
    asked = values.estimate
    duty = 1.0 if asked.duty is None else asked.duty
    groups = {"train": values.train, "spot": values.spot, "serve": values.serve}
    return [
        _month(name, size, duty, asked.spot_price_per_gpu_hour if name == "spot" else asked.price_per_gpu_hour)
        for name, size in groups.items()
        if size is not None and size.gpus
    ]


def _month(group: str, size: GpuGroupValues, duty: float, price: float | None) -> GpuHours:
    always = size.min_replicas * size.gpus * HOURS_A_MONTH
    sometimes = (size.max_replicas - size.min_replicas) * size.gpus * HOURS_A_MONTH * duty
    return GpuHours(group, always, always + sometimes, price)
