from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from raytrain_xai.data.coco import CocoRecipe, Outline, draw_outlines, read_coco
from raytrain_xai.data.records import Box
from raytrain_xai.errors import DataError

# pycocotools hands numpy an array in the old way
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def annotation(number: int, category: int, box: list[float], *, crowd: bool = False, image: int = 1) -> dict:
    x, y, w, h = box
    outline = [[x, y, x + w, y, x + w, y + h, x, y + h]]
    runs = {"size": [30, 40], "counts": [0, 30 * 10, 30 * 30]}  # the first ten columns
    return {
        "id": number, "image_id": image, "category_id": category, "bbox": box, "area": w * h, "iscrowd": int(crowd),
        "segmentation": runs if crowd else outline,
    }  # fmt: skip


def write_coco(root: Path, annotations: list[dict], name: str = "instances_train2017.json") -> None:
    (root / "annotations").mkdir(exist_ok=True)
    (root / "train2017").mkdir(exist_ok=True)
    raw = {
        "images": [{"id": i, "file_name": f"{i:012d}.jpg", "width": 40, "height": 30} for i in (1, 2)],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
        "annotations": annotations,
    }
    (root / "annotations" / name).write_text(json.dumps(raw))


def test_boxes_labels_and_crowds(tmp_path: Path, make_jpeg) -> None:
    objects = [annotation(1, 18, [4, 2, 10, 20]), annotation(2, 1, [0, 0, 10, 30], crowd=True)]
    write_coco(tmp_path, objects)
    (tmp_path / "train2017" / "000000000001.jpg").write_bytes(make_jpeg(40, 30))
    source = read_coco(str(tmp_path))
    assert source.classes == ("person", "dog")  # in the order of category ids
    assert source.notes == ("1 images without annotated objects left out",)
    (entry,) = source.splits["train"]
    assert entry.labels == (0, 1)  # the crowd makes the image positive
    assert entry.recipe is not None
    content = entry.recipe.load()
    assert content.boxes == (Box(1, 4.0, 2.0, 14.0, 22.0),)  # and gives no box
    assert content.mask is not None
    assert (content.mask[2:22, 4:14] == 2).all()
    assert (content.mask[22:, :4] == 255).all()
    assert (content.mask[:, 14:] == 0).all()


def test_smaller_object_lies_on_top() -> None:
    big = Outline(0, 1200.0, False, [[0, 0, 40, 0, 40, 30, 0, 30]])
    small = Outline(5, 25.0, False, [[10, 10, 15, 10, 15, 15, 10, 15]])
    for order in ((big, small), (small, big)):
        mask = draw_outlines(order, (30, 40))
        assert (mask == 6).sum() == 25
        assert (mask == 1).sum() == 1200 - 25


def test_two_years_in_one_folder_are_refused(tmp_path: Path) -> None:
    write_coco(tmp_path, [])
    write_coco(tmp_path, [], "instances_train2014.json")
    with pytest.raises(DataError, match="instances_train2014.json and instances_train2017.json"):
        read_coco(str(tmp_path))


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no annotations/instances"):
        read_coco(str(tmp_path))
    write_coco(tmp_path, [])
    file = tmp_path / "annotations" / "instances_train2017.json"
    for text in ('{"images": [', "[1, 2]", "{}"):
        file.write_text(text)
        with pytest.raises(DataError, match="not a COCO instances file"):
            read_coco(str(tmp_path))


def test_unknown_category_is_a_bad_record(tmp_path: Path) -> None:
    write_coco(tmp_path, [annotation(1, 99, [4, 2, 10, 20])])
    (entry,) = read_coco(str(tmp_path)).splits["train"]
    assert entry.problem == "unknown category id 99"


def test_unreadable_outline_is_a_reason() -> None:
    for shape in ([], {"counts": 3}, None):
        with pytest.raises(DataError, match="segmentation"):
            draw_outlines([Outline(0, 1.0, False, shape)], (30, 40))


def test_shared_coco_agrees_with_pycocotools(shared_data: Path) -> None:
    """Boxes per category, and masks drawn pixel by pixel from pycocotools' own instance masks."""
    from pycocotools.coco import COCO

    source = read_coco(str(shared_data / "coco"))
    assert len(source.classes) == 80
    for split, entries in source.splits.items():
        index = COCO(str(shared_data / "coco" / "annotations" / f"instances_{split}.json"))
        category_of = dict(enumerate(sorted(index.getCatIds())))
        by_id = {e.id: e for e in entries}
        assert set(by_id) == {str(image) for image in index.getImgIds() if index.getAnnIds(imgIds=image)}
        for image in index.getImgIds():
            objects = index.loadAnns(index.getAnnIds(imgIds=image, iscrowd=False))
            if str(image) in by_id:
                recipe = by_id[str(image)].recipe
                assert isinstance(recipe, CocoRecipe)
                found = [(category_of[b.label], b.x0, b.y0, b.x1, b.y1) for b in recipe.boxes]
                expected = [
                    (
                        o["category_id"],
                        o["bbox"][0],
                        o["bbox"][1],
                        o["bbox"][0] + o["bbox"][2],
                        o["bbox"][1] + o["bbox"][3],
                    )
                    for o in objects
                ]
                assert found == expected
        for image in index.getImgIds()[:12]:
            if str(image) not in by_id:
                continue
            recipe = by_id[str(image)].recipe
            assert recipe is not None
            mask = recipe.load().mask
            assert mask is not None
            expected_mask = np.zeros_like(mask)
            objects = index.loadAnns(index.getAnnIds(imgIds=image))
            label_of = {category: label for label, category in category_of.items()}
            for o in sorted((o for o in objects if not o["iscrowd"]), key=lambda o: o["area"]):
                free = (index.annToMask(o) == 1) & (expected_mask == 0)
                expected_mask[free] = label_of[o["category_id"]] + 1
            for o in (o for o in objects if o["iscrowd"]):
                expected_mask[(index.annToMask(o) == 1) & (expected_mask == 0)] = 255
            assert np.array_equal(mask, expected_mask)
