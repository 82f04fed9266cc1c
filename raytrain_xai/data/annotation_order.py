"""In which order training images are annotated: a file, and the budget that is taken from its front.

Budgets are nested by construction: the images of 1 % are the first of those of 10 %.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np
from pydantic import TypeAdapter, ValidationError

from raytrain_xai.data.boxes import annotation_subset
from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.sections import GuidanceConfig
from raytrain_xai.storage import Location, exists, locate, read_bytes, write_bytes

FORMAT_VERSION = 1


@dataclass(frozen=True)
class Order:
    """Training images in the order in which they should be annotated.

    Attributes:
        strategy: how they were chosen, see :data:`raytrain_xai.sections.StrategyName`; another word where no strategy
            chose, as for a list of what was annotated.
        seed: of the draws, and of the order among equals.
        run: address of the run whose network was asked; of which only the data was used where ``checkpoint`` is None.
        checkpoint: name of the checkpoint that was asked.
        data: fingerprint of the data set.
        ids: first to last; all images of the training split or some.
        scores: one for each of ``ids``, never increasing; None where the strategy gives none.
    """

    strategy: str
    seed: int
    run: str
    checkpoint: str | None
    data: str
    ids: tuple[str, ...]
    scores: tuple[float, ...] | None = None


def write_order(at: Location, order: Order) -> None:
    """Store an order as one JSON object."""
    write_bytes(at, (json.dumps({"format_version": FORMAT_VERSION, **asdict(order)}, indent=1) + "\n").encode())


def read_order(at: Location) -> Order:
    """Read what :func:`write_order` wrote.

    Raises:
        ConfigError: there is no such file.
        DataError: it is no order, of another format version, or names an image twice.
    """
    if not exists(at):
        raise ConfigError(f"no order of annotation at {at.uri}; write one with `raytrain-xai annotate suggest`")
    try:
        raw = json.loads(read_bytes(at))
        version = raw["format_version"]
        order = TypeAdapter(Order).validate_python(raw)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:5])
        raise DataError(f"{at.uri} is no order of annotation: {wrong}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{at.uri} is no order of annotation: {error!r}; write it again") from error
    if version != FORMAT_VERSION:
        raise DataError(f"{at.uri} has format {version}, this release reads {FORMAT_VERSION}; write it again")
    if len(set(order.ids)) < len(order.ids):
        twice, times = Counter(order.ids).most_common(1)[0]
        raise DataError(f"{at.uri} names {twice!r} {times} times; write it again")
    if order.scores is not None and len(order.scores) != len(order.ids):
        raise DataError(f"{at.uri} has {len(order.scores)} scores for {len(order.ids)} images; write it again")
    return order


def annotation_budget(stored: StoredSplit, guidance: GuidanceConfig, seed: int) -> np.ndarray:
    """Which images of a training split belong to the budget: int(annotated_fraction * n) of its n images.

    With ``guidance.annotation_order`` they are the first of that file, which must name that many but need not name all;
    else they are drawn, see :func:`raytrain_xai.data.boxes.annotation_subset`.

    Returns:
        (n,) bool.
    Raises:
        ConfigError: the file is missing, or names fewer images than the budget has.
        DataError: the file is damaged, about another data set, or names an image that is not in the split.
    """
    n, fraction = len(stored), guidance.annotated_fraction
    if guidance.annotation_order is None:
        return annotation_subset(n, fraction, seed).numpy()
    order = read_order(locate(guidance.annotation_order))
    if order.data != stored.info.fingerprint:
        raise DataError(
            f"guidance.annotation_order={guidance.annotation_order} is about another data set than "
            f"{stored.location.uri}; write one for it with `raytrain-xai annotate suggest`"
        )
    rows, count = stored.find(order.ids), int(fraction * n)
    if count > len(rows):
        most = f"{(len(rows) + 0.5) / n:.8g}"  # half an image more: rounding must not cost one
        raise ConfigError(
            f"guidance.annotated_fraction={fraction:g} asks for {count} images, guidance.annotation_order="
            f"{guidance.annotation_order} names {len(rows)}; for all of these set annotated_fraction={most}"
        )
    chosen = np.zeros(n, dtype=bool)
    chosen[rows[:count]] = True
    return chosen
