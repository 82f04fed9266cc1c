"""Where the values of a swept quantity lie on an axis: evenly, by their logarithm, or one beside the other."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["linear", "log", "names"]
Floats = NDArray[np.float64]

_LOG_RATIO = 20  # between the largest and the smallest positive value, from which on they are spread by logarithm
_FEW = 9  # distinct values that are all written at the axis
_ZERO_DISTANCE = 0.7  # of zero from the smallest positive value, in decades
_SHORT = 2.5  # decades below which 2 and 5 are labelled as well
_PERCENT = ("_fraction", "_dilation")  # endings of keys that are shares


@dataclass(frozen=True)
class Scale:
    """Axis of one quantity.

    Attributes:
        name: dotted path or metric, written at the axis.
        kind: linear; log, zero being drawn left of the smallest positive value; or names, at 0, 1, 2, ….
        ticks: coordinates that are labelled; empty leaves the choice to the chart.
        labels: their texts.
        zero: coordinate of the value 0 on a logarithmic axis.
        names: values of a ``names`` axis in their order, as text.
    """

    name: str
    kind: Kind
    ticks: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    zero: float = 0.0
    names: tuple[str, ...] = ()

    def place(self, values: Sequence[Any]) -> Floats:
        """Coordinates of values that the scale was made for, (n,) float64."""
        if self.kind == "names":
            order = {name: float(position) for position, name in enumerate(self.names)}
            return np.array([order[value_text(value)] for value in values], dtype=np.float64)
        numbers = np.array(values, dtype=np.float64)
        if self.kind == "linear":
            return numbers
        logarithms = np.log10(np.where(numbers > 0, numbers, 1.0))
        return np.where(numbers > 0, logarithms, self.zero)


def scale_of(name: str, values: Sequence[Any]) -> Scale:
    """The axis that suits values of a configuration key: numbers (not truth values) on a line, all else as names.

    Logarithmic where no number is negative and the positive ones span a factor of 20 or more.

    Args:
        name: dotted path, or a metric.
        values: every value that will be placed, one or more.
    """
    if not all(is_number(value) for value in values):
        names = tuple(dict.fromkeys(value_text(value) for value in values))
        return Scale(name, "names", tuple(map(float, range(len(names)))), names, names=names)
    distinct = sorted({float(value) for value in values})
    positive = [value for value in distinct if value > 0]
    if distinct[0] < 0 or not positive or positive[-1] < _LOG_RATIO * positive[0]:
        few = distinct if len(distinct) <= _FEW and _apart(distinct) else []
        return Scale(name, "linear", tuple(few), tuple(number_text(name, value) for value in few))
    return _logarithmic(name, distinct, positive)


def is_number(value: object) -> bool:
    """Whether a value of a configuration is a number; True and False are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def value_text(value: object) -> str:
    """A value of a configuration as text: ``none``, ``true``, ``0.003``, ``[1, 2]``."""
    if value is None:
        return "none"
    if is_number(value):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)


def number_text(name: str, value: float) -> str:
    """A number at an axis: shares in percent."""
    return f"{100 * value:.4g} %" if name.endswith(_PERCENT) else f"{value:.4g}"


def _logarithmic(name: str, distinct: Sequence[float], positive: Sequence[float]) -> Scale:
    low, high = math.log10(positive[0]), math.log10(positive[-1])
    zero = low - _ZERO_DISTANCE
    shown = list(positive)
    if len(positive) > _FEW or not _apart([math.log10(value) for value in positive]):
        decades = range(math.floor(low), math.ceil(high) + 1)
        inside = [(step, step * 10.0**decade) for decade in decades for step in (1, 2, 5)]
        inside = [(step, value) for step, value in inside if positive[0] <= value <= positive[-1]]
        shown = [value for step, value in inside if step == 1 or high - low < _SHORT]
    ticks = [math.log10(value) for value in shown]
    labels = [number_text(name, value) for value in shown]
    if distinct[0] == 0:
        ticks, labels = [zero, *ticks], [number_text(name, 0.0), *labels]
    return Scale(name, "log", tuple(ticks), tuple(labels), zero)


def _apart(coordinates: Sequence[float]) -> bool:
    """Whether labels at these ascending coordinates do not run into each other."""
    span = coordinates[-1] - coordinates[0]
    return all(b - a >= 0.08 * span for a, b in pairwise(coordinates))
