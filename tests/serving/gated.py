"""An application with the addresses of the API behind the gate of the service, and requests to it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from raw_asgi import Exchange, Parts, exchange
from starlette.responses import HTMLResponse

from serve.context import RequestContext, answered_by, request_context, require
from serve.security.protect import protect

PREDICT = "/v1/models/birds:predict"
PIECE = b"x" * 1000


def make_app(parts: Parts) -> FastAPI:
    app = FastAPI()

    @app.post("/v1/models/{model}:predict")
    async def predict(
        model: str, request: Request, context: Annotated[RequestContext, Depends(request_context)]
    ) -> Any:
        answered_by(request.scope, model, "2")
        now = context.received
        wait = None if context.deadline is None else round(1000 * (context.deadline - now))
        return {"bytes": len(await request.body()), "client": context.client, "role": context.role, "wait": wait}

    @app.post("/v1/models/{model}:trace")
    async def trace(context: Annotated[RequestContext, Depends(request_context)]) -> None:
        require(context, "edit")

    @app.post("/v1/models/{model}:explain")
    async def fail() -> None:
        raise RuntimeError("at /secret/path")

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse("<p>page</p>")

    @app.get("/healthz")
    async def healthz() -> str:
        return "ok"

    protect(app, parts)  # type: ignore[arg-type]
    return app


def ask(app: FastAPI, target: str = PREDICT, method: str = "POST", **more: Any) -> Exchange:
    return asyncio.run(exchange(app, method, target, more.pop("body", [PIECE]), **more))
