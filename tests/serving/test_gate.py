"""What is decided about a request before its body is read, on an application with the addresses of the API."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Mapping
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request
from limits.storage import storage_from_string
from raw_asgi import Exchange, Parts, exchange, refused, scope_of, settings
from starlette.responses import HTMLResponse

from raytrain_xai.errors import ConfigError
from serve.context import RequestContext, answered_by, request_context, require
from serve.security import rate
from serve.security.keys import new_key
from serve.security.protect import protect
from serve.security.rate import network_of, window

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


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Role -> key, of clients named as the roles."""
    pairs = {role: new_key(role, role) for role in ("predict", "explain", "edit")}  # type: ignore[arg-type]
    monkeypatch.setenv("RAYTRAIN_XAI_KEYS", "\n".join(key.model_dump_json() for _, key in pairs.values()))
    return {role: token for role, (token, _) in pairs.items()}


# --- who ---
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "Bearer "},
        {"authorization": "Basic {predict}"},
        {"authorization": "{predict}"},
        {"x-api-key": ""},
        {"x-api-key": "{predict}", "authorization": "Bearer {predict}"},
        {"x-api-key": "\xff\xfe"},
    ],
)
def test_without_a_key_nothing_is_read(headers: Mapping[str, str], tokens: dict[str, str]) -> None:
    parts = Parts(settings())
    given = {name: value.format(**tokens) for name, value in headers.items()}
    done = ask(make_app(parts), headers=given)
    assert (done.status, done.reads) == (401, 0)
    assert done.headers["www-authenticate"].startswith("Bearer")
    assert "key" in done.problem()["detail"].lower() or "token" in done.problem()["detail"]
    assert refused(parts) == {"unauthenticated": 1}


@pytest.mark.parametrize("form", ["authorization", "lower", "x-api-key"])
def test_key_in_either_header(form: str, tokens: dict[str, str]) -> None:
    token = tokens["predict"]
    headers = {
        "authorization": {"authorization": f"Bearer {token}"},
        "lower": {"authorization": f"bearer  {token}"},
        "x-api-key": {"x-api-key": token},
    }[form]
    done = ask(make_app(Parts(settings())), headers=headers)
    assert json.loads(done.body) == {"bytes": 1000, "client": "predict", "role": "predict", "wait": None}


def test_roles_are_held(tokens: dict[str, str]) -> None:
    app = make_app(Parts(settings()))
    trace = "/v1/models/birds:trace"
    low = ask(app, trace, headers={"x-api-key": tokens["predict"]})
    assert (low.status, low.reads) == (403, 0)
    assert "explain" in low.problem()["detail"]
    by_route = ask(app, trace, headers={"x-api-key": tokens["explain"]})
    assert (by_route.status, by_route.problem()["title"]) == (403, "forbidden")
    assert ask(app, trace, headers={"x-api-key": tokens["edit"]}).status == 200


def test_without_keys_everybody_may_do_everything() -> None:
    assert ask(make_app(Parts(settings())), "/v1/models/birds:trace").status == 200


@pytest.mark.parametrize(("headers", "closed"), [({}, False), ({"transfer-encoding": "chunked"}, True)])
def test_connection_ends_where_an_unread_body_has_no_end(
    headers: dict[str, str], closed: bool, tokens: dict[str, str]
) -> None:
    done = ask(make_app(Parts(settings())), headers=headers)
    assert (done.status, done.headers.get("connection") == "close") == (401, closed) and tokens


def test_open_addresses_ask_for_no_key_and_other_methods_of_them_do(tokens: dict[str, str]) -> None:
    app = make_app(Parts(settings()))
    assert [ask(app, path, "GET", body=[]).status for path in ("/", "/healthz")] == [200, 200]
    assert ask(app, "/healthz").status == 401
    assert ask(app, "/docs", "GET", body=[]).status == 401
    assert ask(app, "/healthz", "GET", headers={"content-length": "5"}).status == 413
    assert tokens


def test_prefix_of_a_mounted_service_does_not_change_what_is_open(tokens: dict[str, str]) -> None:
    scope = scope_of("POST", "/api" + PREDICT, {"x-api-key": tokens["predict"]}) | {"root_path": "/api"}
    messages: list[dict[str, Any]] = []

    async def run() -> None:
        async def send(message: Any) -> None:
            messages.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": b"", "more_body": False}

        await make_app(Parts(settings()))(scope, receive, send)

    asyncio.run(run())
    assert messages[0]["status"] == 200


