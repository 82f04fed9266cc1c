"""Feature stores: what is kept of a value, and that nothing but a whole store of the right origin is read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from raytrain_xai.data.feature_shards import FeatureStore, Segment
from raytrain_xai.data.feature_store import (
    FeaturePlan,
    claim_store,
    finish_store,
    read_feature_manifest,
    write_shard,
    written_shards,
)
from raytrain_xai.errors import DataError
from raytrain_xai.storage import Location, locate

PLAN = FeaturePlan(
    tap="Mid2", dim=4, size=(2, 3), per_image=2, sampling="contribution", seed=512, network_name="net",
    network="a" * 64, data="d" * 64, split="train", num_images=5, images_per_shard=2, image_size=48, eval_resize=None,
)  # fmt: skip


def rows_of(shard: int) -> Tensor:
    generator = torch.Generator().manual_seed(shard)
    return torch.randn(len(PLAN.images_of(shard)) * 2, 4, generator=generator) * 3


@pytest.fixture
def store(tmp_path: Path) -> Location:
    at = locate(str(tmp_path / "store"))
    claim_store(at, PLAN)
    finish_store(at, PLAN, [write_shard(at, PLAN, shard, rows_of(shard)) for shard in range(PLAN.num_shards)])
    return at


def shard_path(store: Location, shard: int) -> Path:
    return Path(store.path) / "shards" / f"{shard:05d}.safetensors"


def test_counts_follow_from_the_plan() -> None:
    assert (PLAN.num_vectors, PLAN.num_shards, PLAN.num_bytes) == (10, 3, 80)
    assert [list(PLAN.images_of(shard)) for shard in range(3)] == [[0, 1], [2, 3], [4]]
    assert not PLAN.keeps_all and replace(PLAN, per_image=6).keeps_all


def test_rows_come_back_to_eleven_bits(store: Location) -> None:
    opened = FeatureStore(store)
    for shard in range(3):
        expected = rows_of(shard)
        [stored] = opened.rows([Segment(shard, 0, len(expected))])
        assert stored.dtype == torch.float16
        torch.testing.assert_close(stored.float() * opened.unit(shard), expected, rtol=2**-11, atol=1e-6)
    [part, one] = opened.rows([Segment(1, 1, 3), Segment(2, 1, 2)])
    assert torch.equal(part, opened.rows([Segment(1, 0, 4)])[0][1:3])
    assert one.shape == (1, 4)


def test_values_beyond_half_precision_survive(tmp_path: Path) -> None:
    """B-cos features may exceed 65504; a single huge value among small ones may not either."""
    large = rows_of(0) * 1e7
    spike = torch.zeros(2, 4)
    spike[0, 0], spike[1, 1] = 4e9, 1e9
    for rows in (large, spike, torch.zeros(2, 4)):
        at = locate(str(tmp_path / str(float(rows.max()))))
        record = write_shard(at, replace(PLAN, num_images=len(rows) // 2), 0, rows)
        finish_store(at, replace(PLAN, num_images=len(rows) // 2), [record])
        opened = FeatureStore(at)
        [stored] = opened.rows([Segment(0, 0, len(rows))])
        torch.testing.assert_close(stored.float() * opened.unit(0), rows, rtol=2**-10, atol=0)


def test_the_scale_is_the_root_mean_square_length(tmp_path: Path) -> None:
    plan = replace(PLAN, num_images=2, images_per_shard=1)
    at = locate(str(tmp_path / "s"))
    rows = torch.tensor([[3.0, 4.0, 0, 0], [0, 0, 0, 1]]), torch.tensor([[0.0, 0, 0, 0], [5.0, 0, 12, 0]])
    manifest = finish_store(at, plan, [write_shard(at, plan, shard, part) for shard, part in enumerate(rows)])
    assert manifest.scale == pytest.approx(((25 + 1 + 0 + 169) / 4) ** 0.5, rel=1e-12)
    assert read_feature_manifest(at) == manifest


def test_shards_are_ordinary_safetensors(store: Location) -> None:
    with safe_open(str(shard_path(store, 1)), "pt") as file:
        assert list(file.keys()) == ["vectors"]
        assert torch.equal(file.get_tensor("vectors"), FeatureStore(store).rows([Segment(1, 0, 4)])[0])


def test_a_store_that_is_not_there_or_not_finished(tmp_path: Path) -> None:
    at = locate(str(tmp_path / "new"))
    with pytest.raises(DataError, match="new does not exist: run `raytrain-xai concepts features CONFIG`"):
        FeatureStore(at)
    claim_store(at, PLAN)
    write_shard(at, PLAN, 0, rows_of(0))
    with pytest.raises(DataError, match="new is not finished: run"):
        FeatureStore(at)


@pytest.mark.parametrize("length", [0, 5, 100, 151])
def test_a_truncated_shard_is_named(store: Location, length: int) -> None:
    path = shard_path(store, 1)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(DataError, match=rf"00001.safetensors has {length} bytes, its manifest says \d+; export again"):
        FeatureStore(store)


def test_a_missing_shard_is_named(store: Location) -> None:
    shard_path(store, 2).unlink()
    with pytest.raises(DataError, match="00002.safetensors: it does not exist"):
        FeatureStore(store)


def test_a_shard_of_another_store_is_refused(store: Location, tmp_path: Path) -> None:
    """Same layer, same size, other network; then a shard in the place of another."""
    other = replace(PLAN, network="b" * 64)
    write_shard(locate(str(tmp_path / "other")), other, 1, rows_of(1))
    own = shard_path(store, 1).read_bytes()
    shard_path(store, 1).write_bytes((tmp_path / "other" / "shards" / "00001.safetensors").read_bytes())
    with pytest.raises(DataError, match="00001.safetensors belongs to another feature store"):
        FeatureStore(store)
    shard_path(store, 1).write_bytes(own)
    shard_path(store, 0).write_bytes(own)
    with pytest.raises(DataError, match="00000.safetensors belongs to another feature store"):
        FeatureStore(store)


def test_a_file_that_is_no_shard_is_refused(store: Location) -> None:
    path = shard_path(store, 0)
    path.write_bytes(b"x" * len(path.read_bytes()))
    with pytest.raises(DataError, match="00000.safetensors is no shard of features"):
        FeatureStore(store)


def test_a_damaged_manifest_is_named(store: Location) -> None:
    path = Path(store.path) / "manifest.json"
    good = json.loads(path.read_text())
    for bad in ("{", "[]", json.dumps({"plan": good["plan"]}), json.dumps({**good, "shards": [{"file": "x"}]})):
        path.write_text(bad)
        with pytest.raises(DataError, match="manifest.json is damaged"):
            FeatureStore(store)
    path.write_text(json.dumps({**good, "plan": {**good["plan"], "format_version": 9}}))
    with pytest.raises(DataError, match="format 9, this release reads 1; export again"):
        FeatureStore(store)


def test_a_place_is_for_one_plan(store: Location, tmp_path: Path) -> None:
    claim_store(store, PLAN)
    with pytest.raises(
        DataError, match=r"other features: per_image 2 instead of 3, network aaaaaaaaaaaa instead of b{12};"
    ):
        claim_store(store, replace(PLAN, per_image=3, network="b" * 64))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"holds other things \(notes.txt\); set features.store to a new folder"):
        claim_store(locate(str(tmp_path / "mine")), PLAN)


def test_shards_that_are_whole_are_found_again(store: Location) -> None:
    assert sorted(written_shards(store, PLAN)) == [0, 1, 2]
    content = bytearray(shard_path(store, 0).read_bytes())
    content[-1] ^= 1  # one bit
    shard_path(store, 0).write_bytes(content)
    (Path(store.path) / "shards" / "00002.json").unlink()
    assert sorted(written_shards(store, PLAN)) == [1]
