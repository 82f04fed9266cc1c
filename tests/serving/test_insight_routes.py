"""Segments, patches and relatives of concepts over HTTP; the encoder sees colours."""

from __future__ import annotations

import base64
import io
from typing import Any

import jsonschema
import numpy as np
import pytest
from colours import png_of, two_colours
from PIL import Image
from starlette.testclient import TestClient

from serve.api import create_api
from serve.service import Service
from serve.settings import LimitSettings, ModelSettings, ServeSettings

SEGMENT = "/v1/models/colours:segment"
CONCEPTS = "/v1/models/colours/concepts"
PNG = {"content-type": "image/png"}
RED_BLUE = png_of(two_colours((255, 0, 0), (0, 0, 255), side=80))


@pytest.fixture(scope="module")
def http(served_models: dict[str, ModelSettings], colour_models: dict[str, ModelSettings], make_service) -> TestClient:
    models = {"plain": served_models["plain"], **colour_models}
    service: Service = make_service(ServeSettings(models=models, limits=LimitSettings(answer_bytes=30_000)))
    return TestClient(create_api(service), raise_server_exceptions=False)


def ask(http: TestClient, image: bytes = RED_BLUE, **options: Any) -> dict[str, Any]:
    answer = http.post(SEGMENT, content=image, headers=PNG, params=options)
    assert answer.status_code == 200, answer.text
    [segmentation] = answer.json()["segmentations"]
    return segmentation


def test_segments_say_what_their_score_is_the_sum_of(http: TestClient) -> None:
    found = ask(http, label=["green", "red", "blue"])
    assert found["labels"] == ["green", "red", "blue"]
    assert found["image"]["seen"] == [0, 0, 80, 80]
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["map"]["data"]))))
    assert drawn.shape == (found["map"]["height"], found["map"]["width"]) == (32, 32)
    assert (drawn[:, :16] == 2).all() and (drawn[:, 16:] == 3).all()
    assert {(one["label"], one["index"], one["share"]) for one in found["segments"]} == {
        ("red", 1, 0.5), ("blue", 2, 0.5),
    }  # fmt: skip
    for one in found["segments"]:
        parts = sum(part["contribution"] for part in one["concepts"])
        assert one["score"] == pytest.approx(parts + one["rest"]["contribution"] + one["bias"], abs=1e-5)
        assert one["score"] == pytest.approx(15 / 16, abs=1e-5)


def test_patches_name_the_concepts_of_every_place(http: TestClient) -> None:
    found = ask(http, png_of(two_colours((255, 0, 0), (0, 0, 255))))
    assert (found["labels"], found["segments"], found["map"]) == ([], [], None)
    patches = found["patches"]
    assert (patches["height"], patches["width"], len(patches["cells"])) == (4, 4, 16)
    assert patches["cells"] == [[[0, 1.0]], [[0, 1.0]], [[2, 1.0]], [[2, 1.0]]] * 4
    assert patches["concepts"] == [
        {"id": 0, "name": "concept 0", "peak": 1.0}, {"id": 2, "name": "concept 2", "peak": 1.0},
    ]  # fmt: skip
    assert ask(http, label="red", patches=False)["patches"] is None


def test_background_is_zero_in_the_map(http: TestClient) -> None:
    for options in ({"background": "blue"}, {"background_score": 0.5}):
        found = ask(http, label="red", **options)
        drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["map"]["data"]))))
        assert (drawn[:, :16] == 1).all() and (drawn[:, 16:] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label": ["red", "red"]}, "a text is given twice"),
        ({"label": " "}, "no text that an image could show"),
        ({"label": ""}, "label.0: String should have at least 1 character"),
        ({"label": [str(n) for n in range(65)]}, "at most 64"),
        ({"background": "blue"}, "a background without labels"),
        ({"label": "red", "background": "blue", "background_score": 0.1}, "two backgrounds"),
        ({"label": "red", "background_score": "nan"}, "finite|less than"),
        ({"label": "red", "top": 65}, "at most 64 may be"),
        ({"patches": "false"}, "nothing is asked for"),
        ({"class": "red"}, "the options here are label, background, background_score, top, patches"),
    ],
)
def test_questions_are_refused_in_words(http: TestClient, options: dict[str, Any], message: str) -> None:
    answer = http.post(SEGMENT, content=RED_BLUE, headers=PNG, params=options)
    assert answer.status_code == 422
    assert any(part in answer.json()["detail"] for part in message.split("|")), answer.text


