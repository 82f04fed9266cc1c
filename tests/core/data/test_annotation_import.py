from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from export_cases import Images, archive, as_json, cvat_coco, cvat_voc, label_studio_coco, label_studio_voc
from PIL import Image

from raytrain_xai.data.annotation_export import read_export
from raytrain_xai.data.annotation_import import annotated_order, import_annotations, match_export
from raytrain_xai.data.annotation_order import annotation_budget, write_order
from raytrain_xai.data.boxes import drawn_order
from raytrain_xai.data.coco import read_coco
from raytrain_xai.data.dataset import StoredSplit, open_dataset
from raytrain_xai.data.image_names import image_stem
from raytrain_xai.data.manifest import Manifest, read_manifest
from raytrain_xai.data.prepare import prepare
from raytrain_xai.data.records import Entry, FileRecipe, Source
from raytrain_xai.data.voc import read_voc
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.sections import GuidanceConfig
from raytrain_xai.storage import locate

SIZE = (64, 64)  # of the images of ``multi``


@pytest.fixture(scope="module")
def drawn(multi: str) -> Images:
    """Boxes with fractions of a pixel on images of two shards of train, and on one of val."""
    classes = open_dataset(multi).classes
    ids = [StoredSplit(multi, "train").annotations.ids[k].as_py() for k in (3, 20, 5)]
    ids.append(StoredSplit(multi, "val").annotations.ids[2].as_py())
    boxes = [(classes[0], 1.25, 2.5, 30.75, 40.0), (classes[2], 10.5, 0.0, 64.0, 63.25)]
    return {f"{image_stem(id)}.png": boxes[: 1 + k % 2] for k, id in enumerate(ids)}


def written(tmp_path: Path, data: bytes, name: str) -> str:
    (tmp_path / name).write_bytes(data)
    return str(tmp_path / name)


def imported(dataset: str, export: str, dest: Path, **names: str) -> Manifest:
    new = match_export(dataset, read_export(export), names)
    assert new.bad_records == ()
    return import_annotations(dataset, new, str(dest), origin="export")


def boxes_of(stored: StoredSplit, id: str) -> list[tuple[str, ...]]:
    notes, (row,) = stored.annotations, stored.find([id])
    span = slice(notes.box_offsets[row], notes.box_offsets[row + 1])
    names = [stored.info.classes[label] for label in notes.box_labels[span]]
    return [(name, *box) for name, box in zip(names, notes.boxes[span].tolist(), strict=True)]


def assert_boxes(dataset: Path, drawn: Images, tolerance: float) -> None:
    for split in ("train", "val"):
        stored = StoredSplit(str(dataset), split)
        known = set(stored.annotations.ids.to_pylist())
        for file, expected in drawn.items():
            if Path(file).stem in known:
                found = boxes_of(stored, Path(file).stem)
                assert [box[0] for box in found] == [box[0] for box in expected]
                assert np.array([b[1:] for b in found]) == pytest.approx(
                    np.array([b[1:] for b in expected]), abs=tolerance
                )


@pytest.mark.parametrize("tool", ["cvat", "label studio"])
@pytest.mark.parametrize("packed", [True, False])
def test_coco_comes_back(tool: str, packed: bool, multi: str, drawn: Images, tmp_path: Path) -> None:
    exported = cvat_coco(drawn, SIZE) if tool == "cvat" else label_studio_coco(drawn, SIZE)
    name = "annotations/instances_default.json" if tool == "cvat" else "result.json"
    data = archive({name: as_json(exported), "images/a.png": b"x", "__MACOSX/._a.json": b"x"})
    export = written(tmp_path, data if packed else as_json(exported), "e.zip" if packed else "e.json")
    imported(multi, export, tmp_path / "new")
    assert_boxes(tmp_path / "new", drawn, 1e-5)  # these boxes have two digits


@pytest.mark.parametrize("tool", ["cvat", "label studio"])
def test_voc_comes_back(tool: str, multi: str, drawn: Images, tmp_path: Path) -> None:
    members = cvat_voc(drawn, SIZE) if tool == "cvat" else label_studio_voc(drawn, SIZE)
    imported(multi, written(tmp_path, archive(members), "e.zip"), tmp_path / "new")
    if tool == "label studio":  # rounds corner and size down
        whole = {"1.25": 1.0, "2.5": 2.0, "30.75": 30.0, "40.0": 39.0, "10.5": 10.0, "64.0": 63.0, "63.25": 63.0}
        drawn = {f: [(b[0], *(whole.get(str(v), v) for v in b[1:])) for b in boxes] for f, boxes in drawn.items()}
    assert_boxes(tmp_path / "new", drawn, 1e-5)


