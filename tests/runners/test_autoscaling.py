"""Clusters that grow with the work and shrink after it: Ray's autoscaler starts and ends real nodes of this machine."""

from __future__ import annotations

import contextlib
import io
import json
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import yaml
from driver import driver
from fake_nodes import Cluster, counted, fake_nodes
from PIL import Image
from ray_nodes import free_port

from raytrain_xai.config import RunConfig

pytestmark = [pytest.mark.ray, pytest.mark.cluster, pytest.mark.timeout(900)]

_MOST_NODES = 2
_PATIENCE_S = 240
_LOAD_IS_TOLD = {f"RAY_SERVE_{who}_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "1" for who in ("REPLICA", "HANDLE")}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """From no node to two and back; nodes go when they were idle for three seconds."""
    with fake_nodes(_MOST_NODES, idle_s=3, environment=_LOAD_IS_TOLD) as growing:
        yield growing


def test_a_run_brings_the_nodes_it_needs_and_lets_them_go(
    cluster: Cluster, make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    config = make_config(workers=2, epochs=1)
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    with (
        counted(cluster) as numbers,
        driver("train", str(file), "--address", cluster.address, env=cluster.environment) as run,
    ):
        run.wait_for(r"waiting for the cluster to offer 2 CPU \(it has 0\)")
        run.wait_for(r"start: attempt 1 on 2 worker\(s\)")
        code, lines = run.end()
        assert code == 0, lines
        cluster.wait_for(0, _PATIENCE_S)
    assert numbers[0] == 0
    assert max(numbers) == 2
    folder = Path(config.storage) / config.name
    assert "test" in json.loads((folder / "metrics.json").read_text())
    assert len(list((folder / "attempts").iterdir())) == 1, "no node was taken away from the run"


def test_a_sweep_brings_the_nodes_of_its_trials_and_lets_them_go(
    cluster: Cluster, make_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    """A driver takes a tenth of a CPU, so on nodes of one the two trials may well take turns; both are trained."""
    run = make_config(workers=1, epochs=1).model_dump(mode="json")
    base = {key: value for key, value in run.items() if key not in ("name", "storage")}
    sweep = {
        "name": "sweep", "storage": str(tmp_path), "galleries": "none", "concurrent": 2, "base": base,
        "space": {"optim.lr": [1e-3, 1e-2]}, "objectives": {"f1": "max", "epg": "max"},
    }  # fmt: skip
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(sweep))
    with (
        counted(cluster) as numbers,
        driver("tune", str(file), "--address", cluster.address, env=cluster.environment) as command,
    ):
        code, lines = command.end()
        assert code == 0, lines
        cluster.wait_for(0, _PATIENCE_S)
    assert [numbers[0], max(numbers)] == [0, 2]
    assert len(list((tmp_path / "sweep" / "trials").glob("*/metrics.json"))) == 2


def test_a_service_grows_with_the_load_and_shrinks_to_nothing_without_failing_anybody(
    cluster: Cluster, make_run: Callable[..., str], objects: str, tmp_path: Path
) -> None:
    run, port, audit = make_run(tmp_path, "net", objects, image_size=48), free_port(), tmp_path / "audit"
    settings = {
        "replica.min_replicas": 0, "replica.max_replicas": 2, "replica.target_in_flight": 2,
        "replica.scale_up_after_s": 1, "replica.scale_down_after_s": 1,
        "limits.time_s": _PATIENCE_S,  # the first callers wait for a node, too
        "monitor.audit": audit,
    }  # fmt: skip
    options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = ["serve", run, "--port", str(port), "--address", cluster.address, *options]
    url = f"http://127.0.0.1:{port}"
    with counted(cluster) as numbers, driver(*command, env=cluster.environment) as service:
        service.wait_for("interrupt to stop")
        assert cluster.nodes() == 0, "nobody has asked yet"
        with callers(6, url) as answers:
            wait_until(lambda: len(recording(audit)) == 2)
        with callers(1, url) as fewer_answers:
            cluster.wait_for(1, _PATIENCE_S)
        cluster.wait_for(0, _PATIENCE_S)
        service.send(signal.SIGTERM)
        code, lines = service.end()
    assert (code, lines[-1]) == (0, "stopped")
    assert [numbers[0], max(numbers)] == [0, 2]
    assert {answer.status_code for answer in answers + fewer_answers} <= {200, 503}
    assert all("retry-after" in answer.headers for answer in answers + fewer_answers if answer.status_code == 503)
    assert fewer_answers[-1].status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/healthz", timeout=5)


def recording(audit: Path) -> set[str]:
    """Replicas that have recorded answers."""
    return {file.name.rpartition("-")[2] for file in audit.rglob("*.jsonl")}


def wait_until(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + _PATIENCE_S
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.1)


@contextlib.contextmanager
def callers(number: int, url: str) -> Generator[list[httpx.Response]]:
    """What so many callers are answered who ask again at once, for the time of the block; no answer is an error."""
    body = io.BytesIO()
    Image.new("RGB", (64, 48), (10, 190, 90)).save(body, format="PNG")
    answers: list[httpx.Response] = []
    enough = threading.Event()

    def ask() -> None:
        with httpx.Client(timeout=2 * _PATIENCE_S, headers={"Content-Type": "image/png"}) as client:
            while not enough.is_set():
                answers.append(client.post(f"{url}/v1/models/net:predict", content=body.getvalue()))

    with ThreadPoolExecutor(number) as pool:
        asking = [pool.submit(ask) for _ in range(number)]
        try:
            yield answers
        finally:
            enough.set()
        for each in asking:
            each.result()
