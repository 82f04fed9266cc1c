"""Images found over HTTP are those whose colours say so, by plain arithmetic on their pixels."""

from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from colours import FINGERPRINT, GREEN, PATCH, SIDE
from PIL import Image
from starlette.testclient import TestClient

from raytrain_xai.insight.image_rows import ImageRows
from serve.api import create_api
from serve.settings import ModelSettings, ServeSettings, VersionSettings

SEARCH = "/v1/models/colours:search"


@pytest.fixture(scope="module")
def http(colour_models: dict[str, ModelSettings], make_service) -> TestClient:
    return TestClient(create_api(make_service(ServeSettings(models=colour_models))), raise_server_exceptions=False)


@pytest.fixture(scope="module")
def indexed(objects: str) -> tuple[list[str], np.ndarray]:
    """Ids, and the mean colours (N, 4, 4, 3) of all patches of the images, in [0, 1]; below 0.1 they do not count."""
    rows = ImageRows([objects], "val", SIDE)
    images = np.concatenate([batch.images.numpy() for _, batch in rows.read(range(len(rows)))]) / 255
    cells = images.reshape(len(rows), 3, SIDE // PATCH, PATCH, SIDE // PATCH, PATCH).mean(axis=(3, 5))
    return [rows.origin(row).id for row in range(len(rows))], np.where(cells > 0.1, cells, 0).transpose(0, 2, 3, 1)


def found(http: TestClient, **wanted: Any) -> dict[str, Any]:
    answer = http.post(SEARCH, json=wanted)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_concept_finds_the_images_with_its_largest_value(http: TestClient, indexed) -> None:
    ids, cells = indexed
    answer = found(http, concepts=[GREEN], count=5)
    assert (answer["model"], answer["split"], answer["indexed"]) == ("colours", "val", len(ids))
    peaks = cells[..., GREEN].reshape(len(ids), -1)
    best = np.argsort(-peaks.max(axis=1), kind="stable")[:5]
    assert [one["id"] for one in answer["images"]] == [ids[row] for row in best]
    for one, row in zip(answer["images"], best, strict=True):
        assert one["score"] == pytest.approx(peaks[row].max(), abs=1e-6)
        [part] = one["concepts"]
        assert (part["id"], part["name"]) == (GREEN, "concept 1")
        y, x = divmod(int(peaks[row].argmax()), 4)
        assert one["box"] == [x / 4, y / 4, (x + 1) / 4, (y + 1) / 4]


def test_a_text_finds_images_and_its_score_is_the_sum_of_concepts(http: TestClient, indexed) -> None:
    ids, cells = indexed
    answer = found(http, text="yellow", count=3)
    unit = cells / np.maximum(np.linalg.norm(cells, axis=-1, keepdims=True), 1e-12)
    scores = ((unit[..., 0] + unit[..., 1]) / np.sqrt(2)).mean(axis=(1, 2))
    best = np.argsort(-scores, kind="stable")[:3]
    assert [one["id"] for one in answer["images"]] == [ids[row] for row in best]
    for one, row in zip(answer["images"], best, strict=True):
        assert one["score"] == pytest.approx(scores[row], abs=1e-5)
        assert sum(part["contribution"] for part in one["concepts"]) == pytest.approx(one["score"], abs=1e-5)
    assert len(found(http, text="yellow", top=1)["images"][0]["concepts"]) == 1


def test_pictures_of_found_images(http: TestClient, indexed) -> None:
    [first] = found(http, concepts=[GREEN], count=1)["images"]
    answer = http.get(first["picture"])
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    picture = Image.open(io.BytesIO(answer.content)).convert("RGB")
    assert max(picture.size) <= 224
    small = np.asarray(picture.resize((4, 4), Image.Resampling.BOX)) / 255
    row = indexed[0].index(first["id"])
    seen = indexed[1][row]
    assert np.abs(small - seen)[seen > 0].mean() < 0.03
    missing = http.get("/v1/models/colours/images/9999.jpg")
    assert missing.status_code == 404 and "the index has" in missing.json()["detail"]
    assert http.get("/v1/models/colours/images/x.jpg").status_code == 422


@pytest.mark.parametrize(
    ("wanted", "status", "message"),
    [
        ({}, 422, "a text or for concepts; give one of them"),
        ({"text": "red", "concepts": [0]}, 422, "give one of them"),
        ({"text": " "}, 422, "no text that an image could show"),
        ({"text": "a\0"}, 422, "no text that an image could show"),
        ({"concepts": [4]}, 404, "no concept 4"),
        ({"concepts": [-1]}, 422, "greater than or equal to 0"),
        ({"concepts": [2**40]}, 422, "less than"),
        ({"text": "red", "count": 0}, 422, "greater than or equal to 1"),
        ({"text": "red", "split": "train"}, 404, "no index of images of split train; there are those of val"),
        ({"text": "red", "split": "../.."}, 404, "there are those of val"),
        ({"query": "red"}, 422, "Extra inputs are not permitted"),
    ],
)
def test_searches_are_refused_in_words(http: TestClient, wanted: dict[str, Any], status: int, message: str) -> None:
    answer = http.post(SEARCH, json=wanted)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
    assert message in answer.json()["detail"], answer.text


def test_models_without_an_index_say_so(served_models: dict[str, ModelSettings], make_service) -> None:
    service = make_service(ServeSettings(models={"plain": served_models["plain"]}))
    http = TestClient(create_api(service), raise_server_exceptions=False)
    answer = http.post("/v1/models/plain:search", json={"text": "red"})
    assert (answer.status_code, answer.json()["detail"].split(";")[0]) == (
        422, "plain knows its classes and no other words",
    )  # fmt: skip
    answer = http.get("/v1/models/plain/images/0.jpg")
    assert (answer.status_code, answer.json()["detail"].split(";")[0]) == (404, "no index of images")


def test_an_index_of_other_concepts_is_not_searched(
    colour_models: dict[str, ModelSettings], make_service, tmp_path: Path
) -> None:
    run = Path(
        shutil.copytree(colour_models["colours"].versions["1"].run.removeprefix("file://"), tmp_path / "colours")
    )
    about = run / "insight" / "index-val" / "about.json"
    about.write_text(about.read_text().replace(FINGERPRINT, "d" * 64))
    models = {"colours": ModelSettings(versions={"1": VersionSettings(run=str(run))})}
    http = TestClient(create_api(make_service(ServeSettings(models=models))), raise_server_exceptions=False)
    for wanted in ({"text": "red"}, {"concepts": [0]}):
        answer = http.post(SEARCH, json=wanted)
        assert answer.status_code == 404 and "made with other concepts than those of colours" in answer.json()["detail"]
