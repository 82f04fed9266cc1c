"""How often a client may ask, over all replicas of the service."""

from __future__ import annotations

import ipaddress
import logging
import math
import os
import time
from collections.abc import Callable
from typing import cast

from limits import RateLimitItem, RateLimitItemPerSecond
from limits.aio.storage import Storage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string

from raytrain_xai.errors import ConfigError
from serve.problems import ProblemError
from serve.security.asgi import Refusal

_logger = logging.getLogger(__name__)
_REDIS_S = 1.0  # for one command: a request waits for it before anything else


class RateLimit:
    """Counts requests of each client in a sliding window.

    Args:
        per_minute: requests that a client may make, together at all replicas.
        store: ``redis://...`` address where all replicas count together; None: each counts for itself and allows its
            share, which is fair as long as the proxy spreads requests evenly.
        replicas: how many run now.
    Raises:
        ConfigError: the address is none of Redis, or its client is not installed.
    """

    def __init__(self, per_minute: float, store: str | None, replicas: Callable[[], int]) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(_storage(store))
        self._per_minute = per_minute
        self._replicas = (lambda: 1) if store is not None else replicas

    async def take(self, client: str) -> None:
        """Count one request of ``client``.

        Raises:
            Refusal: 429, too many; says when to come back.
            ProblemError: 503, the store of the counts does not answer.
        """
        item = window(self._per_minute / max(1, self._replicas()))
        try:
            if await self._limiter.hit(item, client):
                return
            reset, _ = await self._limiter.get_window_stats(item, client)
        except StorageError as error:
            _logger.exception("the store of rate limits does not answer")
            raise ProblemError(503, "the service cannot count requests now; try again later") from error
        wait = str(max(1, math.ceil(reset - time.time())))
        raise Refusal(
            429, "rate", f"more than {self._per_minute:g} requests a minute; try again in {wait} s",
            {"Retry-After": wait},
        )  # fmt: skip


def window(per_minute: float) -> RateLimitItem:
    """Whole requests in whole seconds, at the rate ``per_minute`` or up to one second's worth below it."""
    amount = math.ceil(per_minute)
    return RateLimitItemPerSecond(amount, math.ceil(60 * amount / per_minute))


def network_of(address: str) -> str:
    """What counts as one client without keys: an IPv4 address, or the /64 that a subscriber has of IPv6."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((ip, 64), strict=False)) if ip.version == 6 else address


def _storage(store: str | None) -> Storage:
    if store is not None and not store.startswith(("redis://", "rediss://")):
        raise ConfigError(f"security.rate_store {store!r} is not redis://HOST:PORT or rediss://HOST:PORT")
    try:
        if store is None:
            return cast(Storage, storage_from_string("async+memory://"))
        options = {"socket_timeout": _REDIS_S, "socket_connect_timeout": _REDIS_S, **_account()}
        return cast(
            Storage, storage_from_string(f"async+{store}", implementation="redispy", wrap_exceptions=True, **options)
        )
    except ConfigurationError as error:
        raise ConfigError(f"security.rate_store: {error}; install raytrain_xai[redis]") from error


def _account() -> dict[str, str]:
    """User and password of Redis, from the environment: the address of the store is shown wherever settings are."""
    names = {"username": "RAYTRAIN_XAI_REDIS_USERNAME", "password": "RAYTRAIN_XAI_REDIS_PASSWORD"}
    return {option: os.environ[name] for option, name in names.items() if os.environ.get(name)}
