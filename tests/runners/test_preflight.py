"""What is settled before workers start."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytrain_xai.config import parse_config
from raytrain_xai.runners.preflight import resolve_paths


@pytest.mark.parametrize("weights", ["imagenet", "official", "official-long", "s3://bucket/w.safetensors", None])
def test_names_and_addresses_of_weights_stay_as_they_are(weights: str | None) -> None:
    config = parse_config(
        {"name": "r", "epochs": 1, "data": {"path": "d"}, "model": {"name": "resnet18", "weights": weights}}
    )
    assert resolve_paths(config).model.weights == weights


def test_local_weights_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = parse_config(
        {"name": "r", "epochs": 1, "data": {"path": "d"}, "model": {"name": "resnet18", "weights": "w.pth"}}
    )
    assert resolve_paths(config).model.weights == str(tmp_path / "w.pth")
