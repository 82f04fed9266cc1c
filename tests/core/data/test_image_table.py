from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from raytrain_xai.cli.data import data_group
from raytrain_xai.data.dataset import StoredSplit, open_dataset
from raytrain_xai.data.image_table import read_image_table
from raytrain_xai.data.records import FileRecipe
from raytrain_xai.data.sources import read_source
from raytrain_xai.errors import ConfigError, DataError


def write(folder: Path, text: str) -> str:
    (folder / "table.csv").write_text(text, encoding="utf-8")
    return str(folder / "table.csv")


def test_classes_are_numbered_as_they_appear(tmp_path: Path) -> None:
    src = write(tmp_path, "index,wnid,file\n0,n2,images/a.jpg\n1,n1,images/b.jpg\n1,n1,images/c.jpg\n")
    source = read_image_table(src, "wnid")
    assert (source.kind, source.task, source.classes) == ("table", "multiclass", ("n2", "n1"))
    assert [(e.id, e.labels) for e in source.splits["train"]] == [
        ("images/a.jpg", (0,)), ("images/b.jpg", (1,)), ("images/c.jpg", (1,)),
    ]  # fmt: skip
    assert source.splits["train"][1].recipe == FileRecipe(tmp_path / "images/b.jpg")
    assert list(source.splits) == ["train"]


def test_splits_are_those_of_the_table(tmp_path: Path) -> None:
    src = write(tmp_path, "path,label,split\na.jpg,x,test\nb.jpg,y,train\nc.jpg,x,holdout\n")
    source = read_image_table(src)
    assert {split: [e.id for e in entries] for split, entries in source.splits.items()} == {
        "train": ["b.jpg", "c.jpg"], "test": ["a.jpg"],
    }  # fmt: skip
    assert "split 'holdout' is none of train, val, test" in str(source.splits["train"][1].problem)


@pytest.mark.parametrize("row", ["../out.jpg,x", "/etc/hostname,x", ",x", "a.jpg,"])
def test_rows_that_cannot_be_used_are_bad_records(row: str, tmp_path: Path) -> None:
    source = read_image_table(write(tmp_path, f"file,label\n{row}\nb.jpg,x\nc.jpg,y\n"))
    first, *others = source.splits["train"]
    assert first.problem is not None and first.recipe is None
    assert [entry.problem for entry in others] == [None, None]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,name\na.jpg,x\n", "lacks the columns label"),
        ("image,label\na.jpg,x\n", "lacks a column file or path; it has image, label"),
        ("file,label\n", "has no rows"),
        ("file,label\na.jpg,x\nb.jpg,x\n", "has 1 classes in its column label"),
    ],
)
def test_tables_that_are_none(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_image_table(write(tmp_path, text))


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="give the CSV file"):
        read_image_table(str(tmp_path))


def test_other_kinds_have_no_label_column(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="imagefolder has no option label_column; it is for table"):
        read_source("imagefolder", str(tmp_path), 0, {"label_column": "wnid"})


def test_prepare_by_the_command(tmp_path: Path) -> None:
    for name, colour in (("a.png", "red"), ("b.png", "blue")):
        Image.new("RGB", (8, 6), colour).save(tmp_path / name)
    src = write(tmp_path, "file,wnid\na.png,n2\nb.png,n1\n")
    arguments = ["prepare", "table", src, str(tmp_path / "out"), "--label-column", "wnid", "--workers", "1"]
    done = CliRunner().invoke(data_group, arguments)
    assert done.exit_code == 0, done.output
    assert open_dataset(str(tmp_path / "out")).classes == ("n2", "n1")
    assert StoredSplit(str(tmp_path / "out"), "train").annotations.labels.tolist() == [0, 1]
