"""Questions about images over HTTP, against explainer and tracer of the same runs."""

from __future__ import annotations

import base64
import hashlib
import io
from typing import Any

import numpy as np
import pytest
from asked import PNG, Models, ask, explained, json_body
from PIL import Image
from starlette.testclient import TestClient

from raytrain_xai.concept_runs.model import load_concepts
from raytrain_xai.concept_runs.tracing import ConceptTracer
from raytrain_xai.explain import Explainer
from serve.api import create_api
from serve.settings import LimitSettings, ServeSettings


# --- what is answered -------------------------------------------------------------------------------------------------
def test_predict_tells_the_largest_logits(client: TestClient, png: bytes, served_models: Models) -> None:
    answer = client.post("/v1/models/plain@b:predict", content=png, headers=PNG)
    expected = explained(served_models, png)
    (prediction,) = answer.json()["predictions"]
    assert [one["index"] for one in prediction["classes"]] == expected.logits.argsort(descending=True)[:5].tolist()
    assert prediction["classes"][0]["logit"] == pytest.approx(float(expected.logits.max()), abs=1e-5)
    assert prediction["classes"][0]["probability"] == pytest.approx(float(expected.probabilities.max()), abs=1e-5)
    assert prediction["image"] == {
        "sha256": hashlib.sha256(png).hexdigest(), "width": 60, "height": 40, "seen": [0, 0, 60, 40],
    }  # fmt: skip
    assert answer.headers["x-model-version"] == answer.json()["version"] == "b"
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
    timing = answer.json()["timing_ms"]
    assert timing["total"] >= timing["decode"] + timing["queue_and_compute"] + timing["render"] > 0


def test_named_classes_are_listed_besides(client: TestClient, png: bytes, served_models: Models) -> None:
    logits = explained(served_models, png).logits
    last = int(logits.argmin())
    name = Explainer.load(served_models["plain"].versions["b"].run).classes[last]
    (prediction,) = ask(client, f"plain@b:predict?classes=2&class={name}", png)["predictions"]
    assert [one["index"] for one in prediction["classes"]] == [*logits.topk(2).indices.tolist(), last]
    (all_of_them,) = ask(client, "plain@b:predict?classes=500", png)["predictions"]
    assert len(all_of_them["classes"]) == len(logits)


def test_explain_is_the_explanation_of_the_run(client: TestClient, png: bytes, served_models: Models) -> None:
    answer = ask(client, "plain@b:explain?classes=2&map=fp16", png)
    assert answer["method"] == "ixg at Input"
    (explanation,) = answer["explanations"]
    for one, expected in zip(explanation["explained"], explained(served_models, png, top=2).classes, strict=True):
        assert (one["index"], one["name"]) == (expected.index, expected.name)
        assert one["positive_share"] == pytest.approx(expected.positive_share, abs=1e-4)
        assert one["residual"] is None, "input x gradient promises no sum"
        halves = np.frombuffer(base64.b64decode(one["map"]["data"]), dtype="<f2").reshape(48, 48)
        attribution = expected.attribution.numpy()
        np.testing.assert_allclose(halves * one["map"]["unit"], attribution, atol=np.abs(attribution).max() / 500)
    assert len(explanation["classes"]) == 5


