"""Waiting out what passes: a server that is overloaded, restarts, or cannot be reached for a while.

Two layers. The S3 client repeats a single request (``REQUESTS`` in all, its standard strategy with exponential waits).
What it gives up on, the operation around it (a file, a listing) is repeated here after waits that double, each drawn
from the upper half of its range so that many workers do not come back together, until ``RAYTRAIN_XAI_STORAGE_WAIT_S``
seconds (120) have passed. Every operation may be repeated: files are written whole, and the same again.

Refusals never pass and are raised at once: a missing file or bucket, wrong or missing credentials, no permission.
"""

from __future__ import annotations

import itertools
import logging
import os
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from raytrain_xai.errors import ConfigError, DataError

WAIT = "RAYTRAIN_XAI_STORAGE_WAIT_S"
REQUESTS = 3  # of one kind by the client, before its error reaches us

_DEFAULT_WAIT_S = 120.0
_FIRST_S, _LONGEST_S = 0.5, 20.0
# Names that the client gives to answers; HEAD has no body to name one, so there is only the status. An upload that the
# server does not know is one whose completion was done although its answer was lost.
_PASSING = re.compile(
    r"AWS Error (NETWORK_CONNECTION|SLOW_DOWN|INTERNAL_FAILURE|SERVICE_UNAVAILABLE|THROTTLING|REQUEST_TIMEOUT"
    r"|NO_SUCH_UPLOAD)\b|HTTP status (408|429|5\d\d)\b"
)
# Network errors that stay: of libcurl a malformed address, and certificates that are wrong or cannot be read; and a
# server that speaks no TLS.
_STAYING = re.compile(r"curlCode: (3|51|58|60|77|83|90|91),|wrong version number")

_Result = TypeVar("_Result")
_draw = random.SystemRandom()  # the generator of the process belongs to the training

logger = logging.getLogger(__name__)


def longest_wait() -> float:
    """Seconds for which operations are repeated; 0: never.

    Raises:
        ConfigError: the variable is not a number of seconds.
    """
    given = os.environ.get(WAIT, "")
    try:
        wait = float(given or _DEFAULT_WAIT_S)
    except ValueError:
        wait = -1.0
    if not 0 <= wait < float("inf"):
        raise ConfigError(f"{WAIT}={given}: expected a number of seconds, 0 or more")
    return wait


def passes(error: OSError) -> bool:
    """Whether the same request may succeed later."""
    text = str(error)
    return bool(_PASSING.search(text)) and not _STAYING.search(text)


def retried(action: str, uri: str, work: Callable[[], _Result]) -> _Result:
    """Do something on S3, again and again while its errors are such that pass.

    Args:
        action: for messages, as in ``cannot <action> <uri>``.
        uri: of the file or folder.
        work: may be called several times; raises what pyarrow raises.
    Returns:
        What ``work`` returned.
    Raises:
        DataError: it failed for longer than :func:`longest_wait`; names address, attempts and seconds.
        OSError: an error that stays.
    """
    limit, began = longest_wait(), time.monotonic()
    for attempt in itertools.count(1):
        try:
            return work()
        except OSError as error:
            if not passes(error):
                raise
            passed = time.monotonic() - began
            wait = min(_LONGEST_S, _FIRST_S * 2 ** (attempt - 1)) * _draw.uniform(0.5, 1.0)
            if passed + wait > limit:
                raise DataError(
                    f"cannot {action} {uri}: gave up after {attempt} attempts of up to {REQUESTS} requests in "
                    f"{passed:.1f} s; the last one: {one_line(error)}; check the address and that the storage is "
                    f"up ({WAIT}={limit:g} says how long it is waited for)"
                ) from error
            say = logger.warning if attempt == 1 else logger.info
            say("cannot %s %s yet, trying again for up to %.0f s: %s", action, uri, limit - passed, one_line(error))
        time.sleep(wait)
    raise AssertionError("unreachable: attempts are not counted out")


def one_line(error: Exception) -> str:
    """Its text for a message."""
    return " ".join(str(error).split())
