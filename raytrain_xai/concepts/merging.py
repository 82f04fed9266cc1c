"""Many parts of a sum, made one after the other, without all of them in memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Protocol, Self, TypeVar

_TOGETHER = 16  # parts that are merged at a time: a table of all cells is sorted once for as many


class Mergeable(Protocol):
    """A part of a sum."""

    def merge(self, *others: Self) -> Self:
        """All of them together."""
        ...


M = TypeVar("M", bound=Mergeable)


def merge_parts(parts: Iterable[M]) -> M:
    """All parts together, in their order; holds the sum so far and at most 16 of them.

    Raises:
        ValueError: there are no parts.
    """
    rest = iter(parts)
    total = next(rest, None)
    if total is None:
        raise ValueError("nothing to merge; give one part or more")
    for group in _groups(rest):
        total = total.merge(*group)
    return total


def _groups(parts: Iterator[M]) -> Iterator[list[M]]:
    while group := list(islice(parts, _TOGETHER)):
        yield group
