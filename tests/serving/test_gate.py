"""What is decided about a request before its body is read, on an application with the addresses of the API."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any

import pytest
from fastapi import Request
from gated import PIECE, PREDICT, ask, make_app
from raw_asgi import Exchange, Parts, exchange, refused, scope_of, settings


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
