from __future__ import annotations

from pathlib import Path

import pytest

from raytrain_xai.data.records import Box, FileRecipe
from raytrain_xai.data.waterbirds import read_waterbirds
from raytrain_xai.errors import DataError

HEADER = "img_id,img_filename,y,split,place,place_filename\n"
ROWS = (
    "1,001.Albatross/a.jpg,1,0,1,/o/ocean/1.jpg\n"
    "2,002.Sparrow/b.jpg,0,1,0,/b/bamboo/2.jpg\n"
    "3,001.Albatross/c.jpg,1,2,0,/b/bamboo/3.jpg\n"
    "4,002.Sparrow/d.jpg,0,2,1,/o/ocean/4.jpg\n"
)


def write(folder: Path, rows: str = ROWS, boxes: str | None = None) -> str:
    root = folder / "waterbird_complete95"
    root.mkdir()
    (root / "metadata.csv").write_text(HEADER + rows)
    if boxes is not None:
        (folder / "CUB_200_2011").mkdir()
        (folder / "CUB_200_2011" / "bounding_boxes.txt").write_text(boxes)
    return str(root)


def test_splits_labels_and_groups(tmp_path: Path) -> None:
    source = read_waterbirds(write(tmp_path))
    assert {split: [(e.id, e.labels, e.group) for e in entries] for split, entries in source.splits.items()} == {
        "train": [("1", (1,), 3)],
        "val": [("2", (0,), 0)],
        "test": [("3", (1,), 2), ("4", (0,), 1)],
    }
    assert source.groups is not None
    assert source.groups[3] == "waterbird_on_water"
    assert source.groups[1] == "landbird_on_water"
    assert "no bounding_boxes.txt" in source.notes[0]


def test_boxes_of_cub_are_found_beside_it(tmp_path: Path) -> None:
    boxes = "1 60.0 27.0 325.0 304.0\n2 1.0 2.0 3.0 4.0\n4 0.0 0.0 9.0 9.0\n"
    source = read_waterbirds(write(tmp_path, boxes=boxes))
    recipe = source.splits["train"][0].recipe
    assert isinstance(recipe, FileRecipe)
    assert recipe.boxes == (Box(1, 60.0, 27.0, 385.0, 331.0),)
    assert source.splits["test"][0].problem == "no line 3 in bounding_boxes.txt"
    assert source.notes == ()


def test_bad_tables_are_refused_and_bad_rows_reported(tmp_path: Path) -> None:
    source = read_waterbirds(write(tmp_path, rows="7,x.jpg,2,0,1,p\n"))
    assert "expected 0/1, 0/1, 0/1/2" in str(source.splits["train"][0].problem)
    table = tmp_path / "waterbird_complete95" / "metadata.csv"
    table.write_text("img_id,y\n1,0\n")
    with pytest.raises(DataError, match="lacks the columns img_filename, split, place"):
        read_waterbirds(str(table.parent))
    table.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a CSV file"):
        read_waterbirds(str(table.parent))
    with pytest.raises(DataError, match="no metadata.csv"):
        read_waterbirds(str(tmp_path))


def test_damaged_boxes_file_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"bounding_boxes.txt:2"):
        read_waterbirds(write(tmp_path, boxes="1 1 1 1 1\n2 1 1 1\n"))


def test_shared_bird_photographs(shared_data: Path) -> None:
    source = read_waterbirds(str(shared_data / "cub_200_subset"))
    assert {split: len(entries) for split, entries in source.splits.items()} == {"train": 180, "val": 44, "test": 70}
    labels = [entry.labels[0] for entries in source.splits.values() for entry in entries]
    assert labels.count(0) == 88
    assert labels.count(1) == 206
    assert source.groups is None
