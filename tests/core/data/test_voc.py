from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from raytrain_xai.data.records import Box, FileRecipe
from raytrain_xai.data.voc import CLASSES, read_voc
from raytrain_xai.errors import DataError


def test_boxes_become_half_open_and_parts_and_difficult_are_handled(devkit) -> None:
    devkit.add("train", "a", [("cat", (1, 1, 40, 30)), ("person", (11, 5, 11, 6))])
    entry = read_voc(str(devkit.root), 2007).splits["train"][0]
    assert isinstance(entry.recipe, FileRecipe)
    assert entry.recipe.boxes == (Box(7, 0, 0, 40, 30), Box(14, 10, 4, 11, 6))  # the head boxes are not objects
    assert entry.labels == (7, 14)
    assert entry.recipe.mask is None


@pytest.mark.parametrize("depth", ["folder", "devkit", "parent"])
def test_every_usual_folder_is_found(devkit, depth: str) -> None:
    devkit.add("val", "a", [("dog", (1, 1, 5, 5))])
    src = {"folder": devkit.root, "devkit": devkit.root.parent, "parent": devkit.root.parent.parent}[depth]
    assert [e.id for e in read_voc(str(src), 2007).splits["val"]] == ["a"]


def test_missing_devkit_and_lists_are_named(devkit, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no VOC2012 devkit"):
        read_voc(str(tmp_path), 2012)
    with pytest.raises(DataError, match=r"none of train.txt, val.txt and test.txt"):
        read_voc(str(devkit.root), 2007)


def test_bad_annotations_are_reported_one_by_one(devkit) -> None:
    devkit.add("train", "good", [("dog", (1, 1, 5, 5))])
    devkit.add("train", "dragon", [("dragon", (1, 1, 5, 5))])
    devkit.add("train", "words", [("dog", ("one", 1, 5, 5))])
    devkit.add("train", "torn", [("dog", (1, 1, 5, 5))])
    (devkit.root / "Annotations" / "torn.xml").write_text("<annotation><object>")
    devkit.list("train", "absent")
    devkit.list("val", "good")
    splits = read_voc(str(devkit.root), 2007).splits
    problems = {e.id: e.problem for e in splits["train"]}
    assert problems["good"] is None
    assert "unknown class 'dragon'" in str(problems["dragon"])
    assert "expected four numbers" in str(problems["words"])
    assert "not valid XML" in str(problems["torn"])
    assert problems["absent"] == "missing annotation file"
    assert splits["val"][0].problem == "good is also in train.txt"


def test_image_without_objects_is_left_out(devkit) -> None:
    devkit.add("train", "full", [("dog", (1, 1, 5, 5))])
    devkit.add("train", "empty", [])
    source = read_voc(str(devkit.root), 2007)
    assert [e.id for e in source.splits["train"]] == ["full"]
    assert source.notes == ("1 images without annotated objects left out",)


def test_shared_voc_agrees_with_torchvision(shared_data: Path) -> None:
    """All boxes of train and val against torchvision's parser of the same files."""
    from torchvision.datasets import VOCDetection

    source = read_voc(str(shared_data), 2012)
    assert {split: len(e) for split, e in source.splits.items()} == {"train": 1342, "val": 679, "test": 686}
    for split in ("train", "val"):
        reference = VOCDetection(str(shared_data), year="2012", image_set=split)
        assert len(reference) == len(source.splits[split])
        for entry, file in zip(source.splits[split], reference.annotations, strict=True):
            tree = VOCDetection.parse_voc_xml(ElementTree.parse(file).getroot())
            corners = ("xmin", "ymin", "xmax", "ymax")
            expected = [(o["name"], *(int(o["bndbox"][c]) for c in corners)) for o in tree["annotation"]["object"]]
            assert isinstance(entry.recipe, FileRecipe)
            found = [(CLASSES[b.label], b.x0 + 1, b.y0 + 1, b.x1, b.y1) for b in entry.recipe.boxes]
            assert found == expected, entry.id


def test_shared_voc_masks_agree_with_torchvision(shared_data: Path) -> None:
    from torchvision.datasets import VOCSegmentation

    reference = VOCSegmentation(str(shared_data), year="2012", image_set="val")
    by_id = {e.id: e for e in read_voc(str(shared_data), 2012).splits["val"]}
    for number in range(0, len(reference), 60):
        image, target = reference[number]
        entry = by_id[Path(reference.images[number]).stem]
        assert entry.recipe is not None
        content = entry.recipe.load()
        assert content.mask is not None
        assert np.array_equal(content.mask, np.array(target))
        assert content.mask.shape == (image.height, image.width)
        shown = {label + 1 for label in entry.labels}
        assert set(np.unique(content.mask).tolist()) - {0, 255} <= shown
