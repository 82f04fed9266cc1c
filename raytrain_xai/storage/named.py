"""Errors that name the address, and what is hidden from listings."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator
from typing import TypeVar

from raytrain_xai.errors import DataError
from raytrain_xai.storage.location import Location
from raytrain_xai.storage.patience import one_line, retried

TEMPORARY = ".unfinished-"  # prefix of files that a killed writer may leave; never listed

_Result = TypeVar("_Result")


@contextlib.contextmanager
def named(at: Location, action: str) -> Generator[None]:
    """Turn filesystem errors into one that names the address."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"cannot {action} {at.uri}: it does not exist") from error
    except OSError as error:
        raise DataError(f"cannot {action} {at.uri}: {one_line(error)}") from error


def performed(at: Location, action: str, work: Callable[[], _Result]) -> _Result:
    """What ``work`` returns; on S3 it is repeated while its errors are such that pass.

    Raises:
        DataError: it failed; names the address.
    """
    with named(at, action):
        return work() if at.is_local else retried(action, at.uri, work)
