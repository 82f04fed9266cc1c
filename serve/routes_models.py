"""What is served: ``GET /v1/models``, ``/v1/models/{model}``, and example images to try a model with."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.concurrency import run_in_threadpool

from raytrain_xai.errors import NotFoundError
from raytrain_xai.serving.concept_view import ConceptView
from raytrain_xai.serving.model_store import Served
from raytrain_xai.serving.served_insight import ServedInsight
from raytrain_xai.serving.served_model import ModelKey
from serve.answering import find_served, method_of
from serve.catalogues import ServedConcepts, reading_stored
from serve.context import answered_by
from serve.model_schemas import ConceptLayerInfo, ModelInfo, Models, ModelSummary, VersionInfo
from serve.service import Service

_KEPT = "private, max-age=86400"  # images of a catalogue do not change
_JPEG: dict[int | str, dict[str, Any]] = {
    200: {"content": {"image/jpeg": {"schema": {"type": "string", "format": "binary"}}}}
}


def model_routes(service: Service) -> APIRouter:
    """Routes that tell about models."""
    router = APIRouter(prefix="/v1/models", tags=["models"])

    @router.get("", summary="Models and their versions")
    async def models() -> Models:  # pyright: ignore[reportUnusedFunction]
        return Models(models=[_summary(service, name) for name in service.models.names()])

    @router.get("/{model}", summary="One model; loads it where it is not loaded")
    async def model(model: str, request: Request) -> ModelInfo:  # pyright: ignore[reportUnusedFunction]
        loaded = await find_served(service, model)
        answered_by(request.scope, loaded.key.name, loaded.key.version)
        return await run_in_threadpool(_info, service, loaded)

    @router.get("/{model}/samples/{number}", summary="An example image", response_class=Response, responses=_JPEG)
    def sample(model: str, number: int, request: Request) -> Response:  # pyright: ignore[reportUnusedFunction]
        served = service.catalogues.of(model)
        answered_by(request.scope, served.key.name, served.key.version)
        view = _with_samples(served)
        if view is None:
            raise NotFoundError(f"{served.key.name} has no example images; they come with a concept catalogue")
        with reading_stored():
            return Response(view.image(number), media_type="image/jpeg", headers={"Cache-Control": _KEPT})

    return router


def _summary(service: Service, name: str) -> ModelSummary:
    loaded = service.models.loaded()
    versions = [
        VersionInfo(version=version, weight=share, loaded=ModelKey(name, version) in loaded)
        for version, share in service.models.shares(name).items()
    ]
    return ModelSummary(name=name, versions=versions)


def _info(service: Service, model: Served) -> ModelInfo:
    served = service.catalogues.of(str(model.key))
    with_samples = _with_samples(served)
    layers = [
        ConceptLayerInfo(
            layer=layer, concepts=view.num_concepts, per_position=view.per_position, named=len(view.names),
            catalogue=view.has_catalogue, relations=view.has_relations,
        )
        for layer, view in served.views.items()
    ]  # fmt: skip
    return ModelInfo(
        **_summary(service, model.key.name).model_dump(),
        **_nature(model),
        version=model.key.version,
        layers=layers,
        samples=0 if with_samples is None else with_samples.num_images,
        operations=list(model.operations),
    )


def _nature(model: Served) -> dict[str, Any]:
    """Fields of :class:`ModelInfo` that depend on what kind of model it is."""
    if isinstance(model, ServedInsight):
        return {
            "classes": [], "exclusive": True, "architecture": model.model.encoder.name, "image_size": model.image_size,
            "preprocessing": "bilinear with antialiasing, the whole picture to a square",
            "method": "contributions of concepts to cosines",
        }  # fmt: skip
    explainer = model.explainer
    return {
        "classes": list(explainer.classes), "exclusive": explainer.exclusive, "architecture": explainer.network.name,
        "image_size": explainer.image_size, "preprocessing": explainer.preprocessing["resize"],
        "method": method_of(model),
    }  # fmt: skip


def _with_samples(served: ServedConcepts) -> ConceptView | None:
    """The last concept layer whose catalogue has images."""
    return next((view for view in reversed(list(served.views.values())) if view.num_images), None)
