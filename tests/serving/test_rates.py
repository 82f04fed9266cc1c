"""How often a client may ask, counted here or in Redis."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import pytest
from gated import PIECE, PREDICT, ask, make_app
from limits.storage import storage_from_string
from raw_asgi import Exchange, Parts, exchange, refused, settings

from raytrain_xai.errors import ConfigError
from serve.security import rate
from serve.security.rate import network_of, window


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
