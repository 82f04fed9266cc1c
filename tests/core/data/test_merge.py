from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from raytrain_xai.data.dataset import StoredSplit, open_dataset
from raytrain_xai.data.feedback import Flag, read_feedback, split_of, store_flag
from raytrain_xai.data.merge import merge_datasets
from raytrain_xai.data.prepare import prepare
from raytrain_xai.data.records import Box, Content, Entry, Source
from raytrain_xai.errors import DataError
from raytrain_xai.serving.pictures import open_picture
from raytrain_xai.storage import locate


@dataclass(frozen=True)
class Given:
    image: bytes
    boxes: tuple[Box, ...] = ()

    def load(self) -> Content:
        return Content(self.image, self.boxes, None)


def flagged(birds: str, images: list[bytes], folder: Path) -> str:
    """A prepared set of flags, each with the box (2, 3, 20, 30) of the first class."""
    classes = open_dataset(birds).classes
    for data in images:
        flag = Flag(
            model="birds", version="1", classes=classes, task="multiclass", verdict="wrong_reason",
            answered=classes[0], instead=None, box=(2.0, 3.0, 20.0, 30.0), note="", client="ada",
            image_sha256=hashlib.sha256(data).hexdigest(), width=40, height=32,
        )  # fmt: skip
        store_flag(locate(str(folder / "store")), flag, data, open_picture(data, max_pixels=2000))
    prepare(read_feedback(str(folder / "store" / "birds")), str(folder / "flags"))
    return str(folder / "flags")


def small(folder: Path, name: str, images: dict[str, bytes], **changes: object) -> str:
    entries = [Entry(id, id, (0,), Given(data)) for id, data in images.items()]
    fields = {"kind": "test", "task": "multiclass", "classes": ("cat", "dog"), "groups": None, **changes}
    prepare(Source(splits={"train": entries}, options={}, **fields), str(folder / name))
    return str(folder / name)


def test_flags_join_the_data_a_model_learned_from(birds: str, make_jpeg, tmp_path: Path) -> None:
    images = [make_jpeg(40, 32, seed=seed) for seed in range(12)]
    flags = flagged(birds, images, tmp_path)
    merged = merge_datasets(birds, flags, str(tmp_path / "both"))
    assert merged.left_out == ()
    info = open_dataset(str(tmp_path / "both"))
    assert info.kind == "scenes-birds+feedback"
    assert info.groups == open_dataset(birds).groups
    assert info.classes == open_dataset(birds).classes
    splits = [split_of(hashlib.sha256(data).hexdigest()) for data in images]
    assert info.splits == {"train": 150 + splits.count("train"), "val": 37 + splits.count("val"),
                           "test": 75 + splits.count("test")}  # fmt: skip
    stored, alone = StoredSplit(str(tmp_path / "both"), "train"), StoredSplit(birds, "train")
    assert stored.annotations.ids.to_pylist()[:150] == alone.annotations.ids.to_pylist()
    rows = np.arange(150, len(stored))
    ids = [stored.annotations.ids[int(row)].as_py() for row in rows]
    assert {hashlib.sha256(stored.encoded(int(row))[0]).hexdigest() for row in rows} == set(ids)
    assert set(stored.annotations.groups[rows]) == {-1}
    offsets = stored.annotations.box_offsets
    for row in rows:
        assert stored.annotations.boxes[offsets[row] : offsets[row + 1]].tolist() == [[2, 3, 20, 30]]
    old, new = alone.shards, stored.shards
    assert [shard.sha256 for shard in new[: len(old)]] == [shard.sha256 for shard in old]


def test_an_image_of_the_first_set_is_not_taken_again(birds: str, make_jpeg, tmp_path: Path) -> None:
    test = StoredSplit(birds, "test")
    known, fresh = test.encoded(7)[0], make_jpeg(40, 32)
    dest = str(tmp_path / "both")
    first = small(tmp_path, "first", {"a": known, "b": make_jpeg(8, 8)})
    second = small(tmp_path, "second", {"c": known, "b": fresh, "d": make_jpeg(9, 9)})
    merged = merge_datasets(first, second, dest)
    assert [(record.file, record.reason) for record in merged.left_out] == [
        ("c", "the same image is in the first data set as a (train)"),
        ("b", "the first data set has another image of this id (train)"),
    ]
    assert StoredSplit(dest, "train").annotations.ids.to_pylist() == ["a", "b", "d"]
    # the id of a flagged image is the hash of what was sent, whatever was stored of it
    third = small(tmp_path, "third", {hashlib.sha256(known).hexdigest(): fresh})
    again = merge_datasets(first, third, dest, overwrite=True)
    assert "the same image is in the first data set as a" in again.left_out[0].reason
    assert open_dataset(dest).splits == {"train": 2}


def test_files_of_sets_of_one_kind_are_copied_and_numbered_anew(make_jpeg, tmp_path: Path) -> None:
    first = small(tmp_path, "first", {"a": make_jpeg(8, 8)})
    second = small(tmp_path, "second", {"b": make_jpeg(9, 9)})
    merged = merge_datasets(first, second, str(tmp_path / "both"))
    assert [shard.file for shard in merged.manifest.splits["train"]] == [
        "train/part-00000.parquet", "train/part-00001.parquet"
    ]  # fmt: skip
    for number, place in enumerate((first, second)):
        copied = (tmp_path / "both" / "train" / f"part-0000{number}.parquet").read_bytes()
        assert copied == Path(place, "train", "part-00000.parquet").read_bytes()
    assert StoredSplit(str(tmp_path / "both"), "train").annotations.ids.to_pylist() == ["a", "b"]


def test_sets_that_do_not_fit(make_jpeg, tmp_path: Path) -> None:
    images = {"a": make_jpeg(8, 8)}
    first = small(tmp_path, "first", images, groups=("x", "y"))
    dest = str(tmp_path / "both")
    cases = {
        "classes of .*cat, dog; those of .*dog, cat": {"classes": ("dog", "cat")},
        "is multiclass, .* is multilabel": {"task": "multilabel"},
        "groups of .*x, y; those of .*z": {"groups": ("z",)},
    }
    for number, (message, changes) in enumerate(cases.items()):
        with pytest.raises(DataError, match=message):
            merge_datasets(first, small(tmp_path, f"other{number}", images, **changes), dest)
    with pytest.raises(DataError, match="are the same data set"):
        merge_datasets(first, first, dest)
    other = small(tmp_path, "other", {"b": make_jpeg(9, 9)})
    with pytest.raises(DataError, match="is the data set that is read"):
        merge_datasets(first, other, other, overwrite=True)
    assert open_dataset(other).splits == {"train": 1}
