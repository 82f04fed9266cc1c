"""Vectors of a step are a function of (configuration, epoch, step), whatever the workers and restarts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.concept_runs.network import AdoptedNetwork
from raytrain_xai.config import parse_concept_config, parse_config
from raytrain_xai.data.dataset import open_dataset
from raytrain_xai.data.feature_shards import FeatureStore
from raytrain_xai.data.feature_store import FeaturePlan, ShardRecord, claim_store, finish_store, write_shard
from raytrain_xai.data.loader import load_samples
from raytrain_xai.data.prepare import prepare
from raytrain_xai.data.sources import read_source
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.features.plan import plan_features
from raytrain_xai.features.source import StoredVectors, VectorSource, open_vectors
from raytrain_xai.models.zoo import build_network
from raytrain_xai.storage import locate

CPU = torch.device("cpu")
ROWS = (700, 500, 801)  # of three shards


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> FeatureStore:
    """Vectors (shard, row, 1), so that every row tells where it is from."""
    at = locate(str(tmp_path_factory.mktemp("stores") / "s"))
    plan = FeaturePlan(
        tap="t", dim=3, size=(1, 1), per_image=1, sampling="uniform", seed=0, network_name="n", network="a", data="d",
        split="train", num_images=sum(ROWS), images_per_shard=1000, image_size=8, eval_resize=None,
    )  # fmt: skip
    claim_store(at, plan)
    records: list[ShardRecord] = []
    for shard, rows in enumerate(ROWS):
        columns = (torch.full((rows,), float(shard)), torch.arange(rows).float(), torch.ones(rows))
        records.append(write_shard(at, plan, shard, torch.stack(columns, dim=1)))
    finish_store(at, plan, records)
    return FeatureStore(at)


def stored(
    store: FeatureStore, *, batch_size: int = 128, seed: int = 0, rank: int = 0, world_size: int = 1
) -> StoredVectors:
    return StoredVectors(store, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size, device=CPU)


def origins(batches: Iterator[Tensor], scale: float) -> list[list[tuple[int, int]]]:
    """(shard, row) of every vector of every batch."""
    found = [(batch * scale).round().to(torch.int64) for batch in batches]
    assert all((batch[:, 2] == 1).all() for batch in found), "rows are divided by the scale of the store"
    return [[(int(shard), int(row)) for shard, row, _ in batch] for batch in found]


def test_an_epoch_holds_every_row_once_and_mixes_shards(store: FeatureStore) -> None:
    source = stored(store)
    assert (source.dim, source.num_vectors) == (3, 2001)
    batches = origins(source.epoch(0), source.scale)
    assert [len(batch) for batch in batches] == [128] * 15
    rows = [row for batch in batches for row in batch]
    assert len(set(rows)) == 15 * 128, "none twice; 81 of the rest are left out"
    assert set(rows) <= {(shard, row) for shard, count in enumerate(ROWS) for row in range(count)}
    assert sum(len({shard for shard, _ in batch}) > 1 for batch in batches) >= 8
    again, other_epoch, other_seed = (
        origins(s.epoch(e), s.scale) for s, e in ((stored(store), 0), (source, 1), (stored(store, seed=1), 0))
    )
    assert again == batches
    assert [set(b) for b in other_epoch] != [set(b) for b in batches]
    assert [set(b) for b in other_seed] != [set(b) for b in batches]


@pytest.mark.parametrize("world_size", [2, 4])
def test_parts_of_workers_are_the_batch_of_one(store: FeatureStore, world_size: int) -> None:
    whole = list(stored(store).epoch(3))
    parts = [list(stored(store, rank=rank, world_size=world_size).epoch(3)) for rank in range(world_size)]
    joined = [torch.cat(step) for step in zip(*parts, strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(joined, whole, strict=True))


def test_an_epoch_goes_on_at_any_step(store: FeatureStore) -> None:
    whole = list(stored(store).epoch(2))
    for start in (1, 7, 14, 15):
        rest = list(stored(store).epoch(2, start))
        assert len(rest) == 15 - start
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[start:], strict=True))


def test_the_whole_store_may_be_one_batch(store: FeatureStore) -> None:
    [batch] = origins(stored(store, batch_size=2001).epoch(0), store.manifest.scale)
    assert sorted(batch) == [(shard, row) for shard, count in enumerate(ROWS) for row in range(count)]
    with pytest.raises(ConfigError, match="has 2001 vectors, less than one batch of 2002; lower batch_size"):
        stored(store, batch_size=2002)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """68 training images in shards of 20."""
    dest = str(tmp_path_factory.mktemp("data") / "scenes")
    prepare(read_source("scenes-multi", None, 0, {"num_train": 68, "size": 32}), dest, shard_rows=20)
    return dest


@pytest.fixture(scope="module")
def adopted(scenes: str) -> AdoptedNetwork:
    torch.manual_seed(0)
    info = open_dataset(scenes)
    network = build_network("bcos_resnet_tiny", len(info.classes)).eval()
    config = parse_config(
        {"name": "n", "epochs": 1, "model": {"name": "bcos_resnet_tiny"}, "data": {"path": scenes, "image_size": 32}}
    )
    return AdoptedNetwork(network, config, {"classes": info.classes})


def concepts(scenes: str, **changes: Any) -> ConceptRunConfig:
    raw = {
        "job": "concepts", "name": "c", "network": "x", "data": scenes, "layer": "Mid2", "batch_size": 32,
        "features": {"per_image": 5, "reservoir": 60}, "sae": {"latents": 8, "k": 2}, "evaluation": {"batch_size": 7},
    }  # fmt: skip
    return parse_concept_config({**raw, **changes})


def reservoir(scenes: str, adopted: AdoptedNetwork, rank: int = 0, world_size: int = 1, **changes: Any) -> VectorSource:
    return open_vectors(concepts(scenes, **changes), adopted, rank=rank, world_size=world_size, device=CPU)


@torch.no_grad()
def every_vector(adopted: AdoptedNetwork, scenes: str) -> Tensor:
    """(images, positions, D) of the training images, one by one."""
    batch, _ = load_samples(scenes, "train", list(range(68)), 32)
    return torch.cat([adopted.network.features(image[None], "Mid2").flatten(2).mT for image in batch.images])


@pytest.mark.parametrize("fillings", [0.15, 1000.0])
def test_the_reservoir_gives_every_position_of_every_image_once(
    scenes: str, adopted: AdoptedNetwork, fillings: float
) -> None:
    """Steps cross fillings, whose size does not divide the batch; then one filling holds all."""
    every = every_vector(adopted, scenes)
    num_images, per_image, _ = every.shape
    size = int(fillings * every[..., 0].numel())
    source = reservoir(scenes, adopted, batch_size=68, features={"per_image": per_image, "reservoir": size})
    assert source.num_vectors == num_images * per_image
    assert source.scale == pytest.approx(float(every.square().sum(dim=2).mean().sqrt()), rel=1e-5)
    batches = list(source.epoch(0))
    assert [batch.shape for batch in batches] == [(68, source.dim)] * per_image
    seen, expected = torch.cat(batches) * source.scale, every.flatten(0, 1)
    views = torch.randn(source.dim, 5, generator=torch.Generator().manual_seed(0))
    a, b = ((rows @ views).sort(dim=0).values for rows in (seen, expected))  # of equal sets, whatever their order
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * source.scale)


def test_the_reservoir_goes_on_at_any_step(scenes: str, adopted: AdoptedNetwork) -> None:
    whole = list(reservoir(scenes, adopted).epoch(1))
    assert len(whole) == 68 * 5 // 32
    source = reservoir(scenes, adopted)
    assert not torch.equal(whole[0], next(source.epoch(2)))
    for start in (1, 4, 8, 10):
        rest = list(source.epoch(1, start))
        assert len(rest) == len(whole) - start
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[start:], strict=True)), start


@pytest.mark.parametrize("world_size", [2, 4])
def test_parts_of_the_reservoir_are_the_batch_of_one(scenes: str, adopted: AdoptedNetwork, world_size: int) -> None:
    """Equal to rounding: workers give the network other batches of images."""
    whole = list(reservoir(scenes, adopted).epoch(0))
    workers = [reservoir(scenes, adopted, rank, world_size) for rank in range(world_size)]
    assert len({worker.scale for worker in workers}) == 1
    joined = [torch.cat(step) for step in zip(*(worker.epoch(0) for worker in workers), strict=True)]
    torch.testing.assert_close(torch.stack(joined), torch.stack(whole), rtol=1e-4, atol=1e-5)


def test_what_a_reservoir_cannot_do_is_refused(scenes: str, adopted: AdoptedNetwork) -> None:
    with pytest.raises(
        ConfigError, match="from 4 streams, which do not divide among 3 workers; change workers, or set"
    ):
        reservoir(scenes, adopted, 0, 3)
    with pytest.raises(ConfigError, match="an epoch has 68 vectors, less than one batch of 100; lower batch_size"):
        reservoir(scenes, adopted, batch_size=100, features={"per_image": 1})


def test_a_store_of_something_else_is_refused(scenes: str, adopted: AdoptedNetwork, tmp_path: Path) -> None:
    config = concepts(scenes, features={"per_image": 5, "store": str(tmp_path)})
    at = locate(str(tmp_path)).child("Mid2")
    with pytest.raises(DataError, match="Mid2 does not exist: run `raytrain-xai concepts features CONFIG`"):
        open_vectors(config, adopted, rank=0, world_size=1, device=CPU)
    plan = plan_features(config, adopted, "Mid2")
    rows = torch.rand(plan.num_vectors, plan.dim)
    finish_store(at, plan, [write_shard(at, plan, 0, rows)])
    source = open_vectors(config, adopted, rank=0, world_size=1, device=CPU)
    assert (source.num_vectors, source.dim) == (68 * 5, plan.dim)
    other = replace(adopted, network=build_network("bcos_resnet_tiny", 8).eval())
    with pytest.raises(DataError, match="holds other features: network [0-9a-f]{12} instead of [0-9a-f]{12}; set feat"):
        open_vectors(config, other, rank=0, world_size=1, device=CPU)
    with pytest.raises(DataError, match="per_image 5 instead of 4"):
        changed = concepts(scenes, features={"per_image": 4, "store": str(tmp_path)})
        open_vectors(changed, adopted, rank=0, world_size=1, device=CPU)
