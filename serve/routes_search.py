"""Images found by concept and by text: ``POST /v1/models/{model}:search``, and small pictures of them."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from raytrain_xai.errors import ConfigError
from raytrain_xai.serving.image_search import FoundImage, ImageSearch
from raytrain_xai.serving.served_insight import ServedInsight
from raytrain_xai.serving.served_model import split_key
from serve import insight_schemas as schemas
from serve.answering import find_insight
from serve.catalogues import reading_stored
from serve.context import RequestContext, answered_by, request_context
from serve.service import Service

_KEPT = "private, max-age=86400"
_JPEG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}
}


def search_routes(service: Service) -> APIRouter:
    """Routes of the images that were indexed."""
    router = APIRouter(prefix="/v1/models", tags=["insight"])

    @router.post("/{model}:search", summary="Images that show a concept, or what a text says", operation_id="search")
    async def search(  # pyright: ignore[reportUnusedFunction]
        model: str, request: Request, wanted: schemas.Search,
        context: Annotated[RequestContext, Depends(request_context)],
    ) -> schemas.FoundImages:  # fmt: skip
        if (wanted.text is None) == (not wanted.concepts):
            raise ConfigError("a search is for a text or for concepts; give one of them")
        served = await find_insight(service, model)
        answered_by(request.scope, served.key.name, served.key.version)
        index, found = await run_in_threadpool(_found, service, served, wanted)
        return schemas.FoundImages(
            model=served.key.name, version=served.key.version, request_id=context.request_id, split=index.split,
            indexed=len(index), images=[_shown(served, index, one) for one in found],
        )  # fmt: skip

    @router.get("/{model}/images/{number}.jpg", summary="A searched image", response_class=Response, responses=_JPEG)
    def picture(  # pyright: ignore[reportUnusedFunction]
        model: str, number: int, request: Request,
        split: Annotated[str | None, Query(max_length=40, description="As the answer of :search has it.")] = None,
    ) -> Response:  # fmt: skip
        key = service.models.resolve(*split_key(model), 0.0)
        answered_by(request.scope, key.name, key.version)
        with reading_stored():
            content = service.searches.of(key, split).picture(number)
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": _KEPT})

    return router


def _found(
    service: Service, served: ServedInsight, wanted: schemas.Search
) -> tuple[ImageSearch, list[FoundImage]]:  # fmt: skip
    vector = None if wanted.text is None else served.text_vector(wanted.text)  # a wrong text is no matter of storage
    with reading_stored():
        index = service.searches.of(served.key, wanted.split)
        if vector is None:
            return index, index.by_concept(served, wanted.concepts, wanted.count)
        return index, index.by_text(served, vector, wanted.count, top=wanted.top)


def _shown(served: ServedInsight, index: ImageSearch, found: FoundImage) -> schemas.FoundImage:
    hit, key = found.hit, served.key
    return schemas.FoundImage(
        number=found.number, id=hit.id, score=hit.score, box=hit.box,
        picture=f"/v1/models/{key.name}@{key.version}/images/{found.number}.jpg?split={quote(index.split)}",
        concepts=[
            schemas.ConceptPart(id=k, name=served.model.name(k), contribution=value)
            for k, value in hit.concepts.items()
        ],
    )  # fmt: skip
