"""Which images of a split a report shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Choice:
    """One image of the gallery.

    Attributes:
        index: row in its split.
        target: class whose explanation is shown, one of the image's labels.
        group: sub-population; None when the data set has none.
    """

    index: int
    target: int
    group: int | None


def choose_images(labels: Sequence[Sequence[int]], groups: Sequence[int] | None, num_images: int) -> list[Choice]:
    """Images that represent a split, chosen without looking at any prediction.

    The split is divided by group, or by class when there are no groups; with more parts than images the smallest
    parts are left out. Every part gives equally many images (the largest one more where it does not divide), at even
    distances in stored order.

    Args:
        labels: class indices of every image; images without labels are never chosen.
        groups: group of every image, -1 for unknown; None without groups.
        num_images: how many to choose; fewer come back when the parts hold fewer.
    Returns:
        Choices in order of group or class, then of rows. An image is chosen once at most.
    """
    parts: dict[int, list[Choice]] = {}
    for index, own in enumerate(labels):
        if groups is not None and own:
            parts.setdefault(groups[index], []).append(Choice(index, own[0], groups[index]))
        elif groups is None:
            for target in own:
                parts.setdefault(target, []).append(Choice(index, target, None))
    by_size = sorted(parts, key=lambda key: (-len(parts[key]), key))[:num_images]
    share, rest = divmod(num_images, max(len(by_size), 1))
    quota = {key: share + (rank < rest) for rank, key in enumerate(by_size)}
    taken: set[int] = set()
    return [choice for key in sorted(by_size) for choice in _spread(parts[key], quota[key], taken)]


def _spread(part: Sequence[Choice], count: int, taken: set[int]) -> list[Choice]:
    """``count`` members at even distances, or the next ones where an image is taken; adds to ``taken``."""
    chosen: list[Choice] = []
    for slot in range(count):
        start = (2 * slot + 1) * len(part) // (2 * count)
        candidates = (*part[start:], *part[:start])
        choice = next((candidate for candidate in candidates if candidate.index not in taken), None)
        if choice is not None:
            taken.add(choice.index)
            chosen.append(choice)
    return sorted(chosen, key=lambda choice: choice.index)
