"""What is settled before workers start."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from raytrain_xai.config import parse_config
from raytrain_xai.data.annotation_order import Order, write_order
from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.errors import ConfigError
from raytrain_xai.runners.preflight import check_run, resolve_paths
from raytrain_xai.storage import locate


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


def test_an_order_of_annotation_becomes_absolute_and_is_looked_at(
    tmp_path: Path, birds: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    raw = {
        "name": "r", "epochs": 1, "workers": 0, "batch_size": 8, "data": {"path": str(birds), "image_size": 32},
        "model": {"name": "bcos_resnet_tiny", "norm_statistics": "batch"}, "guidance": {"annotation_order": "o.json"},
    }  # fmt: skip
    config = resolve_paths(parse_config(raw))
    assert config.guidance.annotation_order == str(tmp_path / "o.json")
    with pytest.raises(ConfigError, match=r"no order of annotation at .*o\.json"):
        check_run(config, is_new=True)
    stored = StoredSplit(str(birds), "train")
    ids = tuple(stored.annotations.ids.to_pylist())
    order = Order("random", 0, "r", None, stored.info.fingerprint, ids[:12])
    write_order(locate("o.json"), order)
    with pytest.raises(ConfigError, match=f"asks for {len(ids)} images"):
        check_run(config, is_new=True)
    write_order(locate("o.json"), replace(order, ids=ids))
    check_run(config, is_new=True)
