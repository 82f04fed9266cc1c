"""Jobs of tasks on Ray workers: shared out, lost workers replaced, errors as they are, nothing left behind."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from safetensors.torch import save_file

from raytrain_xai.config import parse_concept_config
from raytrain_xai.errors import DataError, RunError
from raytrain_xai.models.zoo import build_network
from raytrain_xai.runners.cluster import connected
from raytrain_xai.runners.export_features import export_features
from raytrain_xai.runners.job import Launch
from raytrain_xai.runners.tasks import Crew, run_tasks
from raytrain_xai.sections import ResourcesConfig

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]
TWO = Crew(workers=2, resources=ResourcesConfig(max_failures=1))


@dataclass(frozen=True)
class Step:
    key: str
    what: str = "work"
    num_images: int = 1


def make(folder: str) -> Callable[[Step], dict[str, Any]]:
    """Notes the process that built its state."""
    (Path(folder) / f"made-{os.getpid()}").touch()
    return partial(work, Path(folder))


def work(folder: Path, step: Step) -> dict[str, Any]:
    if step.what == "bad":
        raise DataError("image 7 is damaged; prepare again")
    if step.what == "bug":
        raise KeyError("no such thing")
    with (folder / f"tries-{step.key}").open("a") as file:
        file.write("x")
    if step.what == "die" or (step.what == "die once" and (folder / f"tries-{step.key}").read_text() == "x"):
        os.kill(os.getpid(), signal.SIGKILL)
    until = time.monotonic() + 60
    while step.what == "meet" and len(list(folder.glob("made-*"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)  # until the other worker is there too
    return {"key": step.key, "pid": os.getpid()}


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A local cluster for this module, started as the command line starts it."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file
    with connected(TWO, "local", debug=False):
        yield


@pytest.mark.usefixtures("cluster")
def test_workers_share_the_tasks_and_a_lost_one_is_replaced(tmp_path: Path) -> None:
    steps = [Step("0", "meet"), *(Step(str(n)) for n in range(1, 9)), Step("9", "die once"), Step("10")]
    records: list[dict[str, Any]] = []
    results = run_tasks(partial(make, str(tmp_path)), steps, TWO, records.append)
    assert [result["key"] for result in results] == [step.key for step in steps]
    made = {path.name.removeprefix("made-") for path in tmp_path.glob("made-*")}
    assert 2 <= len(made) <= 3 and {str(result["pid"]) for result in results} <= made
    assert str(os.getpid()) not in made
    assert (tmp_path / "tries-9").read_text() == "xx", "the task of the lost worker is done again, no other is"
    assert all((tmp_path / f"tries-{n}").read_text() == "x" for n in (*range(9), 10))
    lost = [record["message"] for record in records if record.get("event") == "lost"]
    assert lost == ["a worker at task 9; another takes over"]


@pytest.mark.usefixtures("cluster")
def test_errors_end_the_job_as_what_they_are(tmp_path: Path) -> None:
    def run(what: str) -> None:
        one = Crew(workers=1, resources=ResourcesConfig(max_failures=0))
        run_tasks(partial(make, str(tmp_path)), [Step("a"), Step("b", what), Step("c")], one, [].append)

    with pytest.raises(DataError, match="^image 7 is damaged; prepare again$"):
        run("bad")
    with pytest.raises(RunError, match=r"^task b failed: KeyError: 'no such thing' \(.*test_tasks_on_ray.py:\d+\)$"):
        run("bug")
    with pytest.raises(RunError, match="^1 worker.s. were lost, the last at task b .*raise resources.max_failures$"):
        run("die")
    assert ray.is_initialized(), "the cluster of the caller is left running"


@pytest.mark.usefixtures("cluster")
def test_waiting_for_room_has_an_end(tmp_path: Path) -> None:
    large = Crew(workers=1, resources=ResourcesConfig(cpus_per_worker=1000, capacity_deadline_s=1))
    with pytest.raises(RunError, match=r"^1 s without workers .* the cluster does not offer 1000 CPU \(it has "):
        run_tasks(partial(make, str(tmp_path)), [Step("a")], large, [].append)


@pytest.mark.usefixtures("cluster")
def test_two_workers_export_the_features_that_one_does(birds: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    torch.manual_seed(0)
    save_file(build_network("bcos_resnet_tiny", 2).net.state_dict(), str(weights))
    for workers in (0, 2):
        config = parse_concept_config({
            "job": "concepts", "name": "c", "network": f"bcos_resnet_tiny={weights}", "data": str(birds),
            "layer": "Mid2", "image_size": 48, "workers": workers, "sae": {"latents": 8, "k": 2},
            "features": {"store": str(tmp_path / f"by-{workers}"), "per_image": 3},
        })  # fmt: skip
        export_features(config, ["Mid2", "Final"], Launch("local", [].append))
    files = sorted(path.relative_to(tmp_path / "by-0") for path in (tmp_path / "by-0").rglob("*.*"))
    assert len(files) == 8
    for file in files:
        assert (tmp_path / "by-0" / file).read_bytes() == (tmp_path / "by-2" / file).read_bytes(), file