def test_everything_else_is_carried_over_bit_for_bit(multi: str, drawn: Images, tmp_path: Path) -> None:
    before = {file: file.read_bytes() for file in Path(multi).rglob("*") if file.is_file()}
    manifest = imported(multi, written(tmp_path, as_json(cvat_coco(drawn, SIZE)), "e.json"), tmp_path / "new")
    assert before == {file: file.read_bytes() for file in before}
    assert read_manifest(locate(str(tmp_path / "new"))) == manifest
    assert manifest.options["annotations"] == "export"
    same = [
        file.relative_to(multi).as_posix()
        for file, data in before.items()
        if (tmp_path / "new" / file.relative_to(multi)).read_bytes() == data
    ]
    # 40 rows of train lie in shards of 16, of which those of rows 3, 5 and 20 change; 20 of test in two
    assert sorted(same) == ["test/part-00000.parquet", "test/part-00001.parquet", "train/part-00002.parquet"]
    for split in ("train", "val"):
        old, new = StoredSplit(multi, split), StoredSplit(str(tmp_path / "new"), split)
        assert new.annotations.ids == old.annotations.ids
        for row, id in enumerate(old.annotations.ids.to_pylist()):
            assert new.encoded(row) == old.encoded(row)
            if f"{id}.png" not in drawn:
                assert boxes_of(new, id) == boxes_of(old, id)


def test_a_class_that_was_drawn_becomes_a_label(multi: str, tmp_path: Path) -> None:
    stored = StoredSplit(multi, "train")
    hot = stored.annotations.multi_hot(np.arange(len(stored)), len(stored.info.classes))
    row = int(np.argmin(hot.sum(axis=1)))
    label = int(np.argmin(hot[row]))
    id = stored.annotations.ids[row].as_py()
    boxes = {f"{id}.png": [(stored.info.classes[label], 0, 0, 9, 9)]}
    new = match_export(multi, read_export(written(tmp_path, as_json(cvat_coco(boxes, SIZE)), "e.json")))
    assert new.notes == ("1 images have a class more now: somebody drew a box of it",)
    import_annotations(multi, new, str(tmp_path / "new"), origin="export")
    hot[row, label] = 1
    changed = StoredSplit(str(tmp_path / "new"), "train")
    assert (changed.annotations.multi_hot(np.arange(len(stored)), len(stored.info.classes)) == hot).all()


def test_devkit_imported_into_itself_changes_nothing(shared_data: Path, tmp_path: Path) -> None:
    root = shared_data / "VOCdevkit" / "VOC2012"
    source = read_voc(str(root), 2012)
    entries = source.splits["train"][::60]
    dataset = str(tmp_path / "voc")
    old = prepare(replace(source, splits={"train": entries}), dataset)
    (tmp_path / "export").mkdir()
    for entry in entries:
        (tmp_path / "export" / f"{entry.id}.xml").write_bytes((root / "Annotations" / f"{entry.id}.xml").read_bytes())
    export = read_export(str(tmp_path / "export"))
    assert export.notes == (f"corners of {len(entries)} files of the VOC devkit read as 1-based and inclusive",)
    new = match_export(dataset, export)
    assert len(new.boxes) == len(entries) == 23
    manifest = import_annotations(dataset, new, str(tmp_path / "new"), origin="export")
    assert manifest.fingerprint() == old.fingerprint()


# pycocotools hands numpy an array in the old way
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_imported_into_itself_changes_nothing(shared_data: Path, tmp_path: Path) -> None:
    source = read_coco(str(shared_data / "coco"))
    entries = [e for e in source.splits["train"] if not any(o.is_crowd for o in e.recipe.outlines)][:12]
    dataset = str(tmp_path / "coco")
    old = prepare(replace(source, splits={"train": entries}), dataset)
    new = match_export(dataset, read_export(str(shared_data / "coco" / "annotations" / "instances_train.json")))
    assert list(new.boxes) == [entry.id for entry in entries]
    assert {"no image of the data set" in bad.reason for bad in new.bad_records} == {True}  # of the other images
    assert import_annotations(dataset, new, str(tmp_path / "new"), origin="x").fingerprint() == old.fingerprint()


