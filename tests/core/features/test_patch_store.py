"""Stored patch features: equal for any number of workers, computed once, and checked when read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.errors import CheckpointError
from raytrain_xai.features import patch_store
from raytrain_xai.features.patch_store import own_patches, patch_chunks
from raytrain_xai.language.backbone import Backbone, load_backbone
from raytrain_xai.storage import Location, locate


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("squeezenet1_1")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """24 images are 4 chunks, the last one not full."""
    monkeypatch.setattr(patch_store, "CHUNK", 7)


def share(backbone: Backbone, objects: str, store: Location | None = None, rank: int = 0, world_size: int = 1):
    return own_patches(backbone, objects, "train", 48, store=store, rank=rank, world_size=world_size)


def test_features_are_those_of_the_images(backbone: Backbone, objects: str) -> None:
    whole = share(backbone, objects)
    stored = StoredSplit(objects, "train")
    assert whole.features.shape == (24, 512, 3, 3) and whole.features.dtype == torch.float16
    assert whole.rows.tolist() == whole.place.tolist() == list(range(24))
    for row in (0, 13, 23):
        offsets = stored.annotations.label_offsets
        expected = stored.annotations.labels[offsets[row] : offsets[row + 1]].tolist()
        assert whole.labels[row].nonzero().flatten().tolist() == expected


def test_workers_own_parts_of_one_whole(backbone: Backbone, objects: str) -> None:
    whole = share(backbone, objects)
    parts = [share(backbone, objects, rank=rank, world_size=3) for rank in range(3)]
    assert sorted(row for part in parts for row in part.rows.tolist()) == list(range(24))
    for part in parts:
        assert torch.equal(part.features, whole.features[part.rows])
        assert torch.equal(part.labels, whole.labels[part.rows])
        assert torch.equal(part.place[part.rows], torch.arange(len(part.rows)))
        assert int((part.place >= 0).sum()) == len(part.rows)


def test_a_worker_may_own_nothing(backbone: Backbone, objects: str) -> None:
    own = share(backbone, objects, rank=4, world_size=5)
    assert len(own.rows) == len(own.features) == len(own.labels) == 0
    assert own.place.tolist() == [-1] * 24


def test_what_is_stored_is_not_computed_again(backbone: Backbone, objects: str, tmp_path: Path) -> None:
    first = share(backbone, objects, locate(str(tmp_path)))

    def refuse(_: Tensor) -> Tensor:
        raise AssertionError("computed again")

    again = share(replace(backbone, forward=refuse), objects, locate(str(tmp_path)))
    assert torch.equal(first.features, again.features)
    with pytest.raises(AssertionError, match="computed again"):
        share(replace(backbone, forward=refuse, fingerprint="of another"), objects, locate(str(tmp_path)))


@pytest.mark.parametrize("content", [b"", b"not tensors"])
def test_damaged_chunks_are_named(content: bytes, backbone: Backbone, objects: str, tmp_path: Path) -> None:
    share(backbone, objects, locate(str(tmp_path)))
    file = sorted(tmp_path.rglob("*.safetensors"))[1]
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"{file.name} is damaged; delete it"):
        share(backbone, objects, locate(str(tmp_path)))


def test_chunks_of_a_share_are_in_order(backbone: Backbone, objects: str) -> None:
    whole = share(backbone, objects)
    parts = list(patch_chunks(whole, 10))
    assert [len(features) for features, _ in parts] == [10, 10, 4]
    assert torch.equal(torch.cat([features for features, _ in parts]), whole.features)
    assert torch.equal(torch.cat([labels for _, labels in parts]), whole.labels)
