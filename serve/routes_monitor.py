"""What monitoring knows: ``/metrics`` of this replica for Prometheus, and drift of the concepts of a model."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from raytrain_xai.errors import NotFoundError
from raytrain_xai.monitoring.drift import DriftReport, WindowDrift
from raytrain_xai.serving.concept_view import ConceptView
from raytrain_xai.serving.model_store import ModelKey
from serve.catalogues import reading_stored
from serve.context import answered_by
from serve.meter import MEDIA_TYPE
from serve.model_schemas import ConceptDrift, Drift, DriftWindow
from serve.service import Service

_DAY_S = 86400.0


def monitor_routes(service: Service) -> APIRouter:
    """Routes for those who look after a service."""
    router = APIRouter(tags=["monitoring"])

    @router.get(
        "/metrics",
        summary="Numbers of this replica for Prometheus",
        response_class=Response,
        responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    )
    def metrics() -> Response:  # pyright: ignore[reportUnusedFunction]
        return Response(service.meter.page(), media_type=MEDIA_TYPE)

    @router.get("/v1/models/{model}/drift", summary="Whether the concepts of answered images are those of training")
    def drift(  # pyright: ignore[reportUnusedFunction]
        request: Request,
        model: str,
        since: Annotated[
            float | None, Query(ge=0, description="Seconds since 1970; a day ago when it is not given.")
        ] = None,
        layer: Annotated[str | None, Query(max_length=200, description="Concept layer; the last one only.")] = None,
        top: Annotated[int, Query(ge=1, le=1000, description="Concepts listed, largest index first.")] = 100,
    ) -> Drift:
        if service.drift is None:
            raise NotFoundError("this service does not follow what its models answer")
        served = service.catalogues.of(model)
        view = served.view(layer)
        with reading_stored():
            reference = service.drift.reference(served.key.name, served.key.version)
            if view.layer != reference.layer:
                raise NotFoundError(f"drift is followed at the last concept layer only, {reference.layer}")
            start = time.time() - _DAY_S if since is None else since
            report = service.drift.report(served.key.name, served.key.version, since=start)
        answered_by(request.scope, served.key.name, served.key.version)
        return _drift(served.key, view, report, top)

    return router


def _drift(key: ModelKey, view: ConceptView, report: DriftReport, top: int) -> Drift:
    return Drift(
        model=key.name, version=key.version, layer=view.layer, images=report.images, since=report.since,
        until=report.until, shifted=report.shifted, concepts=_concepts(view, report, top),
        windows=[_window(window) for window in report.windows],
    )  # fmt: skip


def _concepts(view: ConceptView, report: DriftReport, top: int) -> list[ConceptDrift]:
    if report.stability is None:
        return []
    psi, concept = report.stability.psi.topk(min(top, len(report.stability.psi)))
    columns = (report.stability.expected, report.frequency_then, report.frequency_now)
    rows = zip(concept.tolist(), psi.tolist(), *(column[concept].tolist() for column in columns), strict=True)
    return [
        ConceptDrift(
            id=k, name=view.name(k), psi=value, expected_psi=expected, frequency_then=then, frequency_now=now
        )
        for k, value, expected, then, now in rows
    ]  # fmt: skip


def _window(drift: WindowDrift) -> DriftWindow:
    window = drift.window
    return DriftWindow(
        start=window.start, end=window.end, images=window.images, mean_psi=drift.mean_psi,
        expected_psi=drift.mean_expected, salient_energy=window.salient_energy,
    )  # fmt: skip