# --- pages of strangers, while there are no keys ---
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "127.0.0.1:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "localhost"}, 200),
        ({"host": "workstation:8000"}, 200),
        ({"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:8000"}, 200),
        ({"host": "127.0.0.1:8000", "origin": "https://app.example"}, 200),
        ({"host": "127.0.0.1:8000", "origin": "http://evil.example"}, 403),
        ({"host": "127.0.0.1:8000", "origin": "http://127.0.0.1:9000"}, 403),
        ({"host": "127.0.0.1:8000", "origin": "null"}, 403),
        ({"host": "rebound.evil.example"}, 403),
        ({"host": "rebound.evil.example", "origin": "http://rebound.evil.example"}, 403),
        ({"host": "evil.example."}, 403),
        ({"host": "evil.example:8000"}, 403),
        ({"host": ""}, 403),
    ],
)
def test_strange_pages_are_refused_without_keys(headers: dict[str, str], status: int) -> None:
    app = make_app(Parts(settings(security={"cors_origins": ["https://app.example"]})))
    done = ask(app, headers=headers)
    assert (done.status, done.reads > 0) == (status, status == 200)


def test_with_keys_names_and_origins_are_free(tokens: dict[str, str]) -> None:
    headers = {"host": "xai.example", "origin": "https://other.example", "x-api-key": tokens["predict"]}
    assert ask(make_app(Parts(settings())), headers=headers).status == 200


# --- sizes and types, before the body ---
@pytest.mark.parametrize(
    ("target", "headers", "status"),
    [
        (PREDICT, {"content-type": "image/png"}, 200),
        (PREDICT, {"content-type": "application/json; charset=utf-8"}, 200),
        (PREDICT, {"content-type": "Multipart/Form-Data; boundary=x"}, 200),
        (PREDICT, {"content-type": "text/html"}, 415),
        (PREDICT, {"content-type": "application/x-www-form-urlencoded"}, 415),
        (PREDICT, {"content-type": "application/x-python-pickle"}, 415),
        (PREDICT, {"content-type": "image/png", "content-encoding": "gzip"}, 415),
        (PREDICT, {"content-length": "1000000"}, 200),
        (PREDICT, {"content-length": "1000001"}, 413),
        (PREDICT, {"content-length": "9" * 5000}, 413),
        (PREDICT, {"content-length": "-5"}, 400),
        (PREDICT, {"content-length": "1e3"}, 400),
        ("/v1/models/birds:batch", {"content-length": "1000001"}, 405),
        ("/v1/models/birds:batch", {"content-length": "64000001"}, 413),
        (PREDICT + "?" + "x" * 9000, {}, 414),
        (PREDICT, {"x-filler": "x" * 20_000}, 431),
        (PREDICT, {"x-deadline-ms": "soon"}, 422),
        (PREDICT, {"x-deadline-ms": "0"}, 422),
        (PREDICT, {"x-deadline-ms": "-1"}, 422),
        (PREDICT, {"x-deadline-ms": "3600001"}, 422),
        (PREDICT, {"x-deadline-ms": "9" * 5000}, 422),
    ],
)
def test_announcements_are_checked_first(target: str, headers: dict[str, str], status: int) -> None:
    app = make_app(Parts(settings()))
    app.add_api_route("/v1/models/{model}:batch", lambda: None, methods=["GET"])
    done = ask(app, target, headers=headers)
    assert done.status == status
    if status not in (200, 405):
        assert done.reads == 0 and done.problem()["title"] != "error"


def test_deadline_counts_from_arrival() -> None:
    done = ask(make_app(Parts(settings())), headers={"x-deadline-ms": "250"})
    assert json.loads(done.body)["wait"] == 250


# --- how often ---
def test_rate_of_each_client(tokens: dict[str, str]) -> None:
    parts = Parts(settings(security={"requests_per_minute": 3}))
    app = make_app(parts)

    async def run() -> tuple[list[Exchange], Exchange, Exchange]:
        mine = [await exchange(app, "POST", PREDICT, [PIECE], headers={"x-api-key": tokens["predict"]}) for _ in "1234"]
        other = await exchange(app, "POST", PREDICT, [PIECE], headers={"x-api-key": tokens["explain"]})
        return mine, other, await exchange(app, "GET", "/healthz")

    mine, other, health = asyncio.run(run())
    assert [done.status for done in mine] == [200, 200, 200, 429]
    assert mine[-1].reads == 0 and "3 requests a minute" in mine[-1].problem()["detail"]
    assert 1 <= int(mine[-1].headers["retry-after"]) <= 120
    assert (other.status, health.status) == (200, 200)
    assert refused(parts) == {"rate": 1}


