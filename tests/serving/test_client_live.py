"""The client against the API on a real connection, with and without asyncio; its types against those of the API."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from colours import png_of, two_colours
from PIL import Image
from raytrain_xai_client import (
    AsyncClient,
    Change,
    Client,
    ConnectionFailedError,
    ImageAddress,
    Prediction,
    Retry,
    ServiceError,
    answers,
    descriptions,
    insight,
    maps,
)

from raytrain_xai.data.feedback import read_feedback
from serve import insight_schemas, model_schemas, schemas
from serve.api import create_api
from serve.service import Service
from serve.settings import ModelSettings, ServeSettings

_SAME = {
    "ImageInfo": "ImageInfo", "ClassScore": "ClassScore", "Prediction": "Prediction",
    "ExplainedClass": "ExplainedClass", "Explanation": "Explanation", "Concept": "Concept", "Rest": "Rest",
    "TracedClass": "TracedClass", "Trace": "Trace",
    "Change": "Change", "Intervention": "Intervention", "Timing": "Timing", "BatchLine": "BatchLine",
    "Version": "VersionInfo", "ModelSummary": "ModelSummary", "ConceptLayer": "ConceptLayerInfo", "Model": "ModelInfo",
    "NamedShare": "NamedShare", "ConceptSummary": "ConceptSummary", "ConceptPage": "ConceptPage",
    "ConceptExample": "ConceptExample", "Partner": "Partner", "Renaming": "Renaming", "ConceptDetail": "ConceptDetail",
    "EvidenceMap": "MapAnswer", "RgbaPicture": "PictureAnswer", "Relative": "Relative", "Synonym": "Synonym",
    "ConceptRelatives": "ConceptRelatives", "ConceptPart": "ConceptPart", "OtherParts": "OtherParts",
    "Segment": "Segment", "LabelMap": "LabelMap", "ActiveConcept": "ActiveConcept", "Patches": "Patches",
    "SegmentedImage": "SegmentedImage", "FoundImage": "FoundImage", "FoundImages": "FoundImages",
}  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flags")


@pytest.fixture(scope="module")
def address(concept_service: Service, store: Path) -> Iterator[str]:
    """A server whose flags are kept."""
    settings = concept_service.settings
    monitor = settings.monitor.model_copy(update={"feedback": str(store)})
    with serving(replace(concept_service, settings=settings.model_copy(update={"monitor": monitor}))) as served:
        yield served


@contextmanager
def serving(service: Service) -> Iterator[str]:
    """Address of a server on loopback in a thread."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(create_api(service), log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


@pytest.fixture(scope="module")
def pixels() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8)


@pytest.mark.parametrize(("ours", "theirs"), _SAME.items())
def test_types_are_those_of_the_api(ours: str, theirs: str) -> None:
    kind = next(getattr(module, ours) for module in (answers, descriptions, insight, maps) if hasattr(module, ours))
    fields = {field.name: field for field in dataclasses.fields(kind)}
    known = next(
        getattr(module, theirs).model_fields
        for module in (schemas, model_schemas, insight_schemas)
        if hasattr(module, theirs)
    )
    assert set(fields) == set(known)
    optional = {name for name, field in fields.items() if field.default is not dataclasses.MISSING}
    assert {name for name in known if not known[name].is_required()} >= optional - {"layer"}


