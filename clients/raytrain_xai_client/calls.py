"""Requests of the API as data: what is sent, and how its answer is read. Nothing here touches a network."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

import httpx

from raytrain_xai_client.answers import (
    Answers,
    BatchLine,
    Change,
    Explanation,
    Intervention,
    Prediction,
    Problem,
    Timing,
    Trace,
)
from raytrain_xai_client.decoding import decode
from raytrain_xai_client.descriptions import ConceptDetail, ConceptPage, Model, ModelSummary
from raytrain_xai_client.errors import AnswerError, ServiceError
from raytrain_xai_client.images import ImageAddress, ImageInput, as_list, encoded, instances
from raytrain_xai_client.insight import FoundImages, SegmentedImage
from raytrain_xai_client.retry import retry_after

_Result = TypeVar("_Result")
_Kind = TypeVar("_Kind")

Operation = Literal["predict", "explain", "trace", "intervene"]
_ANSWERS: Mapping[str, tuple[str, type[Any]]] = {
    "predict": ("predictions", Prediction), "explain": ("explanations", Explanation), "trace": ("traces", Trace),
    "intervene": ("interventions", Intervention), "segment": ("segmentations", SegmentedImage),
}  # fmt: skip


@dataclass(frozen=True)
class Call(Generic[_Result]):
    """A request and how its answer is read.

    Attributes:
        repeatable: doing it twice does no harm.
        read: result of a successful answer.
    """

    method: str
    path: str
    read: Callable[[httpx.Response], _Result]
    params: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)
    repeatable: bool = True

    def request(self, http: httpx.Client | httpx.AsyncClient, headers: Mapping[str, str]) -> httpx.Request:
        """For a client that knows the address of the service."""
        return http.build_request(self.method, self.path, params=dict(self.params), headers=dict(headers), **self.body)


def list_models() -> Call[tuple[ModelSummary, ...]]:
    """All models."""
    return Call(
        "GET", "/v1/models", lambda response: tuple(decode(ModelSummary, one) for one in _json(response)["models"])
    )


def show_model(model: str) -> Call[Model]:
    """One version of a model."""
    return Call("GET", _of(model), lambda response: decode(Model, _json(response)))


def ask(
    model: str, operation: Operation | Literal["segment"], images: ImageInput | Iterable[ImageInput],
    options: Mapping[str, Any],
) -> Call[Answers[Any]]:  # fmt: skip
    """An operation on images."""
    key, kind = _ANSWERS[operation]

    def read(response: httpx.Response) -> Answers[Any]:
        content = _json(response)
        if not isinstance(content.get(key), list):
            raise AnswerError(f"the answer has no {key}")
        return Answers(
            model=str(content.get("model")), version=str(content.get("version")),
            request_id=str(content.get("request_id")), timing_ms=decode(Timing, content.get("timing_ms")),
            images=tuple(decode(kind, one) for one in content[key]),
        )  # fmt: skip

    sent = [encoded(image) for image in as_list(images)]
    return Call("POST", f"{_of(model)}:{operation}", read, body=_body(sent, options))


def segment(
    model: str, images: ImageInput | Iterable[ImageInput], options: Mapping[str, Any]
) -> Call[Answers[SegmentedImage]]:
    """Images divided by labels."""
    return ask(model, "segment", images, options)


def search_images(model: str, wanted: Mapping[str, Any]) -> Call[FoundImages]:
    """Images that show a concept, or what a text says."""
    return Call(
        "POST", f"{_of(model)}:search", lambda response: decode(FoundImages, _json(response)),
        body={"json": given(wanted)},
    )  # fmt: skip


def ask_batch(
    model: str, operation: Operation, images: Sequence[bytes | ImageAddress], options: Mapping[str, Any]
) -> Call[None]:
    """An operation on many images, whose answer is read line by line with :func:`read_line`."""
    params = {"operation": operation}
    return Call("POST", f"{_of(model)}:batch", lambda _: None, params=params, body=_body(images, options))


def read_line(operation: Operation, line: str, number: int) -> BatchLine[Any]:
    """The image with a number in the answer of a batch.

    Raises:
        AnswerError: no such line, or that of another image.
    """
    try:
        content = json.loads(line)
    except ValueError as error:
        raise AnswerError(f"a line of the answer is no JSON: {line[:80]!r}") from error
    if not isinstance(content, dict) or content.get("index") != number:
        raise AnswerError(f"the line of image {number} is another: {line[:80]!r}")
    answer, problem = content.get("answer"), content.get("problem")
    return BatchLine(
        index=number, version=content.get("version"),
        answer=None if answer is None else decode(_ANSWERS[operation][1], answer),
        problem=None if problem is None else decode(Problem, problem),
    )  # fmt: skip


def find_concepts(model: str, params: Mapping[str, Any]) -> Call[ConceptPage]:
    """A page of concepts."""
    path = f"{_of(model)}/concepts"
    return Call("GET", path, lambda response: decode(ConceptPage, _json(response)), params=given(params))


def show_concept(model: str, concept: int, layer: str | None) -> Call[ConceptDetail]:
    """One concept."""
    path = f"{_of(model)}/concepts/{concept}"
    return Call("GET", path, lambda response: decode(ConceptDetail, _json(response)), params=given({"layer": layer}))


def rename_concept(model: str, concept: int, name: str, layer: str | None) -> Call[ConceptDetail]:
    """A name for a concept; giving it twice is as giving it once."""
    return Call(
        "PATCH", f"{_of(model)}/concepts/{concept}", lambda response: decode(ConceptDetail, _json(response)),
        params=given({"layer": layer}), body={"json": {"name": name}},
    )  # fmt: skip


def flag_answer(model: str, image: ImageInput, judgement: Mapping[str, Any]) -> Call[str]:
    """A judgement about an answer; sent twice it would be stored twice."""
    return Call(
        "POST", f"{_of(model)}:flag", lambda response: str(_json(response)["id"]),
        body=_body([encoded(image)], judgement), repeatable=False,
    )  # fmt: skip


def fetch_content(href: str) -> Call[bytes]:
    """A picture that an answer links to.

    Raises:
        ValueError: an address of another service, which must not get the key.
    """
    if not href.startswith("/") or href.startswith("//"):
        raise ValueError(f"{href!r} is not a link of this service")
    return Call("GET", href, lambda response: response.content)


def read_health() -> Call[bool]:
    """Whether models are loaded."""
    return Call("GET", "/readyz", lambda _: True, repeatable=False)


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that have a value; without one the service decides."""
    return {name: value for name, value in options.items() if value is not None and value != ()}