def test_replicas_share_the_rate() -> None:
    """10 a minute over 2 replicas are 5 at each, and without keys an IPv6 subscriber is one client."""
    parts = Parts(settings(security={"requests_per_minute": 10}), workers=2)
    app = make_app(parts)

    async def run() -> list[int]:
        clients = [f"2001:db8:0:1::{k}" for k in range(6)] + ["2001:db8:0:2::1"]
        return [(await exchange(app, "POST", PREDICT, [PIECE], client=client)).status for client in clients]

    assert asyncio.run(run()) == [200] * 5 + [429, 200]


@pytest.mark.parametrize(("per_minute", "amount", "seconds"), [(60, 60, 60), (1.5, 2, 80), (0.5, 1, 120), (7, 7, 60)])
def test_window_of_a_rate(per_minute: float, amount: int, seconds: int) -> None:
    item = window(per_minute)
    assert (item.amount, item.get_expiry()) == (amount, seconds)


def test_client_of_an_address() -> None:
    assert network_of("192.0.2.7") == "192.0.2.7"
    assert network_of("2001:db8::1:2:3:4") == "2001:db8::/64"
    assert network_of("unknown") == "unknown"


def test_store_of_rates_is_redis_and_its_absence_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="redis://HOST:PORT"):
        make_app(Parts(settings(security={"requests_per_minute": 1, "rate_store": "memcached://h"})))
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ConfigError, match=r"install raytrain_xai\[redis\]"):
        make_app(Parts(settings(security={"requests_per_minute": 1, "rate_store": "redis://h"})))


def test_the_password_of_the_store_of_rates_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def storage(uri: str, **options: Any) -> Any:
        given.update(options, uri=uri)
        return storage_from_string("async+memory://")

    monkeypatch.setattr(rate, "storage_from_string", storage)
    monkeypatch.setenv("RAYTRAIN_XAI_REDIS_PASSWORD", "sesame")
    make_app(Parts(settings(security={"requests_per_minute": 1, "rate_store": "rediss://cache:6379"})))
    assert (given["uri"], given["password"], "username" in given) == ("async+rediss://cache:6379", "sesame", False)


