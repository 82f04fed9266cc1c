"""The section ``bcosify``: what it refuses, and the configurations that ship with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raytrain_xai.config import load_config, parse_config
from raytrain_xai.errors import ConfigError
from raytrain_xai.models.zoo import ARCHITECTURES

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs" / "bcosify").glob("*.yaml"))


def raw(**changes: Any) -> dict[str, Any]:
    return {
        "name": "run", "epochs": 1, "data": {"path": "data"}, "model": {"name": "bcosified_squeezenet1_1"},
        "bcosify": {}, **changes,
    }  # fmt: skip


def test_defaults_start_from_imagenet_exactly() -> None:
    section = parse_config(raw()).bcosify
    assert section is not None
    assert (section.weights, section.fold) == ("imagenet", "exact")
    assert parse_config(raw(bcosify=None)).bcosify is None


def test_other_models_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"bcosify needs a model named bcosified_\*, got model.name=resnet18"):
        parse_config(raw(model={"name": "resnet18"}))


def test_mixing_is_refused() -> None:
    with pytest.raises(ConfigError, match="teacher of bcosify sees images as they are"):
        parse_config(raw(mixing={"mixup_alpha": 0.2}))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_shipped_configurations_are_valid(file: Path) -> None:
    assert load_config(file).model.name in ARCHITECTURES


def test_some_configurations_ship() -> None:
    assert len(CONFIGS) >= 2
