"""Many images in one request: ``POST /v1/models/{model}:batch``, whose answer is a line of JSON for each."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from raytrain_xai.errors import XaiError
from raytrain_xai.serving.jobs import ImageAnswer, Operation
from raytrain_xai.serving.served_model import ModelKey, ServedModel, split_key
from serve.answering import MOST_MAPS, answer, draw_of, find_model, question_of
from serve.answers import Answered, encode_answer
from serve.context import RequestContext, answered_by, request_context
from serve.inputs import Refused, Sent, read_inputs
from serve.intake import Intake, Opened, Seen
from serve.openapi import describe_batch
from serve.options import OPTIONS, Options, parse_options
from serve.problems import ProblemError, problem_content, problem_of
from serve.schemas import BatchLine, Prediction, Problem
from serve.service import Service

NDJSON = "application/x-ndjson"
_logger = logging.getLogger(__name__)
_FAILURES = (XaiError, ProblemError)


@dataclass(frozen=True)
class _Batch:
    """What all images of a request share.

    Attributes:
        name: of the model.
        version: that was asked for; None: each image draws one.
    """

    service: Service
    intake: Intake
    context: RequestContext
    name: str
    version: str | None
    options: Options

    def key(self, image: Opened) -> ModelKey:
        """The version that answers about an image."""
        return self.service.models.resolve(self.name, self.version, draw_of([image.sha256]))


@dataclass(frozen=True)
class _Line:
    """An image on its way to its line."""

    key: ModelKey | None
    found: tuple[ServedModel, Seen, ImageAnswer] | XaiError | ProblemError


def batch_routes(service: Service) -> APIRouter:
    """The route of batches."""
    router, intake = APIRouter(prefix="/v1/models", tags=["images"]), Intake(service)

    @router.post("/{model}:batch", **describe_batch())
    async def batch(  # pyright: ignore[reportUnusedFunction]
        model: str,
        operation: Operation,
        request: Request,
        context: Annotated[RequestContext, Depends(request_context)],
    ) -> StreamingResponse:
        inputs = await read_inputs(request, images=service.settings.limits.batch_images)
        query = request.query_params
        options = parse_options(OPTIONS[operation], query, inputs.parameters, besides=("operation",))
        name, version = split_key(model)
        asked = _Batch(service, intake, context, name, version, options)
        versions = await _check(asked)
        only = versions[0] if len(versions) == 1 else ""
        answered_by(request.scope, name, only)
        headers = {"X-Model-Version": only} if only else {}
        return StreamingResponse(_lines(asked, inputs.images), media_type=NDJSON, headers=headers)

    return router


async def _check(batch: _Batch) -> list[str]:
    """The versions that may have to answer; what is wrong with the question is refused before the answer begins."""
    shares = batch.service.models.shares(batch.name)
    versions = [version for version, share in shares.items() if share > 0] if batch.version is None else [batch.version]
    for version in versions:
        model = await find_model(batch.service, f"{batch.name}@{version}")
        question_of(batch.service, model, batch.options, 1)
    return versions


async def _lines(batch: _Batch, images: Sequence[Sent | Refused]) -> AsyncIterator[bytes]:
    """Lines of all images in their order; the next ones are worked on while some are sent."""
    most = MOST_MAPS // max(1, batch.options.pixel_maps)
    step = max(1, min(batch.service.settings.batch.images, most))
    starts = iter(range(0, len(images), step))
    ahead = asyncio.create_task(_part(batch, images[:step], next(starts)))
    try:
        for start in starts:
            done, ahead = ahead, asyncio.create_task(_part(batch, images[start : start + step], start))
            yield await done
        yield await ahead
    finally:
        ahead.cancel()


async def _part(batch: _Batch, images: Sequence[Sent | Refused], start: int) -> bytes:
    opened = await batch.intake.open(images)
    keys = [None if isinstance(image, Refused) else batch.key(image) for image in opened]
    groups: dict[ModelKey, list[int]] = defaultdict(list)
    for number, key in enumerate(keys):
        if key is not None:
            groups[key].append(number)
    found: dict[int, _Line] = {
        number: _Line(None, image) for number, image in enumerate(opened) if isinstance(image, Refused)
    }
    for key, numbers in groups.items():
        found |= zip(numbers, await _answered(batch, key, [opened[number] for number in numbers]), strict=True)
    lines = [found[number] for number in range(len(images))]
    return await run_in_threadpool(_encoded, batch, lines, start)


async def _answered(batch: _Batch, key: ModelKey, images: Sequence[Opened | Refused]) -> list[_Line]:
    """Images that one version answers about; where it fails, all of them have failed."""
    try:
        model = await find_model(batch.service, str(key))
        seen = await batch.intake.prepare(model, images)
        usable = [one for one in seen if isinstance(one, Seen)]
        question = question_of(batch.service, model, batch.options, len(usable))
        answers = iter(await answer(batch.service, batch.context, model, usable, question) if usable else [])
    except XaiError as error:
        return [_Line(key, error)] * len(images)
    return [_Line(key, (model, one, next(answers)) if isinstance(one, Seen) else one) for one in seen]


def _encoded(batch: _Batch, lines: Sequence[_Line], start: int) -> bytes:
    return b"".join(_line(batch, line, index) + b"\n" for index, line in enumerate(lines, start=start))


def _line(batch: _Batch, line: _Line, index: int) -> bytes:
    version = None if line.key is None else line.key.version
    failure = line.found
    if isinstance(failure, tuple):
        model, seen, found = failure
        answered = Answered([seen], [found], model.explainer.classes, batch.options)

        def wrap(shown: Sequence[Prediction]) -> bytes:
            (one,) = shown
            return BatchLine(index=index, version=version, answer=one).model_dump_json().encode()

        try:
            return encode_answer(
                answered, wrap, links=batch.service.links, most=batch.service.settings.limits.answer_bytes
            )
        except _FAILURES as error:
            failure = error
    problem = failure if isinstance(failure, ProblemError) else problem_of(failure)
    if problem.status >= 500:
        _logger.error("image %d of request %s failed", index, batch.context.request_id, exc_info=failure)
    content = Problem.model_validate(problem_content(problem, batch.context.request_id))
    return BatchLine(index=index, version=version, problem=content).model_dump_json().encode()