def changes_of(changes: Iterable[Change]) -> list[dict[str, Any]]:
    """Changes of concepts as JSON."""
    return [given({"layer": change.layer, "concept": change.concept, "factor": change.factor}) for change in changes]


def problem_of(response: httpx.Response) -> ServiceError:
    """What a refusal says, whoever sent it; its body was read."""
    try:
        content = json.loads(response.content)
    except ValueError:
        content = None
    if not isinstance(content, dict):
        content = {"detail": response.text[:200].strip() or response.reason_phrase}
    detail, request_id = str(content.get("detail", response.reason_phrase)), str(content.get("request_id", ""))
    return ServiceError(response.status_code, detail, request_id, retry_after(response))


def _of(model: str) -> str:
    return f"/v1/models/{quote(model, safe='@')}"


def _body(images: Sequence[bytes | ImageAddress], options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of httpx: a form, whose files base64 does not make a third larger; JSON where there are addresses."""
    parameters = given(options)
    if any(isinstance(image, ImageAddress) for image in images):
        return {"json": {"instances": instances(images), "parameters": parameters}}
    files = [("image", (f"{number}", image, "application/octet-stream")) for number, image in enumerate(images)]
    return {"files": files, "data": {"parameters": json.dumps(parameters)}}


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        content = json.loads(response.content)
    except ValueError as error:
        raise AnswerError(f"the answer is no JSON: {response.text[:80]!r}") from error
    if not isinstance(content, dict):
        raise AnswerError("the answer is no JSON object")
    return content
