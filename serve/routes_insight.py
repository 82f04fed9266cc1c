"""Questions to encoders with named concepts: ``POST /v1/models/{model}:segment``."""

from __future__ import annotations

import time
from typing import Annotated

import torch
from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from raytrain_xai.serving.engine import SegmentJob
from serve.answering import draw_of, find_insight, milliseconds_since
from serve.context import RequestContext, answered_by, request_context
from serve.inputs import read_inputs
from serve.insight_answers import segmented_images
from serve.insight_options import SegmentOptions
from serve.insight_schemas import Segmentations
from serve.intake import Intake, none_refused
from serve.openapi import describe_options
from serve.options import parse_options
from serve.problems import ProblemError
from serve.schemas import Timing
from serve.service import Service

_EXAMPLE = {"label": ["dog", "grass"], "background": ["sky"]}


def insight_routes(service: Service) -> APIRouter:
    """Routes that answer about images by text."""
    router, intake = APIRouter(prefix="/v1/models", tags=["insight"]), Intake(service)
    limits = service.settings.limits

    @router.post(
        "/{model}:segment", summary="Which pixels show what, by which concepts, and the concepts of every patch",
        operation_id="segment", response_model=Segmentations, **describe_options(SegmentOptions, _EXAMPLE),
    )  # fmt: skip
    async def segment(  # pyright: ignore[reportUnusedFunction]
        model: str, request: Request, context: Annotated[RequestContext, Depends(request_context)]
    ) -> Response:
        inputs = await read_inputs(request, images=limits.images)
        options = parse_options(SegmentOptions, request.query_params, inputs.parameters)
        started = time.monotonic()
        images = none_refused(await intake.open(inputs.images))
        served = await find_insight(service, model, draw_of([image.sha256 for image in images]))
        answered_by(request.scope, served.key.name, served.key.version)
        question = options.question(limits)
        served.check(question)
        seen = none_refused(await intake.prepare(served, images))
        decoded = time.monotonic()
        answers = await service.infer(SegmentJob(served, torch.stack([one.image for one in seen]), question))
        computed = time.monotonic()

        def body() -> bytes:
            shown = segmented_images(seen, answers, options)
            timing = Timing(
                decode=round(1000 * (decoded - started), 3), queue_and_compute=round(1000 * (computed - decoded), 3),
                render=milliseconds_since(computed), total=milliseconds_since(context.received),
            )  # fmt: skip
            answer = Segmentations(
                model=served.key.name, version=served.key.version, request_id=context.request_id, timing_ms=timing,
                segmentations=shown,
            )  # fmt: skip
            return answer.model_dump_json().encode()

        content = await run_in_threadpool(body)
        if len(content) > limits.answer_bytes:
            raise ProblemError(
                422,
                f"the answer has {len(content)} bytes, at most {limits.answer_bytes} are sent; ask for fewer images, "
                "or with patches=false",
            )
        return Response(content, media_type="application/json", headers={"X-Model-Version": served.key.version})

    return router
