from __future__ import annotations

from pathlib import Path

import pytest

from raytrain_xai.data.imagefolder import read_imagefolder
from raytrain_xai.data.records import Box, FileRecipe
from raytrain_xai.errors import DataError


def fill(root: Path, names: dict[str, int]) -> str:
    for folder, count in names.items():
        (root / folder).mkdir(parents=True)
        for number in range(count):
            (root / folder / f"{number:03d}.jpg").write_bytes(b"-")
    return str(root)


def test_split_folders_are_kept(tmp_path: Path) -> None:
    src = fill(tmp_path, {"train/dog": 3, "train/cat": 2, "val/dog": 1, "test/cat": 1, "test/cow": 1})
    (tmp_path / "train/dog/.DS_Store").write_bytes(b"-")
    source = read_imagefolder(src, seed=0)
    assert source.classes == ("cat", "dog")
    assert [(e.id, e.labels) for e in source.splits["val"]] == [("val/dog/000.jpg", (1,))]
    assert len(source.splits["train"]) == 5
    assert "unknown class 'cow'" in str(source.splits["test"][1].problem)


def test_division_is_seeded_stratified_and_complete(tmp_path: Path) -> None:
    src = fill(tmp_path, {"dog": 100, "cat": 20, "rare": 1})
    first, again, other = (read_imagefolder(src, seed) for seed in (3, 3, 4))
    ids = {split: [e.id for e in entries] for split, entries in first.splits.items()}
    assert {split: len(v) for split, v in ids.items()} == {"train": 70 + 14 + 1, "val": 15 + 3, "test": 15 + 3}
    assert len({i for v in ids.values() for i in v}) == 121
    assert sum(i.startswith("cat/") for i in ids["val"]) == 3
    assert ids == {split: [e.id for e in entries] for split, entries in again.splits.items()}
    assert ids != {split: [e.id for e in entries] for split, entries in other.splits.items()}


def test_own_boxes(tmp_path: Path) -> None:
    src = fill(tmp_path, {"train/dog": 4, "train/cat": 1})
    (tmp_path / "boxes.csv").write_text(
        "path,label,x0,y0,x1,y1\n"
        "train/dog/000.jpg,dog,1,2,3.5,4\n"
        "train/dog/000.jpg,dog,5,6,7,8\n"
        "train/dog/001.jpg,cat,1,2,3,4\n"
        "train/dog/002.jpg,dog,1,2,3,\n"
        "train/dog/900.jpg,dog,1,2,3,4\n"
    )
    entries = {e.id: e for e in read_imagefolder(src, seed=0).splits["train"]}
    recipe = entries["train/dog/000.jpg"].recipe
    assert isinstance(recipe, FileRecipe)
    assert recipe.boxes == (Box(1, 1.0, 2.0, 3.5, 4.0), Box(1, 5.0, 6.0, 7.0, 8.0))
    plain = entries["train/dog/003.jpg"].recipe
    assert isinstance(plain, FileRecipe)
    assert plain.boxes == ()
    assert "gives it class 'cat', its folder is 'dog'" in str(entries["train/dog/001.jpg"].problem)
    assert "not four numbers" in str(entries["train/dog/002.jpg"].problem)
    assert "in no class" in str(entries["boxes.csv:train/dog/900.jpg"].problem)


def test_folders_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no folder"):
        read_imagefolder(str(tmp_path / "nowhere"), seed=0)
    with pytest.raises(DataError, match="1 class folders"):
        read_imagefolder(fill(tmp_path, {"train/dog": 2, "train/empty": 0}), seed=0)