def test_every_way_to_give_an_image(client: Client, pixels: np.ndarray[Any, Any], tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    file = tmp_path / "a.png"
    file.write_bytes(buffer.getvalue())
    [expected] = client.predict("concepts", buffer.getvalue(), classes=8)
    assert (expected.image.width, expected.image.height, len(expected.classes)) == (60, 50, 8)
    for image in (file, str(file), pixels):
        [found] = client.predict("concepts", image, classes=8)
        assert found.classes == expected.classes
    both = client.predict("concepts", [pixels, np.zeros((9, 9), np.uint8)], names=["bird"])
    assert len(both) == 2
    assert "bird" in [score.name for score in both[1].classes]
    with pytest.raises(ServiceError) as caught:
        client.predict("concepts", ImageAddress("https://pictures.example/a.png"))
    assert caught.value.status == 403
    with pytest.raises(FileNotFoundError):
        client.predict("concepts", tmp_path / "missing.png")


def test_explanations_and_their_maps(client: Client, pixels: np.ndarray[Any, Any]) -> None:
    """The same map as cells and as halves: cells are sums of the values of their pixels."""
    shown = {}
    for form in ("grid", "fp16"):
        [explanation] = client.explain("concepts", pixels, classes=1, map=form, rgba=True)
        [explained] = explanation.explained
        assert explained.map is not None
        shown[form] = explained.map.array()
        assert explained.map.sum == pytest.approx(float(shown[form].sum()), rel=2e-2, abs=1e-3)
        assert explained.rgba is not None
        assert Image.open(io.BytesIO(explained.rgba.png())).mode == "RGBA"
    assert shown["fp16"].shape == (48, 48)
    [explanation] = client.explain("concepts", pixels, map="link")
    assert explanation.explained[0].map is not None
    href = explanation.explained[0].map.href
    assert href is not None
    assert Image.open(io.BytesIO(client.fetch(href))).format == "PNG"


def test_traces_add_up_and_concepts_can_be_switched_off(client: Client, pixels: np.ndarray[Any, Any]) -> None:
    [trace] = client.trace("concepts", pixels, top=5, origins=True)
    traced = trace.traced[0]
    total = sum(concept.contribution for concept in traced.concepts) + traced.rest.contribution + traced.bias
    assert total == pytest.approx(traced.logit, abs=1e-3)
    first = traced.concepts[0]
    assert first.map is not None
    assert float(first.map.array().sum()) == pytest.approx(first.contribution, rel=1e-3, abs=1e-4)
    assert set(trace.active) == {"Mid2", "Final"}
    [changed] = client.intervene("concepts", pixels, [Change(first.id, 0.0, first.layer)], names=[traced.name])
    before, after = ({s.name: s.logit for s in scores}[traced.name] for scores in (changed.classes, changed.changed))
    assert before == pytest.approx(traced.logit, abs=1e-3)
    assert after != before


def test_a_batch_with_a_damaged_image(client: Client, pixels: np.ndarray[Any, Any]) -> None:
    images = [pixels, b"no image", pixels[::-1].copy(), pixels]
    done: list[int] = []
    lines = list(client.batch("plain", images, operation="explain", per_request=3, progress=done.append, map="none"))
    assert [(line.index, line.answer is None) for line in lines] == [(0, False), (1, True), (2, False), (3, False)]
    assert lines[1].problem is not None
    assert lines[1].problem.status == 422
    assert done == [1, 2, 3, 4]
    assert lines[0].version == lines[3].version
    [alone] = client.explain("plain", pixels, map="none")
    assert lines[0].answer.explained[0].logit == pytest.approx(alone.explained[0].logit, abs=1e-4)


def test_models_and_concepts(client: Client) -> None:
    assert client.ready()
    assert {model.name: [v.version for v in model.versions] for model in client.models()} == {
        "concepts": ["1"], "plain": ["a", "b"],
    }  # fmt: skip
    model = client.model("concepts")
    assert [layer.layer for layer in model.layers] == ["Mid2", "Final"]
    page = client.concepts("concepts", per_page=5, sort="id", query="1")
    assert [concept.id for concept in page.concepts] == [1, 10, 11, 12, 13]
    assert client.concept("concepts", 3, layer="Mid2").name == "concept 3"
    with pytest.raises(ServiceError, match="404: no concept 99"):
        client.concept("concepts", 99)
    with pytest.raises(ServiceError, match="422: .*printable"):
        client.rename("concepts", 3, "a\x00b")


def test_a_flag_is_stored(client: Client, store: Path, pixels: np.ndarray[Any, Any]) -> None:
    identity = client.flag("plain", pixels, "wrong_class", "bird", instead="fish", box=(1, 2, 30, 40), note="a fish")
    assert (store / "plain" / f"{identity}.json").exists()
    [entry] = [entry for entries in read_feedback(str(store / "plain")).splits.values() for entry in entries]
    assert entry.labels == (2,)


def test_the_same_with_asyncio(address: str, client: Client, pixels: np.ndarray[Any, Any]) -> None:
    async def ask() -> tuple[list[Prediction], list[int], str]:
        async with AsyncClient(address) as both:
            found = await asyncio.gather(*(both.predict("concepts", pixels) for _ in range(4)))
            lines = [line.index async for line in both.batch("concepts", [pixels] * 5, per_request=2)]
            page = await both.concepts("concepts", per_page=1)
            return [one[0] for one in found], lines, page.layer

    found, lines, layer = asyncio.run(ask())
    [expected] = client.predict("concepts", pixels)
    for one in found:
        assert one.classes[0].logit == pytest.approx(expected.classes[0].logit, abs=1e-4)
    assert lines == [0, 1, 2, 3, 4]
    assert layer == "Final"


def test_a_service_that_is_not_there() -> None:
    with socket.socket() as taken:  # bound, but nobody listens
        taken.bind(("127.0.0.1", 0))
        with Client(f"http://127.0.0.1:{taken.getsockname()[1]}", retry=Retry(attempts=2, first_s=0.01)) as client:
            assert not client.ready()
            with pytest.raises(ConnectionFailedError):
                client.models()


def test_the_example_of_the_readme(
    address: str, pixels: np.ndarray[Any, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.png"
    Image.fromarray(pixels).save(file)
    readme = Path(__file__).parents[2] / "clients" / "README.md"
    example = readme.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    for name, value in {"http://127.0.0.1:8000": address, '"bird.jpg"': repr(str(file)), "scenes": "concepts"}.items():
        assert name in example
        example = example.replace(name, value)
    shown: dict[str, Any] = {"many_files": [file, file]}
    exec(example, shown)
    assert shown["heatmap"].shape == (48, 48)
    assert {score.name for score in shown["changed"].changed} == {score.name for score in shown["changed"].classes}
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 1 + 5 + 2 * 2
    assert printed[-1].startswith("1 ")


def test_an_encoder_is_asked_with_and_without_asyncio(colour_models: dict[str, ModelSettings], make_service) -> None:
    service: Service = make_service(ServeSettings(models=colour_models))
    image = png_of(two_colours((255, 0, 0), (0, 0, 255)))
    with serving(service) as address:
        with Client(address) as client:
            [divided] = client.segment("colours", image, ["red", "blue"], background=["green"], top=1)
            found = client.search("colours", "yellow", count=2)
            assert client.search("colours", concepts=[1], count=1).images[0].concepts[0].id == 1
            assert [one.id for one in client.concepts("colours", parent=0).concepts] == [2, 1]
            detail = client.concept("colours", 2)
            picture = client.fetch(found.images[0].picture)

        async def ask() -> None:
            async with AsyncClient(address) as other:
                assert list(await other.segment("colours", image, ["red", "blue"], background=["green"], top=1)) == [
                    divided
                ]
                assert (await other.search("colours", "yellow", count=2)).images == found.images

        asyncio.run(ask())
    assert sorted(segment.label for segment in divided.segments) == ["blue", "red"]
    assert divided.map is not None and divided.patches is not None
    assert np.asarray(Image.open(io.BytesIO(divided.map.png)))[0, [0, 31]].tolist() == [1, 2]
    assert divided.patches.cells[0] == ((0, 1.0),)
    assert Image.open(io.BytesIO(picture)).format == "JPEG"
    assert detail.relatives is not None and [one.name for one in detail.relatives.parents] == ["red"]


def test_the_example_of_the_readme_about_encoders(
    colour_models: dict[str, ModelSettings], make_service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(png_of(two_colours((255, 0, 0), (0, 0, 255))))
    readme = Path(__file__).parents[2] / "clients" / "README.md"
    example = readme.read_text(encoding="utf-8").split("```python\n")[2].split("```")[0]
    with serving(make_service(ServeSettings(models=colour_models))) as address:
        for name, value in {
            "http://127.0.0.1:8000": address, '"bird.jpg"': repr(str(file)), '"named"': '"colours"',
            '["bird", "branch"]': '["red", "blue"]',
        }.items():  # fmt: skip
            assert name in example
            example = example.replace(name, value)
        exec(example, {})
    printed = capsys.readouterr().out.splitlines()
    # 39/16 of three columns between the centres; the fourth is more like the background, which is grey to this encoder
    assert "red 0.962 ['concept 0 +0.962']" in printed[:2]
    assert len(printed) > 2