def test_trace_is_the_trace_of_the_run(client: TestClient, png: bytes, served_models: Models) -> None:
    version = served_models["concepts"].versions["1"]
    tracer = ConceptTracer(load_concepts([version.run, *version.also]))
    (expected,) = tracer([Image.open(io.BytesIO(png))], top=4)
    (trace,) = ask(client, "concepts:trace?top=4&concept_maps=pixels&origins=true", png)["traces"]
    assert trace["active"] == expected.active
    one, by_tracer = trace["traced"][0], expected.classes[0]
    assert one["logit"] == pytest.approx(by_tracer.logit, abs=1e-4)
    assert one["logit_without_concepts"] == pytest.approx(by_tracer.logit_without_concepts, abs=1e-4)
    total = sum(concept["contribution"] for concept in one["concepts"]) + one["rest"]["contribution"] + one["bias"]
    assert total == pytest.approx(one["logit"], abs=1e-4)
    assert len(one["concepts"]) == len(by_tracer.concepts) == len(by_tracer.weighted)
    for concept, share, pixels in zip(one["concepts"], by_tracer.concepts, by_tracer.weighted, strict=True):
        assert (concept["id"], concept["layer"]) == (share.concept.id, share.concept.layer)
        assert concept["contribution"] == pytest.approx(share.contribution, abs=1e-4)
        assert concept["map"]["sum"] == pytest.approx(float(pixels.map.sum()), abs=1e-3)
        assert concept["map"]["at"] == "pixels"
        assert {origin["layer"] for origin in concept["origins"]} == {"Mid2"}
    (at_positions,) = ask(client, "concepts:trace?top=4&map=none", png)["traces"]
    assert at_positions["traced"][0]["map"] is None
    for concept, before in zip(at_positions["traced"][0]["concepts"], one["concepts"], strict=True):
        assert concept["map"]["at"] == "positions"
        assert np.sum(concept["map"]["values"]) == pytest.approx(before["contribution"], abs=1e-3)


def test_chosen_concepts_are_shown_and_alone_have_maps(client: TestClient, png: bytes) -> None:
    (trace,) = ask(client, "concepts:trace?top=1&concept=Final/5&concept=7", png)["traces"]
    shown = {concept["id"]: concept["map"] for concept in trace["traced"][0]["concepts"]}
    assert {5, 7} <= set(shown)
    assert all((shown[concept] is not None) == (concept in (5, 7)) for concept in shown)


def test_intervene_compares_the_same_classes(client: TestClient, png: bytes) -> None:
    (trace,) = ask(client, "concepts:trace?top=3", png)["traces"]
    strongest = trace["traced"][0]["concepts"][0]["id"]
    answer = ask(client, f"concepts:intervene?classes=2&change=Final/{strongest}:0&change=3:1", png)
    assert answer["changes"] == [
        {"layer": "Final", "concept": strongest, "factor": 0}, {"layer": None, "concept": 3, "factor": 1},
    ]  # fmt: skip
    (intervention,) = answer["interventions"]
    before = {one["index"]: one["logit"] for one in intervention["classes"]}
    after = {one["index"]: one["logit"] for one in intervention["changed"]}
    assert set(before) == set(after)
    assert 2 <= len(before) <= 4
    for scores in (before, after):
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
    assert before != after
    top = trace["traced"][0]["index"]
    assert before[top] == pytest.approx(trace["traced"][0]["logit"], abs=1e-4)
    same = ask(client, "concepts:intervene?change=3:1", png)["interventions"][0]
    assert same["classes"] == same["changed"]


def test_pictures_of_colours_and_links(client: TestClient, png: bytes) -> None:
    (explanation,) = ask(client, "concepts:explain?rgba=true&map=none", png)["explanations"]
    (one,) = explanation["explained"]
    assert one["map"] is None
    assert Image.open(io.BytesIO(base64.b64decode(one["rgba"]["data"]))).mode == "RGBA"
    (explanation,) = ask(client, "concepts:explain?rgba=true&map=link", png)["explanations"]
    (one,) = explanation["explained"]
    for href, mode in ((one["map"]["href"], "RGB"), (one["rgba"]["href"], "RGBA")):
        linked = client.get(href)
        assert linked.headers["content-type"] == "image/png"
        picture = Image.open(io.BytesIO(linked.content))
        assert (picture.size, picture.mode) == ((48, 48), mode)
    assert one["rgba"]["data"] is None
    assert client.get("/v1/maps/" + "0" * 42 + ".png").status_code == 404


