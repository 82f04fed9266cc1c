"""The client against answers made up for it: what is sent again and when, what is sent at all, how answers are read."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from raytrain_xai_client import (
    AnswerError,
    AsyncClient,
    Change,
    Client,
    ConnectionFailedError,
    EvidenceMap,
    ImageAddress,
    Retry,
    ServiceError,
)
from raytrain_xai_client.images import grouped, png_of

TIMING = {"decode": 1.0, "queue_and_compute": 2, "render": 0.5, "total": 4.0}
IMAGE = {"sha256": "ab", "width": 4, "height": 3, "seen": [0, 0, 4, 3]}
SCORE = {"index": 1, "name": "bird", "logit": 2.5, "probability": 0.9}
PREDICTION = {"image": IMAGE, "classes": [SCORE]}
PREDICTIONS = {
    "model": "m", "version": "1", "request_id": "r", "timing_ms": TIMING, "predictions": [PREDICTION], "new": "field",
}  # fmt: skip
Reply = httpx.Response | httpx.TransportError
LOST_REPLICA = httpx.Response(500, text="Internal Server Error")  # as the proxy of Ray Serve says it


@dataclass
class Service:
    """Gives replies one after the other, the last one for ever, and remembers requests and waits."""

    replies: list[Reply]
    requests: list[httpx.Request]
    waits: list[float]

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
        if isinstance(reply, httpx.TransportError):
            raise reply
        return reply


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Service]]:
    """``service(reply, ...)``; time stands still but for the waits of the client, and chance is 1."""
    clock = [1000.0]
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        clock[0] += seconds

    async def wait_in_loop(seconds: float) -> None:
        wait(seconds)

    monkeypatch.setattr("raytrain_xai_client.exchange.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("raytrain_xai_client.client.time.sleep", wait)
    monkeypatch.setattr("raytrain_xai_client.async_client.asyncio.sleep", wait_in_loop)
    monkeypatch.setattr("raytrain_xai_client.retry.random.uniform", lambda _, high: high)
    yield lambda *replies: Service(list(replies), [], waits)


def client_of(service: Service, **options: Any) -> Client:
    return Client("http://service:8000/base", transport=httpx.MockTransport(service), **options)


def ok(content: Any = PREDICTIONS) -> httpx.Response:
    return httpx.Response(200, json=content)


def busy(status: int = 503, **headers: str) -> httpx.Response:
    problem = {"status": status, "detail": "full; try again", "request_id": "abc"}
    return httpx.Response(status, json=problem, headers=headers)


def test_an_answer_is_read_and_unknown_keys_are_left_out(service: Callable[..., Service]) -> None:
    made_up = service(ok())
    answers = client_of(made_up).predict("m", b"x")
    assert (answers.model, answers.version, answers.request_id, len(answers)) == ("m", "1", "r", 1)
    assert answers.timing_ms.queue_and_compute == 2.0
    [prediction] = answers
    assert prediction is answers[0]
    assert prediction.image.seen == (0, 0, 4, 3)
    assert (prediction.classes[0].name, prediction.classes[0].probability) == ("bird", 0.9)
    assert str(made_up.requests[0].url) == "http://service:8000/base/v1/models/m:predict"


@pytest.mark.parametrize(
    "failure", [busy(), busy(408), busy(429), busy(502), busy(504), LOST_REPLICA, httpx.ReadError("cut")]
)
def test_what_may_work_again_is_sent_again(service: Callable[..., Service], failure: Reply) -> None:
    made_up = service(failure, failure, ok())
    assert client_of(made_up, retry=Retry(first_s=0.5)).predict("m", b"x")[0].classes[0].name == "bird"
    assert made_up.waits == [0.5, 1.0]
    assert len(made_up.requests) == 3
    assert made_up.requests[0].content != b""
    bodies = {request.content.replace(_boundary(request), b"") for request in made_up.requests}
    assert len(bodies) == 1


def _boundary(request: httpx.Request) -> bytes:
    return request.headers["content-type"].partition("boundary=")[2].encode()


def test_the_service_says_how_long_to_wait(service: Callable[..., Service]) -> None:
    made_up = service(busy(**{"Retry-After": "3"}), ok())
    client_of(made_up, retry=Retry(first_s=0.5)).predict("m", b"x")
    assert made_up.waits == [3.5]


def test_dates_to_wait_for_and_waits_that_are_too_long(service: Callable[..., Service]) -> None:
    past = service(busy(**{"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}), ok())
    client_of(past, retry=Retry(first_s=0.5)).predict("m", b"x")
    assert past.waits == [0.5]
    nonsense = service(busy(**{"Retry-After": "soon"}), ok())
    client_of(nonsense, retry=Retry(first_s=0.5)).predict("m", b"x")
    assert nonsense.waits == [0.5, 0.5]
    long = service(busy(429, **{"Retry-After": "3600"}), ok())
    with pytest.raises(ServiceError) as caught:
        client_of(long).predict("m", b"x")
    assert (caught.value.status, caught.value.retry_after, len(long.requests)) == (429, 3600.0, 1)


def test_attempts_come_to_an_end(service: Callable[..., Service]) -> None:
    made_up = service(busy())
    with pytest.raises(ServiceError, match=r"503: full; try again \(request abc\)"):
        client_of(made_up, retry=Retry(attempts=4, first_s=1.0, most_s=2.0)).predict("m", b"x")
    assert made_up.waits == [1.0, 2.0, 2.0]
    lost = service(httpx.ConnectError("refused"))
    with pytest.raises(ConnectionFailedError, match="no answer from the service: refused"):
        client_of(lost, retry=Retry(attempts=1)).predict("m", b"x")
    assert len(lost.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 413, 415, 422, 500])
def test_what_is_wrong_stays_wrong(service: Callable[..., Service], status: int) -> None:
    made_up = service(busy(status))
    with pytest.raises(ServiceError) as caught:
        client_of(made_up).model("m")
    assert (caught.value.status, caught.value.detail, caught.value.request_id) == (status, "full; try again", "abc")
    assert len(made_up.requests) == 1


def test_a_flag_is_sent_again_only_if_it_was_certainly_not_stored(service: Callable[..., Service]) -> None:
    for failure in (busy(503), busy(502), LOST_REPLICA, httpx.ReadTimeout("late"), httpx.RemoteProtocolError("cut")):
        made_up = service(failure, ok({"id": "f1"}))
        with pytest.raises((ServiceError, ConnectionFailedError)):
            client_of(made_up).flag("m", b"x", "wrong_reason", "bird")
        assert len(made_up.requests) == 1
    for failure in (busy(429), httpx.ConnectError("refused"), httpx.ConnectTimeout("late")):
        made_up = service(failure, ok({"id": "f1"}))
        assert client_of(made_up).flag("m", b"x", "wrong_reason", "bird") == "f1"


def test_a_deadline_is_told_and_kept(service: Callable[..., Service]) -> None:
    made_up = service(busy(**{"Retry-After": "4"}), busy(**{"Retry-After": "4"}), ok())
    with pytest.raises(ServiceError):
        client_of(made_up, deadline_s=8.0, retry=Retry(first_s=0.0)).predict("m", b"x")
    assert [request.headers["x-deadline-ms"] for request in made_up.requests] == ["7800", "3800"]
    assert [request.extensions["timeout"]["read"] for request in made_up.requests] == [8.0, 4.0]
    assert made_up.waits == [4.0]
    unhurried = service(ok())
    client_of(unhurried, timeout_s=7.0).predict("m", b"x")
    assert "x-deadline-ms" not in unhurried.requests[0].headers
    assert unhurried.requests[0].extensions["timeout"]["read"] == 7.0
    short = service(ok())
    client_of(short, deadline_s=0.01).predict("m", b"x")
    assert short.requests[0].headers["x-deadline-ms"] == "9"


def test_keys_stay_with_their_service(service: Callable[..., Service]) -> None:
    elsewhere = httpx.Response(302, headers={"Location": "https://evil.example/"})
    made_up = service(elsewhere)
    client = client_of(made_up, key="secret")
    with pytest.raises(ServiceError, match="302"):
        client.model("m")
    assert made_up.requests[0].headers["authorization"] == "Bearer secret"
    assert [request.url.host for request in made_up.requests] == ["service"]
    for href in ("https://evil.example/a.png", "//evil.example/a.png", "v1/maps/a.png"):
        with pytest.raises(ValueError, match="is not a link of this service"):
            client.fetch(href)
    assert len(made_up.requests) == 1


def test_images_and_options_travel_as_a_form(service: Callable[..., Service]) -> None:
    made_up = service(ok())
    client_of(made_up).predict("a b@2", [b"one", b"two"], classes=3, names=["bird", "fish"])
    [request] = made_up.requests
    assert request.url.raw_path == b"/base/v1/models/a%20b@2:predict"
    parts = request.content.split(b"--" + _boundary(request))
    assert [part.partition(b"\r\n\r\n")[2].strip() for part in parts[1:-1]] == [
        b'{"classes": 3, "class": ["bird", "fish"]}', b"one", b"two",
    ]  # fmt: skip
    assert [b'name="image"' in part for part in parts[1:-1]] == [False, True, True]


def test_addresses_travel_as_json(service: Callable[..., Service]) -> None:
    made_up = service(ok())
    client_of(made_up).predict("m", [ImageAddress("https://pictures.example/a.jpg"), b"one"])
    assert json.loads(made_up.requests[0].content) == {
        "instances": [{"url": "https://pictures.example/a.jpg"}, {"b64": base64.b64encode(b"one").decode()}],
        "parameters": {},
    }


def test_changes_and_judgements(service: Callable[..., Service]) -> None:
    made_up = service(ok({**PREDICTIONS, "interventions": [{**PREDICTION, "changed": [SCORE]}]}))
    [answer] = client_of(made_up).intervene("m", b"x", [Change(3, 0), Change(4, 0.5, "Mid2")])
    assert answer.changed[0].logit == 2.5
    expected = b'{"change": [{"concept": 3, "factor": 0}, {"layer": "Mid2", "concept": 4, "factor": 0.5}]}'
    assert expected in made_up.requests[0].content
    made_up = service(ok({"id": "f1"}))
    client_of(made_up).flag("m", b"x", "wrong_class", "bird", instead="fish", box=(0, 1, 2, 3), note="n")
    expected = b'{"verdict": "wrong_class", "class": "bird", "instead": "fish", "note": "n", "box": [0, 1, 2, 3]}'
    assert expected in made_up.requests[0].content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({**PREDICTIONS, "predictions": None}, "no predictions"),
        ({**PREDICTIONS, "timing_ms": {}}, "Timing of the answer has no decode, queue_and_compute, render, total"),
        ({**PREDICTIONS, "predictions": [{"image": IMAGE}]}, "Prediction of the answer has no classes"),
        (
            {**PREDICTIONS, "predictions": [{**PREDICTION, "classes": [{**SCORE, "logit": "2"}]}]},
            r"classes\[0\]\.logit",
        ),
        ({**PREDICTIONS, "predictions": [{**PREDICTION, "image": {**IMAGE, "seen": [1]}}]}, "seen .*expected 4"),
        ({**PREDICTIONS, "predictions": [[]]}, "expected an object"),
        ([], "no JSON object"),
    ],
)
def test_answers_of_another_form(service: Callable[..., Service], content: Any, message: str) -> None:
    with pytest.raises(AnswerError, match=message):
        client_of(service(ok(content))).predict("m", b"x")


def test_answers_that_come_from_something_before_the_service(service: Callable[..., Service]) -> None:
    with pytest.raises(AnswerError, match="no JSON: '<html>"):
        client_of(service(httpx.Response(200, text="<html>"))).predict("m", b"x")
    with pytest.raises(ServiceError, match="403: <h1>no</h1>$"):
        client_of(service(httpx.Response(403, text="<h1>no</h1>"))).predict("m", b"x")
    with pytest.raises(ServiceError, match="404: Not Found$"):
        client_of(service(httpx.Response(404))).predict("m", b"x")


def lines(*numbers: int, problem: int | None = None) -> bytes:
    made = [
        {"index": n, "version": "1", "answer": None if n == problem else PREDICTION,
         "problem": {"status": 422, "detail": "damaged"} if n == problem else None}
        for n in numbers
    ]  # fmt: skip
    return b"".join(json.dumps(line).encode() + b"\n" for line in made)


class Cut(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body whose connection is lost after its content."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        yield self._content
        raise httpx.RemoteProtocolError("peer closed connection")

    async def __aiter__(self) -> Any:
        yield self._content
        raise httpx.RemoteProtocolError("peer closed connection")


def sent_images(service: Service) -> list[int]:
    return [request.content.count(b'name="image"') for request in service.requests]


def batch_replies() -> list[Reply]:
    """Two requests of three and two images: refused, lost after one image, ended early, finished; then the rest."""
    return [
        busy(),
        httpx.Response(200, stream=Cut(lines(0))),
        httpx.Response(200, content=lines(0)),
        httpx.Response(200, content=lines(0)),
        httpx.Response(200, content=lines(0, 1, problem=1)),
    ]


def test_a_batch_goes_on_behind_the_last_answer(service: Callable[..., Service]) -> None:
    made_up, done = service(*batch_replies()), list[int]()
    images = iter([b"a", b"b", b"c", b"d", b"e"])
    found = list(client_of(made_up).batch("m", images, per_request=3, progress=done.append, classes=2))
    assert [line.index for line in found] == [0, 1, 2, 3, 4]
    assert done == [1, 2, 3, 4, 5]
    assert [line.answer is None for line in found] == [False, False, False, False, True]
    assert found[4].problem is not None
    assert found[4].problem.detail == "damaged"
    assert sent_images(made_up) == [3, 3, 2, 1, 2]
    assert {request.url.params["operation"] for request in made_up.requests} == {"predict"}
    assert all(b'{"classes": 2}' in request.content for request in made_up.requests)
    assert made_up.waits == [0.25, 0.25, 0.25]  # after a step forward, the next failure is a first one


def test_a_batch_that_makes_no_progress_ends(service: Callable[..., Service]) -> None:
    made_up = service(httpx.Response(200, content=b""))
    with pytest.raises(ConnectionFailedError, match="ended before all images"):
        list(client_of(made_up, retry=Retry(attempts=3)).batch("m", [b"a"]))
    assert len(made_up.requests) == 3
    for content in (lines(1), b"[]\n", b"{\n"):
        with pytest.raises(AnswerError):
            list(client_of(service(httpx.Response(200, content=content))).batch("m", [b"a", b"b"]))
    with pytest.raises(ServiceError, match="422"):
        list(client_of(service(busy(422))).batch("m", [b"a"]))


def test_the_same_with_asyncio(service: Callable[..., Service]) -> None:
    made_up = service(busy(**{"Retry-After": "3"}), httpx.ReadError("cut"), ok())

    async def ask() -> None:
        async with AsyncClient("http://service", transport=httpx.MockTransport(made_up)) as client:
            assert (await client.predict("m", b"x"))[0].classes[0].name == "bird"

    asyncio.run(ask())
    assert made_up.waits == [3.25, 0.5]
    batch, done = service(*batch_replies()), list[int]()

    async def ask_many() -> list[int]:
        async with AsyncClient("http://service", transport=httpx.MockTransport(batch)) as client:
            images = [b"a", b"b", b"c", b"d", b"e"]
            return [line.index async for line in client.batch("m", images, per_request=3, progress=done.append)]

    assert asyncio.run(ask_many()) == [0, 1, 2, 3, 4]
    assert done == [1, 2, 3, 4, 5]
    assert sent_images(batch) == [3, 3, 2, 1, 2]


def test_ready(service: Callable[..., Service]) -> None:
    assert client_of(service(ok({}))).ready()
    for failure in (busy(), httpx.ConnectError("refused")):
        made_up = service(failure)
        assert not client_of(made_up).ready()


def test_groups_of_a_batch() -> None:
    sizes = [3, 3, 3, 9, 1, 1, 1, 1]
    groups = list(grouped([b"x" * size for size in sizes], 3, 7))
    assert [[len(image) for image in group] for group in groups if isinstance(group[0], bytes)] == [
        [3, 3], [3], [9], [1, 1, 1], [1],
    ]  # fmt: skip
    assert list(grouped([], 3, 7)) == []


@pytest.mark.parametrize("shape", [(5, 7, 3), (5, 7)])
def test_arrays_become_png(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png_of(pixels)))), pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(png_of(pixels[:, ::2])))), pixels[:, ::2])


@pytest.mark.parametrize("pixels", [np.zeros((5, 7, 4), np.uint8), np.zeros((5, 7)), np.zeros(5, np.uint8)])
def test_other_arrays_are_refused(pixels: np.ndarray[Any, Any]) -> None:
    with pytest.raises(ValueError, match="uint8, got"):
        png_of(pixels)


def test_maps_as_numbers() -> None:
    about: dict[str, Any] = {"at": "pixels", "height": 2, "width": 3, "sum": 0.0, "missing": 0.0, "scale": 1.0}
    halves = np.array([[1, -2, 0.5], [0, 4, 8]], dtype="<f2")
    packed = EvidenceMap("fp16", **about, data=base64.b64encode(halves.tobytes()).decode(), unit=1000.0)
    np.testing.assert_array_equal(packed.array(), [[1000, -2000, 500], [0, 4000, 8000]])
    assert packed.array().dtype == np.float32
    grid = EvidenceMap("grid", **about, values=((1.0, 2.0, 3.0), (4.0, 5.0, 6.0)))
    np.testing.assert_array_equal(grid.array(), [[1, 2, 3], [4, 5, 6]])
    link = EvidenceMap("link", **about, href="/v1/maps/a.png")
    with pytest.raises(AnswerError, match="sent as link holds no numbers"):
        link.array()
    with pytest.raises(AnswerError, match="sent as grid holds no picture"):
        grid.png()
    assert EvidenceMap("overlay", **about, data=base64.b64encode(b"png").decode()).png() == b"png"
