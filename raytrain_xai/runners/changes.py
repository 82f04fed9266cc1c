"""What differs between two configurations of a run, and which differences leave what was trained so far valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raytrain_xai.config import AnyRunConfig

RESUMABLE = ("epochs", "workers", "resources", "tracking", "checkpoint")
"""Keys (and sections) that a resumed run may change: none of them alters what was trained so far."""
RESUMABLE_OF = {
    "classify": ("data.num_loader_workers", "data.cache_decoded"),
    "concepts": ("parallel",),
    "align": ("features",),
    "caption": (),
}
"""The same, of one kind of run only."""


def changed_keys(before: AnyRunConfig, after: AnyRunConfig, free: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """Differences between two configurations.

    Args:
        free: dotted keys, or sections, whose differences are left out.
    Returns:
        Dotted key -> values (before, after), sorted by key; None where a section is absent.
    """
    old, new = _flat(before.model_dump(mode="json")), _flat(after.model_dump(mode="json"))
    return {
        key: (old.get(key), new.get(key))
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not is_among(key, free)
    }


def is_among(key: str, sections: Sequence[str]) -> bool:
    """Whether a dotted key is one of ``sections`` or lies in one of them."""
    return any(key == section or key.startswith(f"{section}.") for section in sections)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found