# --- how images are sent ----------------------------------------------------------------------------------------------
def test_every_way_to_send_an_image_gives_the_same_answer(client: TestClient, png: bytes) -> None:
    pixels = np.asarray(Image.open(io.BytesIO(png)))
    text = base64.b64encode(png).decode()
    address = "/v1/models/plain@b:predict?classes=3"
    sent = [
        client.post(address, content=png, headers=PNG),
        client.post(address, content=png, headers={"content-type": "application/octet-stream"}),
        client.post(address, files={"image": ("a.png", png)}),
        client.post(address, json={"instances": [{"b64": text}]}),
        client.post(address, json={"instances": [{"image": {"b64": text}}]}),
        client.post(address, json={"instances": [pixels.tolist()]}),
        client.post("/v1/models/plain@b:predict", json=json_body(png, classes=3)),
        client.post(
            "/v1/models/plain@b:predict", files={"image": ("a.png", png)}, data={"parameters": '{"classes": 3}'}
        ),
    ]
    answers = [one.json()["predictions"][0] for one in sent]
    assert all(one["classes"] == answers[0]["classes"] for one in answers)
    assert len(answers[0]["classes"]) == 3
    of_pixels = hashlib.sha256(b"40 60 " + pixels.tobytes()).hexdigest()
    assert [one["image"]["sha256"] == answers[0]["image"]["sha256"] for one in answers].count(False) == 1
    assert answers[5]["image"]["sha256"] == of_pixels


def test_several_images_keep_their_order(client: TestClient, png: bytes) -> None:
    other = io.BytesIO()
    Image.open(io.BytesIO(png)).crop((0, 0, 20, 30)).save(other, format="JPEG")
    together = client.post("/v1/models/plain@b:predict", json=json_body(png, other.getvalue(), png)).json()
    assert [one["image"]["width"] for one in together["predictions"]] == [60, 20, 60]
    assert together["predictions"][0]["classes"] == together["predictions"][2]["classes"]
    form = [("image", ("1.png", png)), ("image", ("2.jpg", other.getvalue()))]
    assert len(client.post("/v1/models/plain@b:predict", files=form).json()["predictions"]) == 2


@pytest.mark.parametrize(
    ("sent", "status", "message"),
    [
        ({"json": {"instances": []}}, 422, "no image; send at least one"),
        ({"json": {"instances": [{"b64": ""}]}}, 422, "the image is empty"),
        ({"json": {"instances": [{"b64": "a"}]}}, 422, "b64 is not base64"),
        ({"json": {"instances": [{"b64": "é"}]}}, 422, "b64 is not base64"),
        ({"json": {"instances": [{"b64": 3}]}}, 422, "an instance is"),
        ({"json": {"instances": [{"image": {"image": {"b64": ""}}}]}}, 422, "an instance is"),
        ({"json": {"instances": ["text"]}}, 422, "an instance is"),
        ({"json": {"instances": [None, {"b64": ""}]}}, 422, "image 1: an instance is"),
        ({"json": {"instances": [[[0, 1], [2]]]}}, 422, ""),
        ({"json": {"instances": {"b64": ""}}}, 422, "no list of instances"),
        ({"json": {"images": []}}, 422, "unknown key 'images'"),
        ({"json": {"instances": [[[1]]], "parameters": [1]}}, 422, "parameters must be a JSON object"),
        ({"json": {"instances": [[[1]]] * 17}}, 422, "17 images, at most 16"),
        ({"json": [1]}, 422, "the body must be a JSON object"),
        ({"json": {"instances": [{"url": "https://example.org/a.png"}]}}, 403, ""),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 422, "not readable as JSON"),
        ({"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 422, "not readable as JSON"),
        ({"content": b'{"instances": [[[NaN]]]}', "headers": {"content-type": "application/json"}}, 422, "JSON"),
        ({"content": b"x", "headers": {"content-type": "text/plain"}}, 415, ""),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "boundary"),
        ({"files": {"picture": b"x"}}, 422, "unknown field 'picture'"),
        ({"files": {"other": ("a", b"")}, "data": {"image": "text"}}, 422, "send it as a file"),
        ({"files": {"image": ("a", b"x")}, "data": {"parameters": "[]"}}, 422, "parameters must be a JSON object"),
        ({"files": {"image": ("a", b"not an image")}}, 422, "not a readable"),
        ({"files": [("image", (str(n), b"x")) for n in range(20)]}, 400, "Too many files"),
    ],
)  # fmt: skip
def test_bodies_that_cannot_be(client: TestClient, sent: dict[str, Any], status: int, message: str) -> None:
    answer = client.post("/v1/models/plain@b:predict", **sent)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json"), answer.text
    assert message in answer.json()["detail"]
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


