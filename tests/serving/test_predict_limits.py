"""Questions about images over HTTP: versions, limits of answers, failures inside, and what watches."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from asked import PNG, Models, ask, json_body
from PIL import Image
from starlette.testclient import TestClient

from raytrain_xai.errors import CheckpointError
from raytrain_xai.explain import Explainer
from raytrain_xai.serving.engine import Job
from raytrain_xai.serving.jobs import ImageAnswer
from serve.api import create_api
from serve.security.fetch import Fetcher
from serve.service import Observation, Service
from serve.settings import ServeSettings


def test_an_image_always_draws_the_same_version(client: TestClient) -> None:
    versions: list[str] = []
    for value in range(24):
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8), (value, 0, 0)).save(buffer, format="PNG")
        expected = "a" if int(hashlib.sha256(buffer.getvalue()).hexdigest(), 16) / 2**256 < 3 / 4 else "b"
        answers = [ask(client, "plain:predict", buffer.getvalue()), ask(client, "plain:explain", buffer.getvalue())]
        assert [one["version"] for one in answers] == [expected] * 2
        versions.append(expected)
    assert set(versions) == {"a", "b"}


def limited(service: Service, **limits: int) -> TestClient:
    settings = service.settings
    changed = settings.model_copy(update={"limits": settings.limits.model_copy(update=limits)})
    return TestClient(create_api(replace(service, settings=changed)), raise_server_exceptions=False)


def test_answers_stay_within_their_size(client: TestClient, concept_service: Service, png: bytes) -> None:
    address = "concepts:trace?classes=3&map=fp16&concept_map=fp16&concept_maps=pixels"
    whole = client.post(f"/v1/models/{address}", content=png, headers=PNG)
    assert len(whole.content) > 100_000
    linked = limited(concept_service, answer_bytes=40_000).post(f"/v1/models/{address}", content=png, headers=PNG)
    assert len(linked.content) <= 40_000
    (trace,) = linked.json()["traces"]
    assert trace["omitted"] == []
    for one in trace["traced"]:
        for sent in [one["map"], *(concept["map"] for concept in one["concepts"])]:
            assert sent["format"] == "link"
            assert client.get(sent["href"]).status_code == 200
    bare = limited(concept_service, answer_bytes=10_500).post(f"/v1/models/{address}", content=png, headers=PNG)
    assert len(bare.content) <= 10_500
    (trace,) = bare.json()["traces"]
    assert trace["omitted"] == ["maps: size"]
    assert all(one["map"] is None and one["concepts"][0]["map"] is None for one in trace["traced"])
    scores = limited(concept_service, answer_bytes=10_000)
    refused = scores.post("/v1/models/plain:predict?classes=8", json=json_body(*[png] * 16))
    assert refused.status_code == 422
    assert "bytes, at most 10000 are sent; ask for fewer images" in refused.json()["detail"]


def test_services_without_links_say_so(served_models: Models, make_service: Any, png: bytes) -> None:
    settings = ServeSettings.model_validate({
        "models": {name: model.model_dump() for name, model in served_models.items()},
        "monitor": {"links_bytes": 0}, "limits": {"answer_bytes": 10_000},
    })  # fmt: skip
    client = TestClient(create_api(make_service(settings)))
    answer = client.post("/v1/models/concepts:explain?map=link", content=png, headers=PNG)
    assert answer.status_code == 422
    assert "makes no links" in answer.json()["detail"]
    (explanation,) = ask(client, "concepts:explain?map=fp16&classes=4", png)["explanations"]
    assert explanation["omitted"] == ["maps: size"]


def test_what_the_engine_left_out_is_told(concept_service: Service, png: bytes) -> None:
    deadlines: list[float | None] = []

    async def hurried(job: Job) -> list[ImageAnswer]:
        deadlines.append(job.deadline)
        return [replace(one, omitted=("maps", "origins")) for one in await concept_service.infer(job)]

    client = TestClient(create_api(replace(concept_service, infer=hurried)))
    (trace,) = ask(client, "concepts:trace", png)["traces"]
    assert trace["omitted"] == ["maps: deadline", "origins: deadline"]
    client.post("/v1/models/concepts:trace", content=png, headers={**PNG, "x-deadline-ms": "5000"})
    assert deadlines[0] is None
    assert deadlines[1] is not None


def test_observers_and_meter_are_told(concept_service: Service, png: bytes) -> None:
    seen: list[Observation] = []

    class Recorder:
        def __call__(self, observation: Observation) -> None:
            seen.append(observation)

        def close(self) -> None:
            pass

    client = TestClient(create_api(replace(concept_service, observers=(Recorder(),))))
    answer = client.post("/v1/models/concepts:trace", json=json_body(png, png))
    (observation,) = seen
    assert list(observation.hashes) == [hashlib.sha256(png).hexdigest()] * 2
    assert observation.request_id == answer.headers["x-request-id"]
    assert observation.job.images.shape == (2, 3, 48, 48)
    assert len(observation.answers) == 2
    assert 'raytrain_xai_residual_count{model="concepts",version="1"}' in concept_service.meter.page().decode()


def test_engine_failures_name_nothing_of_the_inside(concept_service: Service, png: bytes) -> None:
    async def broken(job: Job) -> list[ImageAnswer]:
        raise CheckpointError(f"/secret/folder of {job.model.key}")

    async def failing(job: Job) -> list[ImageAnswer]:
        raise RuntimeError(f"/secret/folder of {job.model.key}")

    for infer in (broken, failing):
        client = TestClient(create_api(replace(concept_service, infer=infer)), raise_server_exceptions=False)
        answer = client.post("/v1/models/plain:predict", content=png, headers=PNG)
        assert answer.status_code == 500
        assert answer.headers["content-type"] == "application/problem+json"
        assert "secret" not in answer.text
        assert "Error" not in answer.text


def test_runs_that_cannot_be_loaded_name_no_folder(make_service: Any, png: bytes, tmp_path: Any) -> None:
    settings = ServeSettings.model_validate({"models": {"gone": {"versions": {"1": {"run": str(tmp_path / "gone")}}}}})
    client = TestClient(create_api(make_service(settings)), raise_server_exceptions=False)
    answer = client.post("/v1/models/gone:predict", content=png, headers=PNG)
    assert answer.status_code == 500
    assert str(tmp_path) not in answer.text


def test_a_picture_is_seen_upright(client: TestClient) -> None:
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:, :20] = (255, 0, 0)
    upright, turned = io.BytesIO(), io.BytesIO()
    Image.fromarray(pixels).save(upright, format="PNG")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(np.rot90(pixels)).save(turned, format="PNG", exif=exif)
    first, second = (ask(client, "plain@a:predict", one.getvalue())["predictions"][0] for one in (upright, turned))
    assert first["classes"] == second["classes"]
    assert (second["image"]["width"], second["image"]["height"]) == (60, 40)


def test_fetched_images_are_answered_as_sent_ones(
    concept_service: Service, png: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def fetch(_: Fetcher, address: str) -> bytes:
        asked.append(address)
        return png

    monkeypatch.setattr(Fetcher, "__call__", fetch)
    client = TestClient(create_api(concept_service))
    body = {"instances": [{"url": "https://example.org/a.png"}, json_body(png)["instances"][0]]}
    first, second = client.post("/v1/models/plain@a:predict", json=body).json()["predictions"]
    assert first == second
    assert asked == ["https://example.org/a.png"]


def test_the_part_that_is_seen() -> None:
    network = torch.nn.Linear(1, 1)
    explainer = Explainer.__new__(Explainer)
    explainer.network, explainer.image_size, explainer.shorter = network, 48, 64  # pyright: ignore[reportAttributeAccessIssue]
    # Shorter side 40 becomes 64, of which the central 48 are 30 of 40 pixels
    assert explainer.seen(60, 40) == (15, 5, 45, 35)
    assert explainer.seen(40, 80) == (5, 25, 35, 55)