def test_what_is_wrong_is_listed_and_the_rest_imported(multi: str, tmp_path: Path) -> None:
    known = open_dataset(multi).classes[0]
    ids = StoredSplit(multi, "train").annotations.ids.to_pylist()
    images = {
        ids[0]: [(known, 0, 0, 9, 9)],
        ids[1]: [(known[:-1] + "?", 0, 0, 9, 9), (known, 50, 0, 70, 9)],
        ids[2]: [(known, 5, 5, 5.5, 9)],
        ids[3]: [(known, 9, 5, 5, 9)],
        "elsewhere": [(known, 0, 0, 9, 9)],
    }
    raw = cvat_coco({f"{id}.png": boxes for id, boxes in images.items()}, SIZE)
    raw["images"].append({"id": 99, "file_name": f"{ids[4]}.png", "width": 128, "height": 128})
    raw["images"].append({"id": 100, "file_name": f"{ids[5]}.png", "width": 0, "height": 0})
    raw["images"].append({"id": 101, "file_name": f"copy/{ids[0]}.png", "width": 64, "height": 64})
    box = {"category_id": raw["annotations"][0]["category_id"], "bbox": [0, 0, 5, 5]}
    raw["annotations"] += [
        {**box, "id": 20, "image_id": 99},
        {**box, "id": 21, "image_id": 100, "category_id": 77},
        {**box, "id": 22, "image_id": 101},
    ]
    new = match_export(multi, read_export(written(tmp_path, as_json(raw), "e.json")))
    assert {id: len(boxes) for id, boxes in new.boxes.items()} == {ids[0]: 1}
    reasons = {bad.file: bad.reason for bad in new.bad_records}
    expected = {
        "elsewhere.png": "no image of the data set has this name",
        f"{ids[1]}.png": rf"unknown class .*did you mean '{known}'.*; box \(50, 0, 70, 9\) reaches outside the image",
        f"{ids[2]}.png": "thinner than a pixel",
        f"{ids[3]}.png": "is inverted",
        f"{ids[4]}.png": "drawn on an image of 128 x 128 pixels, the stored one has 64 x 64",
        f"{ids[5]}.png": "annotation 21 has category 77, which is not listed",
        f"copy/{ids[0]}.png": "more than once, with different boxes",
    }
    assert reasons.keys() == expected.keys()
    for file, reason in expected.items():
        assert re.search(reason, reasons[file]), reasons[file]


def test_what_became_a_box_is_said_and_turned_boxes_are_cut_at_the_border(multi: str, tmp_path: Path) -> None:
    id, known = StoredSplit(multi, "train").annotations.ids[0].as_py(), open_dataset(multi).classes[0]
    raw = cvat_coco({f"{id}.png": [(known, 2, 10, 12, 50)] * 3, "other.png": []}, SIZE)
    turned, outline, mask = raw["annotations"]
    turned["attributes"]["rotation"] = 270.0  # 10 x 40 about (7, 30) becomes 40 x 10, which begins at x = -13
    outline["segmentation"] = [[2, 10, 12, 10, 12, 50]]
    mask["segmentation"] = {"size": [64, 64], "counts": [4096]}
    new = match_export(multi, read_export(written(tmp_path, as_json(raw), "e.json")))
    corners = np.array([(box.x0, box.y0, box.x1, box.y1) for box in new.boxes[id]])
    assert corners == pytest.approx(np.array([(0, 25, 27, 35), (2, 10, 12, 50), (2, 10, 12, 50)]))
    assert list(new.notes[:4]) == [
        "1 outlines became the boxes around them",
        "1 masks became the boxes around them",
        "1 turned boxes became the upright boxes around them",
        "1 images without boxes in the export are left as they are: nobody may have seen them",
    ]


