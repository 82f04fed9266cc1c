"""What may wait for nodes, and what would wait for ever."""

from __future__ import annotations

import re

import pytest

from raytrain_xai.errors import ConfigError
from raytrain_xai.runners.capacity import Capacity, check_growth
from raytrain_xai.runners.tasks import Crew
from raytrain_xai.sections import ResourcesConfig

NODE = {"CPU": 2.0}
GROWN = Capacity({"CPU": 6.0}, [{}, NODE], grows=True)


def crew(workers: int, cpus: float = 1.0, **resources: float) -> Crew:
    return Crew(workers, ResourcesConfig.model_validate({"cpus_per_worker": cpus, **resources}))


def test_what_the_autoscaler_may_bring_is_waited_for() -> None:
    check_growth(crew(6), GROWN)
    check_growth(crew(9, min_workers=6), GROWN)
    check_growth(crew(3, cpus=2), GROWN)


def test_nobody_knows_what_people_add() -> None:
    check_growth(crew(100, cpus=8, gpus_per_worker=1), Capacity({}, []))


@pytest.mark.parametrize(
    ("demand", "message"),
    [
        (crew(7), "7 worker(s) need 7 CPU, this cluster grows to 6 at most; set fewer workers"),
        (crew(9, min_workers=7), "7 worker(s) need 7 CPU, this cluster grows to 6 at most"),
        (crew(1, cpus=3), "a worker needs 3 CPU (resources.cpus_per_worker), the largest node of this cluster has 2"),
        (crew(1, gpus_per_worker=1), "a worker needs 1 GPU (resources.gpus_per_worker), the largest node of this"),
    ],
)
def test_what_it_may_not_bring_is_refused(demand: Crew, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        check_growth(demand, GROWN)