def test_models_of_another_kind_say_so(http: TestClient) -> None:
    answer = http.post("/v1/models/plain@a:segment?label=red", content=RED_BLUE, headers=PNG)
    assert (answer.status_code, answer.json()["detail"]) == (
        422, "plain knows its classes and no other words; it can be asked to predict, explain",
    )  # fmt: skip
    for operation in ("predict", "explain", "trace", "batch?operation=predict"):
        answer = http.post(f"/v1/models/colours:{operation}", content=RED_BLUE, headers=PNG)
        assert answer.status_code == 422 and "colours has no classes" in answer.json()["detail"]
    assert http.post("/v2/models/colours/infer", json={"inputs": []}).status_code == 422


def test_an_answer_that_is_too_long_is_refused(http: TestClient) -> None:
    images = [{"b64": base64.b64encode(RED_BLUE).decode()}] * 16
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="PNG")
    images = [{"b64": base64.b64encode(buffer.getvalue()).decode()}] * 16
    answer = http.post(SEGMENT, json={"instances": images, "parameters": {"label": [f"word {n}" for n in range(40)]}})
    assert answer.status_code == 422 and "at most 30000 are sent" in answer.json()["detail"]
    assert http.post(SEGMENT, json={"instances": images[:1]}).status_code == 200


def test_the_example_of_the_document_is_answered_as_it_says(http: TestClient) -> None:
    document = http.get("/openapi.json").json()
    described = document["paths"]["/v1/models/{model}:segment"]["post"]
    body = described["requestBody"]["content"]["application/json"]["schema"]
    answer = http.post(SEGMENT, json=body["example"])
    assert answer.status_code == 200, answer.text
    schema = described["responses"]["200"]["content"]["application/json"]["schema"]
    jsonschema.validate(answer.json(), {**schema, "components": document["components"]})
    jsonschema.validate(body["example"], {**body, "components": document["components"]})


def test_the_model_tells_what_it_is(http: TestClient) -> None:
    model = http.get("/v1/models/colours").json()
    assert (model["classes"], model["architecture"], model["image_size"]) == ([], "colours", 32)
    assert (model["operations"], model["samples"]) == (["segment", "search"], 5)
    assert model["layers"] == [
        {"layer": "patches", "concepts": 4, "per_position": None, "named": 1, "catalogue": True, "relations": True}
    ]
    sample = http.get("/v1/models/colours/samples/4")
    assert Image.open(io.BytesIO(sample.content)).size == (32, 32)


def test_concepts_have_parents_and_children(http: TestClient) -> None:
    roots = http.get(CONCEPTS, params={"roots": True}).json()
    assert [(one["id"], one["name"], one["frequency"]) for one in roots["concepts"]] == [(0, "red", 5 / 12)]
    below = http.get(CONCEPTS, params={"parent": 0, "per_page": 1}).json()
    assert (below["total"], [one["id"] for one in below["concepts"]]) == (2, [2])
    detail = http.get(f"{CONCEPTS}/2").json()
    assert detail["relatives"] == {
        "parents": [{"id": 0, "name": "red", "share": pytest.approx(6 / 7), "children": 2}], "children": [],
        "synonyms": [],
    }  # fmt: skip
    assert [one["id"] for one in http.get(f"{CONCEPTS}/0").json()["relatives"]["children"]] == [1, 2]
    example = detail["examples"][0]
    assert (example["activation"], example["contribution"], example["labels"], example["answer"]) == (5, None, [], None)
    place = Image.open(io.BytesIO(http.get(example["map"]).content))
    assert np.asarray(place).tolist() == [[0, 255]]
    assert http.get(CONCEPTS, params={"parent": 9}).status_code == 404
    assert http.get(CONCEPTS, params={"parent": -1}).status_code == 422
    assert http.get(f"{CONCEPTS}/4").json()["detail"] == "no concept 4; there are concepts 0 to 3"


def test_a_given_name_is_shown_at_once(http: TestClient) -> None:
    assert http.patch(f"{CONCEPTS}/2", json={"name": "sea"}).json()["named_by"] == "user"
    assert http.get(f"{CONCEPTS}/0").json()["relatives"]["children"][1]["name"] == "sea"
    http.patch(f"{CONCEPTS}/2", json={"name": ""})


def test_there_is_no_drift_of_an_encoder(http: TestClient) -> None:
    assert http.get("/v1/models/colours/drift").status_code == 404
