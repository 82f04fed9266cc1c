"""Five hundred bodies that nobody means well with, to every route that takes one: refused in words, never an error of
the service, and the service answers as before afterwards."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from hostile_bodies import Body, encoded, good_picture, make_bodies

from serve.api import create_api
from serve.service import Service
from serve.settings import LimitSettings, ModelSettings, MonitorSettings, ServeSettings

ROUTES = (
    "/v1/models/concepts:predict",
    "/v1/models/concepts:explain?map=none",
    "/v1/models/concepts:trace?map=none&concept_map=none",
    "/v1/models/concepts:intervene?change=3:0",
    "/v1/models/concepts:batch?operation=predict",
    "/v1/models/concepts:flag?verdict=wrong_reason&class=bird",
    "/v1/models/colours:segment?label=red&label=blue",
    "/v1/models/colours:search",
    "/v2/models/concepts/infer",
    "/v2/models/plain/versions/b/infer",
)
INSIDE = (b"Traceback", b"site-packages", b"/tmp/", b"raytrain_xai/", b'File "')  # of an answer: paths and stacks
GROWTH_BYTES = 700_000_000  # two pictures of the largest size that is allowed are open together, up to 300 MB each


@pytest.fixture(scope="module")
def service(
    served_models: dict[str, ModelSettings], colour_models: dict[str, ModelSettings], make_service,
    tmp_path_factory: pytest.TempPathFactory,
) -> Service:  # fmt: skip
    feedback: Path = tmp_path_factory.mktemp("feedback")
    return make_service(
        ServeSettings(
            models=served_models | colour_models,
            monitor=MonitorSettings(feedback=str(feedback)),
            limits=LimitSettings(),
        )
    )


def client_of(service: Service) -> httpx.AsyncClient:
    """Errors of the service are answers, as they are for other clients."""
    transport = httpx.ASGITransport(create_api(service), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60)


def problems_of(answer: httpx.Response) -> Iterator[dict]:
    """Of an answer, or of the lines of one."""
    if answer.status_code >= 400:
        yield answer.json()
    elif answer.headers["content-type"] == "application/x-ndjson":
        for line in answer.text.splitlines():
            problem = json.loads(line)["problem"]
            if problem is not None:
                yield problem


def assert_refused_in_words(answer: httpx.Response, about: str) -> None:
    assert not [word for word in INSIDE if word in answer.content], about
    for problem in problems_of(answer):
        assert problem["status"] < 500, f"{about}: {problem}"
        assert problem["detail"] and problem["error"] == problem["detail"], about
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json", about


# Prints the most memory that a process held since the first line, of what no file backs, also where it was swapped out:
# what the system reclaims and reads again does not count. In a process of its own, which no lock of Python holds up.
WATCH = """
import select, sys
def held():
    with open(f"/proc/{sys.argv[1]}/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return 1024 * sum(int(lines[name].split()[0]) for name in ("RssAnon", "VmSwap"))
start = most = held()
print("watching", flush=True)
while not select.select([sys.stdin], [], [], 0.002)[0]:
    most = max(most, held())
print(max(most, held()) - start, flush=True)
"""


class Growth:
    """The most that this process grew by since the start of the block; ``bytes`` after it."""

    def __enter__(self) -> Growth:
        command = [sys.executable, "-c", WATCH, str(os.getpid())]
        self._watch = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._watch.stdout is not None and self._watch.stdout.readline() == "watching\n"
        return self

    def __exit__(self, *_: object) -> None:
        self.bytes = int(self._watch.communicate()[0])


def test_every_route_that_takes_a_body_is_attacked(service: Service) -> None:
    attacked = {re.sub(r"/(concepts|plain|colours)", "/{model}", route.partition("?")[0]) for route in ROUTES}
    attacked = {route.replace("/versions/b", "/versions/{version}") for route in attacked}
    paths = create_api(service).openapi()["paths"]
    assert attacked == {path for path, operations in paths.items() if "post" in operations}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to measure a peak of memory")
def test_the_measure_of_memory_sees_a_body_that_swells() -> None:
    with Growth() as small:
        time.sleep(0.05)
    assert small.bytes < 50_000_000
    with Growth() as large:
        swollen = zlib.decompress(zlib.compress(bytes(GROWTH_BYTES // 8), 1)) * 9
    assert len(swollen) > GROWTH_BYTES and large.bytes > GROWTH_BYTES


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux to measure a peak of memory")
def test_hostile_bodies_are_refused_in_words(service: Service) -> None:
    bodies = make_bodies(500, seed=0)
    assert len(bodies) == 500 and len({(body.content, *body.headers.items()) for body in bodies}) > 470
    good = {"instances": [{"b64": base64.b64encode(encoded(good_picture(), "PNG")).decode()}]}
    statuses: Counter[int] = Counter()

    async def attack() -> None:
        async with client_of(service) as client:
            before = [await client.post(route, json=good) for route in ROUTES[:4]]
            assert [answer.status_code for answer in before] == [200] * 4, [answer.text for answer in before]
            waiting = asyncio.Semaphore(4)

            async def send(route: str, body: Body) -> None:
                async with waiting:
                    answer = await client.post(route, content=body.content, headers=body.headers)
                statuses[answer.status_code] += 1
                assert_refused_in_words(answer, f"{body.kind} to {route}: {answer.status_code} {answer.text[:300]}")

            with Growth() as growth:
                for body in bodies:
                    await asyncio.gather(*(send(route, body) for route in ROUTES))
            assert growth.bytes < GROWTH_BYTES
            after = [await client.post(route, json=good) for route in ROUTES[:4]]
            for one, other in zip(before, after, strict=True):
                assert without_time(one) == without_time(other)

    asyncio.run(attack())
    assert statuses.total() == 500 * len(ROUTES)
    assert set(statuses) <= {200, 201, 400, 403, 404, 413, 415, 422}, statuses
    assert statuses[200] > 100, "some of them are strange, but pictures"
    assert min(statuses[415], statuses[422]) > 50


def without_time(answer: httpx.Response) -> dict:
    return {name: value for name, value in answer.json().items() if name not in ("request_id", "timing_ms")}
