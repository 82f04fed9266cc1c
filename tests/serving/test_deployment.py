"""The service in Ray Serve: answers over HTTP, outlives a killed replica, refuses overload, leaves nothing behind."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image
from raytrain_xai_client import ClassScore, Client
from raytrain_xai_client.retry import Retry

from bench.processes import pids_of, replica_pids
from raytrain_xai.errors import ConfigError, RunError
from raytrain_xai.runners.serving import Front, check_exposure, deployed
from serve.settings import ServeSettings

_PATIENCE_S = 120


def picture(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 48), (shade, 200 - shade, 90)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def settings(concept_runs: dict[str, str]) -> ServeSettings:
    versions = {"a": {"run": concept_runs["Final"]}, "b": {"run": concept_runs["Final"], "weight": 0}}
    return ServeSettings.model_validate({
        "models": {"scenes": {"versions": versions}},
        "limits": {"in_flight": 4},
        "replica": {"num_cpus": 1, "health_period_s": 0.5, "drain_s": 5},
    })  # fmt: skip


@pytest.fixture(scope="module")
def url(settings: ServeSettings) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with deployed(settings, Front(port=port)):
        yield f"http://127.0.0.1:{port}"


def post(url: str, operation: str, shade: int = 10, **headers: str) -> httpx.Response:
    kind = {"Content-Type": "image/png"}
    return httpx.post(f"{url}/v1/models/scenes:{operation}", content=picture(shade), headers=kind | headers, timeout=60)


@pytest.mark.ray
def test_a_request_is_answered_with_contributions_that_sum_to_the_logit(url: str) -> None:
    answer = post(url, "trace")
    assert answer.status_code == 200, answer.text
    (trace,) = answer.json()["traces"]
    (explained,) = trace["traced"]
    total = sum(concept["contribution"] for concept in explained["concepts"])
    total += explained["rest"]["contribution"] + explained["bias"]
    assert total == pytest.approx(explained["logit"], rel=1e-4, abs=1e-5)
    assert httpx.get(f"{url}/healthz").status_code == httpx.get(f"{url}/readyz").status_code == 200


@pytest.mark.ray
def test_without_a_version_only_versions_with_weight_answer_and_a_named_one_always(url: str) -> None:
    assert {post(url, "predict", shade).json()["version"] for shade in range(6)} == {"a"}
    kind = {"Content-Type": "image/png"}
    named = httpx.post(f"{url}/v1/models/scenes@b:predict", content=picture(0), headers=kind, timeout=60)
    assert (named.status_code, named.json()["version"]) == (200, "b")


@pytest.mark.ray
def test_more_than_a_replica_takes_is_refused_with_reason_and_patience(url: str) -> None:
    statuses: list[httpx.Response] = []

    def many(shade: int) -> None:
        statuses.extend(post(url, "explain", shade) for _ in range(4))

    threads = [threading.Thread(target=many, args=(shade,)) for shade in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(_PATIENCE_S)
    refused = [answer for answer in statuses if answer.status_code != 200]
    assert len(statuses) == 96
    assert 0 < len(refused) < 96
    assert {answer.status_code for answer in refused} == {503}
    told = [answer for answer in refused if answer.headers.get("content-type") == "application/problem+json"]
    assert told
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in told)


@pytest.mark.ray
def test_a_replica_that_is_killed_under_load_loses_nothing_that_clients_do_not_get_by_asking_again(url: str) -> None:
    (pid,) = replica_pids()
    answered: list[int] = []
    killed = threading.Event()

    def ask(shade: int) -> None:
        with Client(url, retry=Retry(attempts=60, most_s=2)) as client:
            while not killed.is_set():
                answered.append(len(client.predict("scenes", picture(shade))))
            answered.extend(len(client.predict("scenes", picture(shade))) for _ in range(5))

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask, shade) for shade in range(3)]
        while len(answered) < 10:
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        killed.set()
        for each in asking:
            each.result(_PATIENCE_S)  # raises what a client could not get over
    assert replica_pids() not in ([], [pid])


@pytest.mark.ray
def test_a_proxy_that_is_killed_is_replaced_and_no_answer_was_wrong(url: str) -> None:
    [proxy], replicas = pids_of(b"ray::ProxyActor"), replica_pids()
    patient = Retry(attempts=400, most_s=0.5)
    with Client(url, retry=patient) as client:
        expected = [client.predict("scenes", picture(shade))[0].classes[0] for shade in range(3)]
    answered: list[bool] = []
    killed = threading.Event()

    def ask(shade: int) -> None:
        with Client(url, retry=patient) as client:
            while not killed.is_set():
                answered.append(is_same(client.predict("scenes", picture(shade))[0].classes[0], expected[shade]))
            answered.extend(
                is_same(client.predict("scenes", picture(shade))[0].classes[0], expected[shade]) for _ in range(5)
            )

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask, shade) for shade in range(3)]
        while len(answered) < 10:
            time.sleep(0.01)
        os.kill(proxy, signal.SIGKILL)
        killed.set()
        for each in asking:
            each.result(_PATIENCE_S)  # raises what a client could not get over
    assert all(answered)
    assert pids_of(b"ray::ProxyActor") not in ([], [proxy])
    assert replica_pids() == replicas


def is_same(found: ClassScore, expected: ClassScore) -> bool:
    """Whether two answers agree; those of a batch differ in the last digits from those alone."""
    return found.name == expected.name and found.logit == pytest.approx(expected.logit, abs=1e-4)


@pytest.mark.ray
def test_the_command_serves_until_it_is_told_to_stop_and_leaves_no_process(
    concept_runs: dict[str, str], tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = "from raytrain_xai.cli.main import main; main()"
    command = [sys.executable, "-c", program, "serve", f"net={concept_runs['Final']}", "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line)
        if "interrupt to stop" in line:
            break
    assert f"open http://127.0.0.1:{port}/ in a browser\n" in lines
    assert httpx.get(f"http://127.0.0.1:{port}/v1/models/net", timeout=60).status_code == 200
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=_PATIENCE_S)
    assert (process.returncode, out) == (0, "stopped\n")
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5)


def test_strangers_need_keys(settings: ServeSettings) -> None:
    check_exposure(settings, "127.0.0.1", has_keys=False)
    check_exposure(settings, "0.0.0.0", has_keys=True)
    with pytest.raises(ConfigError, match=re.escape("--host 0.0.0.0 can be reached by others")):
        check_exposure(settings, "0.0.0.0", has_keys=False)


def test_a_taken_port_is_told_before_ray_starts(settings: ServeSettings) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(RunError, match=f"cannot listen on 127.0.0.1 port {port}"),
            deployed(settings, Front(port=port)),
        ):
            pass


def test_what_is_no_run_is_told_before_anything_is_deployed(tmp_path: Path) -> None:
    from serve.compose import check_runs

    with pytest.raises(ConfigError, match="is not a run"):
        check_runs(ServeSettings(checkpoint=str(tmp_path / "nothing")))