def test_silent_store_of_rates_is_503(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from limits.errors import StorageError

    async def silent(*_: object, **__: object) -> bool:
        raise StorageError(ConnectionError("redis at 10.0.0.3"))

    monkeypatch.setattr(rate.SlidingWindowCounterRateLimiter, "hit", silent)
    with caplog.at_level(logging.ERROR):
        done = ask(make_app(Parts(settings(security={"requests_per_minute": 1}))))
    assert (done.status, done.reads) == (503, 0)
    assert "10.0.0.3" not in done.body.decode() and "does not answer" in caplog.text


# --- a free place ---
def test_more_than_in_flight_are_refused_and_places_come_back() -> None:
    parts = Parts(settings(limits={"in_flight": 2}))
    app = make_app(parts)

    async def run() -> tuple[list[int], Exchange, int, int, int]:
        slow = [asyncio.create_task(exchange(app, "POST", PREDICT, [PIECE], pause_s=0.2)) for _ in range(2)]
        await asyncio.sleep(0.05)
        third = await exchange(app, "POST", PREDICT, [PIECE])
        health = await exchange(app, "GET", "/healthz")
        reading = await exchange(app, "GET", "/v1/models")
        first = [task.status for task in await asyncio.gather(*slow)]
        again = await exchange(app, "POST", PREDICT, [PIECE])
        return first, third, health.status, reading.status, again.status

    first, third, health, reading, again = asyncio.run(run())
    assert first == [200, 200]
    assert (third.status, third.reads, third.headers["retry-after"]) == (503, 0, "1")
    assert (health, reading, again) == (200, 404, 200)
    assert refused(parts) == {"in_flight": 1}


def test_batches_take_an_eighth_of_the_places() -> None:
    """Each holds a large body; predictions are answered meanwhile."""
    app, address = make_app(Parts(settings(limits={"in_flight": 16}))), "/v1/models/birds:batch"

    @app.post(address)
    async def batch(request: Request) -> int:
        return len(await request.body())

    async def run() -> tuple[list[int], Exchange, int]:
        slow = [asyncio.create_task(exchange(app, "POST", address, [PIECE], pause_s=0.2)) for _ in range(2)]
        await asyncio.sleep(0.05)
        third = await exchange(app, "POST", address, [PIECE])
        other = await exchange(app, "POST", PREDICT, [PIECE])
        return [task.status for task in await asyncio.gather(*slow)], third, other.status

    first, third, other = asyncio.run(run())
    assert first == [200, 200]
    assert (third.status, third.reads, other) == (503, 0, 200)


def test_place_comes_back_after_a_failure() -> None:
    app = make_app(Parts(settings(limits={"in_flight": 1})))
    for _ in range(2):
        with pytest.raises(RuntimeError):
            ask(app, "/v1/models/birds:explain")
    assert ask(app).status == 200


# --- answers ---
def test_failure_is_a_problem_without_the_inside() -> None:
    app, parts = make_app(Parts(settings())), []

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        parts.append(message)

    with pytest.raises(RuntimeError):  # reaches the server, which logs it
        asyncio.run(app(scope_of("POST", "/v1/models/birds:explain", {}), receive, send))
    assert parts[0]["status"] == 500
    content = json.loads(parts[1]["body"])
    assert content["title"] == "internal error" and "secret" not in parts[1]["body"].decode()


def test_headers_for_browsers() -> None:
    app = make_app(Parts(settings()))
    page, data = ask(app, "/", "GET", body=[]).headers, ask(app).headers
    for headers in (page, data):
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers
    policy = dict(part.strip().split(" ", 1) for part in page["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'"
    assert data["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"


def test_web_origins_are_allowed_one_by_one(tokens: dict[str, str]) -> None:
    app = make_app(Parts(settings(security={"cors_origins": ["https://app.example"]})))
    preflight = {"access-control-request-method": "POST", "access-control-request-headers": "x-api-key"}
    yes = ask(app, method="OPTIONS", headers={"origin": "https://app.example", **preflight})
    no = ask(app, method="OPTIONS", headers={"origin": "https://evil.example", **preflight})
    assert (yes.status, yes.headers["access-control-allow-origin"]) == (200, "https://app.example")
    assert no.status == 400 and "access-control-allow-origin" not in no.headers
    refusal = ask(app, headers={"origin": "https://app.example"})
    assert (refusal.status, refusal.headers["access-control-allow-origin"]) == (401, "https://app.example")
    assert "access-control-allow-credentials" not in yes.headers and tokens


def test_request_id_is_taken_over_when_it_is_plain() -> None:
    app = make_app(Parts(settings()))
    assert ask(app, headers={"x-request-id": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    made = ask(app, headers={"x-request-id": "a b\n<script>"}).headers["x-request-id"]
    assert len(made) == 32 and int(made, 16) >= 0


def test_access_log_and_numbers(caplog: pytest.LogCaptureFixture, tokens: dict[str, str]) -> None:
    parts = Parts(settings())
    app = make_app(parts)
    with caplog.at_level(logging.INFO, logger="serve.access"):
        ask(app, PREDICT + "?secret=1", headers={"x-api-key": tokens["predict"], "x-request-id": "r1"})
        ask(app, "/v1/models/\n{}:predict" + "x" * 9000)
    good, bad = (json.loads(record.message) for record in caplog.records)
    assert {key: good[key] for key in ("request_id", "client", "method", "path", "status", "model", "version")} == {
        "request_id": "r1", "client": "predict", "method": "POST", "path": PREDICT, "status": 200,
        "model": "birds", "version": "2",
    }  # fmt: skip
    assert good["ms"] > 0 and good["bytes"] > 0
    assert (bad["status"], bad["client"], bad["model"], len(bad["path"])) == (414, "203.0.113.9", "", 256)
    assert "secret" not in caplog.text and tokens["predict"] not in caplog.text
    page = parts.meter.page().decode()
    counted = (
        'raytrain_xai_requests_total{model="birds",route="/v1/models/{model}:predict",status="200",version="2"} 1.0'
    )
    assert counted in page
    assert 'route="none",status="414"' in page


def test_web_sockets_are_closed() -> None:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    scope = scope_of("GET", "/", {}) | {"type": "websocket"}
    asyncio.run(make_app(Parts(settings()))(scope, receive, send))
    assert [message["type"] for message in sent] == ["websocket.close"]