def test_interrupted_import_is_no_data_set_until_it_is_run_again(multi: str, drawn: Images, tmp_path: Path) -> None:
    new = match_export(multi, read_export(written(tmp_path, as_json(cvat_coco(drawn, SIZE)), "e.json")))
    whole = import_annotations(multi, new, str(tmp_path / "whole"), origin="x")

    def stop(_images: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_annotations(multi, new, str(tmp_path / "torn"), origin="x", progress=stop)
    with pytest.raises(DataError, match="is not finished"):
        open_dataset(str(tmp_path / "torn"))
    assert import_annotations(multi, new, str(tmp_path / "torn"), origin="x") == whole


def test_nothing_usable_is_an_error(multi: str, tmp_path: Path) -> None:
    export = read_export(written(tmp_path, as_json(cvat_coco({"a.png": []}, SIZE)), "e.json"))
    with pytest.raises(DataError, match="no image of .* has usable boxes in .*: it has no boxes"):
        match_export(multi, export)


def test_box_of_another_class_is_refused_where_images_have_one(birds: str, tmp_path: Path) -> None:
    stored = StoredSplit(birds, "train")
    label = int(stored.annotations.labels[0])
    name = f"{stored.annotations.ids[0].as_py()}.png"
    raw = cvat_coco({name: [(stored.info.classes[1 - label], 0, 0, 9, 9)]}, (32, 32))
    with pytest.raises(DataError, match=f"in an image whose one class is {stored.info.classes[label]}"):
        match_export(birds, read_export(written(tmp_path, as_json(raw), "e.json")))


def test_turned_file_is_refused_unless_it_was_made_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30)).save(buffer, format="JPEG", exif=exif)
    (tmp_path / "a.jpg").write_bytes(buffer.getvalue())
    entry = Entry("a", "a.jpg", (0,), FileRecipe(tmp_path / "a.jpg"))
    prepare(Source("test", "multilabel", ("cat",), None, {"train": [entry]}, options={}), str(tmp_path / "set"))
    for name in ("a.jpg", "a.png"):
        raw = cvat_coco({name: [("cat", 0, 0, 9, 9)]}, (40, 30))
        export = read_export(written(tmp_path, as_json(raw), "e.json"))
        if name == "a.jpg":
            with pytest.raises(DataError, match="EXIF orientation 3"):
                match_export(str(tmp_path / "set"), export)
        else:  # as annotate suggest writes it, upright
            assert match_export(str(tmp_path / "set"), export).bad_records == ()


def test_classes_that_are_called_otherwise(multi: str, tmp_path: Path) -> None:
    known = open_dataset(multi).classes[1]
    id = StoredSplit(multi, "train").annotations.ids[0].as_py()
    export = written(tmp_path, as_json(cvat_coco({f"{id}.png": [("Thing", 0, 0, 9, 9)]}, SIZE)), "e.json")
    imported(multi, export, tmp_path / "new", Thing=known)
    assert boxes_of(StoredSplit(str(tmp_path / "new"), "train"), id) == [(known, 0, 0, 9, 9)]
    with pytest.raises(ConfigError, match=f"Thing={known}x: no class '{known}x' .did you mean '{known}'"):
        match_export(multi, read_export(export), {"Thing": f"{known}x"})
    with pytest.raises(ConfigError, match="no box in the export is called 'Thin' .did you mean 'Thing'"):
        match_export(multi, read_export(export), {"Thin": known})


def test_the_data_set_itself_is_never_written(multi: str, drawn: Images, tmp_path: Path) -> None:
    new = match_export(multi, read_export(written(tmp_path, as_json(cvat_coco(drawn, SIZE)), "e.json")))
    (tmp_path / "link").symlink_to(multi)
    for dest in (multi, str(tmp_path / "link")):
        with pytest.raises(DataError, match="is the data set that is read"):
            import_annotations(multi, new, dest, origin="export", overwrite=True)
    import_annotations(multi, new, str(tmp_path / "new"), origin="a.zip")
    with pytest.raises(DataError, match="--overwrite"):
        import_annotations(multi, new, str(tmp_path / "new"), origin="a.zip")
    second = import_annotations(str(tmp_path / "new"), new, str(tmp_path / "newer"), origin="b.zip")
    assert second.options["annotations"] == "a.zip; b.zip"


def test_order_makes_a_budget_of_exactly_the_annotated_images(multi: str, drawn: Images, tmp_path: Path) -> None:
    new = match_export(multi, read_export(written(tmp_path, as_json(cvat_coco(drawn, SIZE)), "e.json")))
    order = annotated_order(multi, new)
    stored = StoredSplit(multi, "train")
    ids = np.array(stored.annotations.ids.to_pylist())
    assert list(new.boxes) == [*ids[[3, 5, 20]], Path(list(drawn)[3]).stem]  # as stored, not as exported
    # the one of val is not for training; a part of these is what chance draws of them
    assert order.ids == tuple(ids[row] for row in drawn_order(40, 0) if row in (3, 5, 20))
    assert order.ids != tuple(ids[[3, 5, 20]])
    write_order(locate(str(tmp_path / "order.json")), order)
    guidance = GuidanceConfig(annotation_order=str(tmp_path / "order.json"), annotated_fraction=3.5 / 40)
    assert np.flatnonzero(annotation_budget(stored, guidance, seed=5)).tolist() == [3, 5, 20]
    with pytest.raises(DataError, match="no training image"):
        annotated_order(multi, replace(new, splits=dict.fromkeys(new.splits, "val")))
