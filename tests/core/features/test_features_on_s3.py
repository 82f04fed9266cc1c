"""Features exported to and read from a real HTTP S3 server on loopback: the same guarantees as on a disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.concept_runs.network import adopt_network
from raytrain_xai.config import parse_concept_config
from raytrain_xai.data.feature_shards import FeatureStore
from raytrain_xai.errors import DataError
from raytrain_xai.features import plan as feature_plan
from raytrain_xai.features.source import VectorSource, open_vectors
from raytrain_xai.runners.export_features import export_features
from raytrain_xai.runners.job import Launch
from raytrain_xai.storage import locate, read_bytes, write_bytes

SHARD = ("shards", "00002.safetensors")


def test_features_on_s3_are_those_on_a_disk(
    s3_storage: str, birds: str, make_run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_plan, "IMAGES_PER_SHARD", 5)  # 24 images become 5 shards
    base, options = s3_storage.split("?")
    network = make_run(tmp_path, "n", birds, model="bcos_resnet_tiny")

    def config(store: str) -> ConceptRunConfig:
        return parse_concept_config({
            "job": "concepts", "name": "c", "network": network, "layer": "Mid2", "workers": 0, "batch_size": 8,
            "features": {"store": store, "per_image": 3}, "sae": {"latents": 8, "k": 2},
        })  # fmt: skip

    local, remote = config(str(tmp_path / "store")), config(f"{base}/features?{options}")
    for each in (local, remote):
        export_features(each, ["Mid2"], Launch("local", [].append))
    sources = [opened(each) for each in (local, remote)]
    assert [source.scale for source in sources] == [sources[0].scale] * 2
    for a, b in zip(sources[0].epoch(1, 2), sources[1].epoch(1, 2), strict=True):
        assert torch.equal(a, b)

    at = locate(f"{base}/features?{options}").child("Mid2")
    content = read_bytes(at.child(*SHARD))
    write_bytes(at.child(*SHARD), content[:-2])
    with pytest.raises(DataError, match=r"features/Mid2/shards/00002.safetensors\?.* has \d+ bytes, its manifest says"):
        opened(remote)
    records: list[dict] = []
    export_features(remote, ["Mid2"], Launch("local", records.append))
    assert records[0]["message"].endswith("4 of 5 shards are there")
    assert [r["done"] for r in records if r["kind"] == "tasks"] == [5]
    assert read_bytes(at.child(*SHARD)) == content
    FeatureStore(at)


def opened(config: ConceptRunConfig) -> VectorSource:
    return open_vectors(config, adopt_network(config), rank=0, world_size=1, device=torch.device("cpu"))
