from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raytrain_xai.data.info import contact_sheet, inspect_dataset
from raytrain_xai.data.prepare import prepare
from raytrain_xai.data.voc import CLASSES, read_voc


def test_counts_by_hand(devkit, tmp_path: Path) -> None:
    devkit.add("train", "a", [("cat", (1, 1, 20, 30)), ("cat", (21, 1, 40, 15)), ("dog", (1, 1, 4, 3))])
    devkit.add("train", "b", [("cat", (1, 1, 40, 30))])
    devkit.add_mask("b", np.full((30, 40), 8, dtype=np.uint8))
    devkit.add("val", "c", [("dog", (1, 1, 40, 30))])
    prepare(read_voc(str(devkit.root), 2007), str(tmp_path / "out"))
    report = inspect_dataset(str(tmp_path / "out"))
    train = report.splits["train"]
    cat, dog = CLASSES.index("cat"), CLASSES.index("dog")
    assert (train.images, train.boxes, train.masks) == (2, 4, 1)
    assert (train.images_per_class[cat], train.images_per_class[dog]) == (2, 1)
    assert (train.boxes_per_class[cat], train.boxes_per_class[dog]) == (3, 1)
    assert train.boxes_per_image == 2.0
    assert train.image_size == (40, 30)
    # shares 12 / 1200, .25, .5 and 1: the median lies between .25 and .5
    assert train.box_share[1] == pytest.approx(0.375)
    assert report.splits["val"].boxes_per_class[dog] == 1


def test_groups_are_counted(birds: str) -> None:
    splits = inspect_dataset(birds).splits
    assert splits["train"].images_per_group == (71, 4, 4, 71)
    assert splits["test"].images_per_group == (19, 19, 19, 18)


def test_contact_sheet_draws_boxes_where_they_are(devkit, tmp_path: Path) -> None:
    devkit.add("train", "a", [("cat", (1, 1, 40, 30))], size=(40, 30))
    (devkit.root / "JPEGImages" / "a.jpg").unlink()
    Image.new("RGB", (40, 30), (128, 128, 128)).save(devkit.root / "JPEGImages" / "a.jpg")
    devkit_xml = (devkit.root / "Annotations" / "a.xml").read_text()
    assert "<xmax>40</xmax>" in devkit_xml
    (devkit.root / "Annotations" / "a.xml").write_text(devkit_xml.replace(">40<", ">20<"))
    prepare(read_voc(str(devkit.root), 2007), str(tmp_path / "out"))
    sheet = Image.open(io.BytesIO(contact_sheet(str(tmp_path / "out"), "train", 12)))
    pixels = np.asarray(sheet).astype(int)
    coloured = np.abs(pixels - pixels.mean(axis=2, keepdims=True)).max(axis=2) > 60
    columns = np.flatnonzero(coloured.any(axis=0))
    # a tile is 192 px, the picture 188 px wide at 2: the box covers its left half
    assert columns[0] == 2
    assert abs(columns[-1] - (2 + 94)) <= 1
    assert sheet.size == (6 * 192, 192)


def test_contact_sheet_is_repeatable_and_bounded(multi: str) -> None:
    first = contact_sheet(multi, "test", 7)
    assert first == contact_sheet(multi, "test", 7)
    assert Image.open(io.BytesIO(first)).size == (6 * 192, 2 * 192)
    assert Image.open(io.BytesIO(contact_sheet(multi, "val", 500))).size == (6 * 192, 2 * 192)  # 10 images
