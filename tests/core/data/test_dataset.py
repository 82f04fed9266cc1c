from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from shutil import copytree

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raytrain_xai.data.dataset import StoredSplit, open_dataset
from raytrain_xai.data.parquet import ROW_GROUP_ROWS
from raytrain_xai.data.prepare import prepare
from raytrain_xai.data.scenes import SceneOptions, embedded_scenes, read_scenes_birds
from raytrain_xai.errors import DataError


def test_description(birds: str) -> None:
    info = open_dataset(birds)
    assert info.classes == ("landbird", "waterbird")
    assert info.splits == {"train": 150, "val": 37, "test": 75}
    assert (info.task, info.kind, info.has_masks) == ("multiclass", "scenes-birds", True)
    assert info.groups is not None
    assert info.groups[2] == "waterbird_on_land"


def test_fingerprint_is_that_of_the_content(birds: str, multi: str, tmp_path: Path) -> None:
    copytree(birds, tmp_path / "copy")
    assert open_dataset(str(tmp_path / "copy")).fingerprint == open_dataset(birds).fingerprint
    assert open_dataset(multi).fingerprint != open_dataset(birds).fingerprint


def test_fingerprint_does_not_depend_on_where_the_source_lay(birds: str, tmp_path: Path) -> None:
    copytree(embedded_scenes(), tmp_path / "scenes")
    source = read_scenes_birds(str(tmp_path / "scenes"), SceneOptions(num_train=150, size=32))
    prepare(source, str(tmp_path / "birds"), shard_rows=90)
    assert open_dataset(str(tmp_path / "birds")).fingerprint == open_dataset(birds).fingerprint


def test_rows_agree_with_a_plain_read_of_the_files(birds: str) -> None:
    stored = StoredSplit(birds, "train")
    plain = pa.concat_tables([pq.read_table(f) for f in sorted((Path(birds) / "train").iterdir())]).to_pylist()
    assert len(stored) == len(plain) == 150
    notes = stored.annotations
    for index in (149, 0, 63, 64, 89, 90, 91, 1):  # over the borders of row groups and shards
        image, mask = stored.encoded(index)
        row = plain[index]
        assert (image, mask) == (row["image"], row["mask"])
        assert notes.ids[index].as_py() == row["id"]
        assert notes.groups[index] == row["group"]
        (box,) = row["boxes"]
        assert notes.boxes[notes.box_offsets[index]].tolist() == [box[side] for side in ("x0", "y0", "x1", "y1")]
        assert notes.multi_hot(np.array([index]), 2)[0, row["labels"][0]] == 1


def test_row_group_cache_is_bounded(birds: str) -> None:
    stored = StoredSplit(birds, "train")
    for index in (0, 80, 100, 0, 149, 70):
        stored.encoded(index)
        assert sum(table.num_rows for table in stored._cache.values()) <= 2 * ROW_GROUP_ROWS


def test_descriptions_of_files_are_bounded_and_made_again(tmp_path: Path) -> None:
    source = read_scenes_birds(str(embedded_scenes()), SceneOptions(num_train=150, size=32))
    prepare(source, str(tmp_path / "small"), shard_rows=16)
    stored = StoredSplit(str(tmp_path / "small"), "train")
    stored._described_rows = 3 * 16
    plain = pa.concat_tables([pq.read_table(f) for f in sorted((tmp_path / "small" / "train").iterdir())])
    for index in (0, 149, 20, 40, 60, 0, 21):
        assert stored.encoded(index)[0] == plain["image"][index].as_py()
        assert len(stored._described) <= 3


def _encoded(stored: StoredSplit, index: int) -> bytes:
    return stored.encoded(index)[0]


def test_a_split_travels_to_another_process(birds: str) -> None:
    stored = StoredSplit(birds, "val")
    expected = stored.encoded(5)[0]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_encoded, (stored, 5)) == expected


@pytest.fixture
def copy(birds: str, tmp_path: Path) -> Path:
    copytree(birds, tmp_path / "copy")
    return tmp_path / "copy"


def edit_manifest(folder: Path, **changes) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_data_sets_that_are_none_name_the_remedy(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist: run `raytrain-xai data prepare"):
        open_dataset(str(tmp_path / "nothing"))
    with pytest.raises(DataError, match="no split 'dev'; it has train, val, test"):
        StoredSplit(str(copy), "dev")
    edit_manifest(copy, format_version=99)
    with pytest.raises(DataError, match="has format 99, this release reads 1"):
        open_dataset(str(copy))
    edit_manifest(copy, format_version=1, splits={"train": [{"rows": 3}]})
    with pytest.raises(DataError, match="is damaged"):
        open_dataset(str(copy))
    (copy / "manifest.json").unlink()
    with pytest.raises(DataError, match="is not finished"):
        open_dataset(str(copy))


def test_missing_torn_and_replaced_shards_are_named(copy: Path) -> None:
    shard = copy / "val" / "part-00000.parquet"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(DataError, match=r"part-00000.parquet has \d+ bytes, its manifest says"):
        StoredSplit(str(copy), "val")
    shard.write_bytes(whole[:-8] + b"12345678")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        StoredSplit(str(copy), "val")
    shard.unlink()
    with pytest.raises(DataError, match="cannot read .*part-00000.parquet: it does not exist"):
        StoredSplit(str(copy), "val")


def replace_shard(folder: Path, table: pa.Table) -> None:
    file = folder / "val" / "part-00000.parquet"
    pq.write_table(table, file)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["splits"]["val"][0]["bytes"] = file.stat().st_size
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_files_of_another_schema_are_refused(copy: Path) -> None:
    table = pq.read_table(copy / "val" / "part-00000.parquet")
    replace_shard(copy, table.replace_schema_metadata(None))
    with pytest.raises(DataError, match="was not written by"):
        StoredSplit(str(copy), "val")
    wrong = table.set_column(2, "width", table["width"].cast(pa.int64()))
    replace_shard(copy, wrong.replace_schema_metadata(table.schema.metadata))
    with pytest.raises(DataError, match="expected id: string"):
        StoredSplit(str(copy), "val")
    replace_shard(copy, table.drop_columns(["mask"]))
    with pytest.raises(DataError, match="has columns"):
        StoredSplit(str(copy), "val")
    newer = {b"raytrain_xai": b'{"format_version": 2}'}
    replace_shard(copy, table.replace_schema_metadata(newer))
    with pytest.raises(DataError, match="has format 2"):
        StoredSplit(str(copy), "val")
