"""When a request is sent again, and how long to wait before."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from raytrain_xai_client.errors import ClientError, ConnectionFailedError, ServiceError

_AGAIN = (408, 429, 502, 503, 504)  # 408: no replica took it in time, as while a service grows from none


@dataclass(frozen=True)
class Retry:
    """How often and how patiently requests are sent again.

    Attributes:
        attempts: in all; 1 sends nothing twice.
        first_s: longest wait before the second attempt; it doubles with each further one, and a random part of it is
            waited, so that clients that were refused together do not come back together.
        most_s: longest wait; a service that asks for more is not waited for.
    """

    attempts: int = 5
    first_s: float = 0.25
    most_s: float = 20.0

    def wait(self, error: ClientError, attempt: int, *, repeatable: bool) -> float | None:
        """Seconds to wait before another attempt; None where there is none.

        Args:
            error: that ended the attempt.
            attempt: its number, from 1.
            repeatable: whether doing it twice does no harm. What is not is sent again only if it was certainly not
                done: the service counted too many requests, or could not be reached at all.
        """
        if attempt >= self.attempts or not _may_work_again(error, repeatable):
            return None
        asked = error.retry_after if isinstance(error, ServiceError) else None
        if asked is not None and asked > self.most_s:
            return None
        backoff = random.uniform(0, min(self.most_s, self.first_s * 2 ** (attempt - 1)))
        return backoff if asked is None else asked + min(backoff, self.most_s - asked)


def lost(error: httpx.TransportError) -> ConnectionFailedError:
    """A failure of the connection in the words of this package; the cause tells how far the request came."""
    failed = ConnectionFailedError(f"no answer from the service: {error or type(error).__name__}")
    failed.__cause__ = error
    return failed


def retry_after(response: httpx.Response) -> float | None:
    """Seconds of the header ``Retry-After``, which is a number or a date."""
    text = response.headers.get("retry-after", "")
    try:
        if text.strip().isdecimal():
            return float(text)
        return max(0.0, (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):  # no date, or one without a zone
        return None


def _may_work_again(error: ClientError, repeatable: bool) -> bool:
    if isinstance(error, ServiceError):
        lost_replica = error.status == 500 and not error.request_id  # said by the proxy: the service signs what it says
        return error.status == 429 or (repeatable and (error.status in _AGAIN or lost_replica))
    if isinstance(error, ConnectionFailedError):
        return repeatable or isinstance(error.__cause__, httpx.ConnectError | httpx.ConnectTimeout)
    return False
