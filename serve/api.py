"""The HTTP API of a replica: its routes, and one form for everything that goes wrong."""

from __future__ import annotations

import logging
from collections.abc import Callable

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from raytrain_xai.errors import XaiError
from serve.context import request_id_of
from serve.openapi import describe_api
from serve.problems import MEDIA_TYPE, ProblemError, problem_bytes, problem_of, reasons
from serve.routes_batch import batch_routes
from serve.routes_concepts import concept_routes
from serve.routes_flag import flag_routes
from serve.routes_health import health_routes
from serve.routes_insight import insight_routes
from serve.routes_links import link_routes
from serve.routes_models import model_routes
from serve.routes_monitor import monitor_routes
from serve.routes_page import page_routes
from serve.routes_predict import predict_routes
from serve.routes_search import search_routes
from serve.routes_v2 import v2_routes
from serve.security.protect import protect
from serve.service import Service

_logger = logging.getLogger(__name__)
_UNROUTED = {
    404: "there is nothing at this address; /openapi.json lists what there is",
    405: "this address takes another method; the header Allow names it",
}
_ROUTES: tuple[Callable[[Service], APIRouter], ...] = (
    predict_routes,
    batch_routes,
    insight_routes,
    search_routes,
    model_routes,
    concept_routes,
    link_routes,
    flag_routes,
    monitor_routes,
    v2_routes,
    health_routes,
    page_routes,
)


def create_api(service: Service) -> FastAPI:
    """All routes of a service behind its middleware; an ASGI application that needs no Ray."""
    app = FastAPI(title="raytrain_xai", version="1", docs_url=None, redoc_url=None)  # their pages load foreign scripts
    for routes in _ROUTES:
        app.include_router(routes(service))
    describe_api(app)
    _handle_errors(app)
    protect(app, service)
    return app


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(ProblemError)
    async def problem(request: Request, error: ProblemError) -> Response:  # pyright: ignore[reportUnusedFunction]
        return _answer(request, error)

    @app.exception_handler(XaiError)
    async def ours(request: Request, error: XaiError) -> Response:  # pyright: ignore[reportUnusedFunction]
        return _answer(request, problem_of(error), error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:  # pyright: ignore[reportUnusedFunction]
        return _answer(request, ProblemError(422, reasons(error.errors())))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:  # pyright: ignore[reportUnusedFunction]
        detail = _UNROUTED.get(error.status_code, str(error.detail))
        return _answer(request, ProblemError(error.status_code, detail, error.headers))

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:  # pyright: ignore[reportUnusedFunction]
        return _answer(request, ProblemError(500, "the request failed; the log of the service tells why"), error)


def _answer(request: Request, problem: ProblemError, cause: Exception | None = None) -> Response:
    request_id = request_id_of(request)
    if problem.status >= 500 and cause is not None:
        _logger.error("request %s failed", request_id, exc_info=cause)
    return Response(
        problem_bytes(problem, request_id), problem.status, headers=problem.headers, media_type=MEDIA_TYPE
    )  # fmt: skip
