"""Reading the YAML file of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raytrain_xai.config import overridden, read_yaml, validated
from raytrain_xai.errors import ConfigError
from raytrain_xai.sweep_config import SweepConfig, dotted
from raytrain_xai.sweeps.checks import check_sweep

_OF_PATHS = ("fixed", "space")  # sections whose keys are dotted paths themselves


def load_sweep(path: str | Path, overrides: Sequence[str] = ()) -> SweepConfig:
    """Read the YAML file of a sweep, apply ``a.b=c`` overrides (values are YAML), inline its base, and check it.

    ``fixed.epochs=2`` and ``space.guidance.weight=[0.1, 1]`` override what the file says for these paths.

    Raises:
        ConfigError: a file is missing or not a mapping, or what :func:`raytrain_xai.sweeps.checks.check_sweep` refuses;
            all problems are listed.
    """
    file = Path(path)
    raw = read_yaml(file)
    if "base" not in raw:
        raise ConfigError(f"{file}: base is missing; give the path of a run's YAML file, or its configuration")
    raw = overridden({**raw, **{name: _nested(raw[name]) for name in _OF_PATHS if name in raw}}, overrides)
    if isinstance(raw["base"], str):
        raw["base"] = read_yaml(file.parent / raw["base"])
    config = validated(SweepConfig, raw, str(file))
    check_sweep(config, source=str(file))
    return config


def _nested(section: Any) -> Any:
    """Dotted keys as nested ones, so that an override of a path meets the value it replaces."""
    if not isinstance(section, dict):
        return section
    nested: dict[str, Any] = {}
    for path, value in dotted(section):
        *parents, last = path.split(".")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return nested