def test_json_of_very_many_values_is_refused_before_it_is_built(
    served_models: Models, make_service: Any, png: bytes
) -> None:
    limits = LimitSettings(body_bytes=10_000_000)
    client = TestClient(create_api(make_service(ServeSettings(models=served_models, limits=limits))))
    body = b'{"instances": [[' + b"[]," * 2_000_000 + b"[]]]}"
    answer = client.post("/v1/models/plain:predict", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert "values in JSON, at most 2000000" in answer.json()["detail"]
    assert ask(client, "plain:predict", png)["predictions"]


# --- options ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("address", "status", "message"),
    [
        ("nothing:predict", 404, "no model 'nothing'"),
        ("plain@c:predict", 404, "no version 'c'"),
        ("plain@:predict", 404, "no version ''"),
        ("plain:trace", 422, "has none"),
        ("plain:predict?class=dragon", 422, "unknown class 'dragon'"),
        ("plain:predict?classes=many", 422, "classes: Input should be a valid integer"),
        ("plain:predict?classes=-1", 422, "greater than or equal to 0"),
        ("plain:predict?classes=1&classes=2", 422, "given twice"),
        ("plain:predict?top=3", 422, "the options here are classes, class"),
        ("plain:explain?classes=0", 422, "nothing to explain"),
        ("plain:explain?classes=11", 422, "11 classes are to be explained of each image, at most 10"),
        ("plain:explain?map=jpeg", 422, "map: Input should be 'none', 'grid'"),
        ("plain:explain?rgba=true", 422, "rgba is for B-cos networks"),
        ("concepts:trace?top=65", 422, "65 concepts are to be shown of each class, at most 64"),
        ("concepts:trace?concept=five", 422, "is no concept; give LAYER/ID"),
        ("concepts:trace?concept=24", 404, "no concept 24"),
        ("concepts:trace?concept=Mid9/1", 404, "no concept layer 'Mid9'"),
        ("concepts:trace?classes=10&top=60&concept_maps=pixels", 422, "610 maps of pixels are asked for, at most 512"),
        ("concepts:intervene", 422, "change: Field required"),
        ("concepts:intervene?change=3", 422, "is no concept"),
        ("concepts:intervene?change=3:-1", 422, "greater than or equal to 0"),
        ("concepts:intervene?change=3:nan", 422, "change.0.factor"),
        ("concepts:intervene?change=3:0&change=Final/3:1", 422, "concept 3 is changed twice"),
        ("concepts:intervene?change=30:0", 404, "no concept 30"),
    ],
)
def test_questions_that_cannot_be(client: TestClient, png: bytes, address: str, status: int, message: str) -> None:
    answer = client.post(f"/v1/models/{address}", content=png, headers=PNG)
    assert answer.status_code == status, answer.text
    assert message in answer.json()["detail"]


def test_options_in_the_body_are_checked_as_those_of_the_address(client: TestClient, png: bytes) -> None:
    for parameters, message in (
        ({"classes": 2}, "option classes is given twice"),
        ({"class": "bird"}, "class: Input should be a valid tuple"),
        ({"tops": 2}, "tops: Extra inputs are not permitted, got 2"),
        ({"map": {"a": 1}}, "got a dict"),
    ):
        answer = client.post("/v1/models/plain:explain?classes=1", json=json_body(png, **parameters))
        assert answer.status_code == 422
        assert message in answer.json()["detail"]
    long = b'{"instances": [[[1]]], "parameters": {"classes": ' + b"9" * 5000 + b"}}"
    answer = client.post("/v1/models/plain:predict", content=long, headers={"content-type": "application/json"})
    assert answer.status_code == 422
