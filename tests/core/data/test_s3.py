"""Storage, preparing and reading through a real HTTP S3 server on loopback."""

from __future__ import annotations

import pytest
import torch

from raytrain_xai.config import parse_config
from raytrain_xai.data.dataset import open_dataset
from raytrain_xai.data.info import contact_sheet, inspect_dataset
from raytrain_xai.data.loader import evaluation_batches, training_batches
from raytrain_xai.data.prepare import prepare
from raytrain_xai.data.scenes import SceneOptions, read_scenes_multi
from raytrain_xai.errors import DataError
from raytrain_xai.storage import delete_tree, exists, list_names, locate, read_bytes, write_bytes


def test_files_and_folders(s3_server: str) -> None:
    at = locate(f"s3://bucket/files?endpoint_override={s3_server}&scheme=http")
    assert not at.is_local
    assert list_names(at) == []
    file = at.child("deep", "file.bin")
    assert file.uri == f"s3://bucket/files/deep/file.bin?endpoint_override={s3_server}&scheme=http"
    write_bytes(file, b"\x00\x01")
    write_bytes(file, b"again")
    write_bytes(at.child("other"), b"")
    assert read_bytes(file) == read_bytes(locate(file.uri)) == b"again"
    assert list_names(at) == ["deep", "other"]
    assert exists(at.child("deep"))
    delete_tree(at.child("deep"))
    delete_tree(at.child("deep"))
    assert not exists(file)
    assert list_names(at) == ["other"]
    with pytest.raises(DataError, match="s3://bucket/files/deep/file.bin.* does not exist"):
        read_bytes(file)


def test_missing_bucket_is_named(s3_server: str) -> None:
    with pytest.raises(DataError, match=r"cannot write s3://nobody/x"):
        write_bytes(locate(f"s3://nobody/x?endpoint_override={s3_server}&scheme=http"), b"1")


@pytest.fixture(params=["in the address", "in the environment"])
def address(request: pytest.FixtureRequest, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "in the address":
        return f"s3://bucket/one?endpoint_override={s3_server}&scheme=http"
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3_server}")
    return "s3://bucket/two"


def test_data_set_on_s3_equals_the_local_one(address: str, multi: str) -> None:
    """Prepared there, read back through the loader, with the batches of the same data set on disk."""
    source = read_scenes_multi(None, SceneOptions(num_train=40, size=64))
    prepare(source, address, shard_rows=16)
    with pytest.raises(DataError, match="finished data set"):
        prepare(source, address, shard_rows=16)
    info = open_dataset(address)
    assert info == open_dataset(multi)
    assert inspect_dataset(address).splits == inspect_dataset(multi).splits
    assert contact_sheet(address, "val", 6) == contact_sheet(multi, "val", 6)
    batches = [
        [
            *training_batches(_config(path), info, 0, rank=0, world_size=1),
            *evaluation_batches(path, "val", 32, 4),
        ]
        for path in (address, multi)
    ]
    assert len(batches[0]) == 5 + 3
    for remote, local in zip(*batches, strict=True):
        assert torch.equal(remote.images, local.images)
        assert torch.equal(remote.boxes, local.boxes)
        assert torch.equal(remote.index, local.index)


def test_decoding_processes_read_from_s3(s3_server: str) -> None:
    address = f"s3://bucket/three?endpoint_override={s3_server}&scheme=http"
    prepare(read_scenes_multi(None, SceneOptions(num_train=16, size=64)), address)
    info = open_dataset(address)
    parallel = training_batches(_config(address, num_loader_workers=1), info, 0, rank=0, world_size=1)
    plain = training_batches(_config(address), info, 0, rank=0, world_size=1)
    for a, b in zip(parallel, plain, strict=True):
        assert torch.equal(a.images, b.images)


def _config(path: str, **data: int):
    return parse_config(
        {
            "name": "s3", "epochs": 1, "batch_size": 8, "model": {"name": "resnet18"},
            "data": {"path": path, "image_size": 32, "augment": "crop", **data},
        }
    )  # fmt: skip
