from __future__ import annotations

import math
from pathlib import Path

import pytest
from export_cases import archive, as_json, cvat_coco, cvat_voc

from raytrain_xai.data.annotation_export import read_export
from raytrain_xai.data.annotation_records import ExportedBox, ExportedImage, upright
from raytrain_xai.data.exported_names import ImageFinder
from raytrain_xai.data.image_names import image_stem
from raytrain_xai.errors import DataError

COCO = cvat_coco({"a.png": [("cat", 1, 2, 11, 22)]}, (40, 30))
VOC = cvat_voc({"a.png": [("cat", 1, 2, 11, 22)]}, (40, 30))
IMAGE = ExportedImage(("a.png",), (40, 30), (ExportedBox("cat", 1, 2, 11, 22),))


def exported(tmp_path: Path, data: bytes, name: str = "e.json") -> tuple[ExportedImage, ...]:
    (tmp_path / name).write_bytes(data)
    return read_export(str(tmp_path / name)).images


def test_file_folder_and_archive_say_the_same(tmp_path: Path) -> None:
    assert exported(tmp_path, as_json(COCO)) == (IMAGE,)
    assert exported(tmp_path, archive({"annotations/instances_default.json": as_json(COCO)}), "e.zip") == (IMAGE,)
    folder = tmp_path / "folder" / "annotations"
    folder.mkdir(parents=True)
    (folder / "instances_train.json").write_bytes(as_json(COCO))
    (folder / "instances_val.json").write_bytes(as_json(cvat_coco({"b.png": []}, (0, 0))))
    assert read_export(str(tmp_path / "folder")).images == (IMAGE, ExportedImage(("b.png",), None, ()))
    assert [image.boxes for image in exported(tmp_path, archive(VOC), "v.zip")] == [IMAGE.boxes]


def test_archive_on_s3(s3_server: str) -> None:
    from raytrain_xai.storage import locate, write_bytes

    address = f"s3://bucket/e.zip?endpoint_override={s3_server}&scheme=http"
    write_bytes(locate(address), archive({"result.json": as_json(COCO)}))
    assert read_export(address).images == (IMAGE,)


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (b"{", "e.json", "is not JSON"),
        (b"\xff\xfe{", "e.json", "is not JSON"),
        (b"[]", "e.json", "Label Studio's own export"),
        (b'{"images": []}', "e.json", "has the lists images, categories, annotations"),
        (b'{"images": [{"id": 1}], "categories": [], "annotations": []}', "e.json", "'file_name'"),
        (as_json({**COCO, "images": []}), "e.json", "images that it does not list: 1"),
        (b"<annotations></annotations>", "e.xml", "CVAT's own format; export it as COCO 1.0 or PASCAL VOC 1.1"),
        (archive({"images/a.png": b""}), "e.zip", "neither .json .COCO. nor .xml"),
        (archive({"a.json": b"", "a.xml": b""}), "e.zip", "both .json and .xml files"),
        (archive({"result.json": as_json(COCO)})[:-30], "e.zip", "damaged or encrypted ZIP"),
        (b"PK", "e.zip", "damaged or encrypted ZIP"),
        (archive({"a.json": b"aaaaaaaa"}).replace(b"a.json", b"b.json", 1), "e.zip", "damaged or encrypted ZIP"),
    ],
)
def test_files_that_are_no_export(data: bytes, name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        exported(tmp_path, data, name)


def test_missing_export_and_format_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_export(str(tmp_path / "no.zip"))
    (tmp_path / "e.zip").write_bytes(archive({"a.json": as_json(COCO)}))
    with pytest.raises(DataError, match="holds no .xml file; export it as Pascal VOC"):
        read_export(str(tmp_path / "e.zip"), "voc")


def test_annotation_files_may_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raytrain_xai.data.annotation_export._MAX_BYTES", len(as_json(COCO)))
    assert exported(tmp_path, as_json(COCO)) == (IMAGE,)
    with pytest.raises(DataError, match="more than 1 GiB"):
        exported(tmp_path, archive({"a.json": as_json(COCO) + b" "}), "e.zip")


def test_outlines_masks_and_turned_boxes_are_told_apart(tmp_path: Path) -> None:
    raw = cvat_coco({"a.png": [("cat", 10, 10, 20, 14)] * 4}, (40, 30))
    outline, mask, turned, broken = raw["annotations"]
    outline["segmentation"] = [[10, 10, 20, 10, 20, 14]]
    mask.update(segmentation={"size": [30, 40], "counts": [1200]}, iscrowd=1)
    turned["attributes"]["rotation"] = 90.0
    broken["bbox"] = [1, 2, 3]
    (image,) = exported(tmp_path, as_json(raw))
    assert [box.origin for box in image.boxes] == ["outline", "mask", "rotated"]
    # 10 x 4 about (15, 12), turned by a right angle, is 4 x 10 about the same point
    box = image.boxes[2]
    assert (box.x0, box.y0, box.x1, box.y1) == pytest.approx((13, 7, 17, 17))
    assert len(image.problems) == 1
    assert "annotation 4 has no box of four numbers" in image.problems[0]


def test_box_turned_by_half_a_right_angle() -> None:
    square = ExportedBox("cat", 0, 0, 10, 10)
    found = upright(square, -45)
    half = 10 / math.sqrt(2)
    assert (found.x0, found.y0, found.x1, found.y1) == pytest.approx((5 - half, 5 - half, 5 + half, 5 + half))
    assert upright(square, 180) is square


def test_voc_of_a_devkit_counts_from_one_and_parts_are_no_objects(tmp_path: Path) -> None:
    text = VOC["Annotations/a.xml"].decode().replace("<database>Unknown", "<database>The VOC2007 Database")
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
    (image,) = exported(tmp_path, text.replace("</object>", part).encode(), "e.xml")
    assert image == ExportedImage(("a.png", "e"), (40, 30), (ExportedBox("cat", 0, 1, 11, 22),))


def test_voc_files_that_cannot_be_read_are_problems_of_their_image(tmp_path: Path) -> None:
    whole = VOC["Annotations/a.xml"]
    members = {"Annotations/torn.xml": whole[:-20], "Annotations/odd.xml": whole.replace(b"<xmin>1<", b"<xmin>one<")}
    torn, odd = exported(tmp_path, archive(members), "e.zip")
    assert torn.names == ("Annotations/torn",)
    assert "is not valid XML" in torn.problems[0]
    assert odd.problems == ("box of cat has corners ['one', '2', '11', '22'], expected four numbers",)


PATH = "cat/a b.jpg"  # an id as that of an imagefolder


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("train-000001.png", "train-000001"),
        ("images/train-000001.PNG", "train-000001"),
        ("images\\1/0a1b2c3d-train-000001.png", "train-000001"),
        ("../../label-studio/media/upload/4/0a1b2c3d-train-000001.png", "train-000001"),
        ("images/0a1b2c3d__train-000001.png", "train-000001"),
        ("0a1b2c-train-000001", "train-000001"),
        ("/data/local-files/?d=task%2Fimages%2Ftrain-000001.png", "train-000001"),
        ("s3://bucket/task/train-000001.png", "train-000001"),
        ("https://host/task/train-000001.png?signature=a/b.png", "train-000001"),
        (f"{image_stem(PATH)}.jpg", PATH),
        (f"images/0a1b2c3d-{image_stem(PATH)}.jpg", PATH),
        (PATH, PATH),
        ("val2017/cat/a%20b.jpg", PATH),
        ("000000000139.jpg", "139"),
        ("deadbeef-1.jpg", "deadbeef-1"),
    ],
)
def test_names_of_files_lead_to_images(name: str, id: str) -> None:
    assert ImageFinder(["train-000001", PATH, "139", "1", "deadbeef-1"]).find([name]) == id


def test_names_that_lead_nowhere_or_to_several_images() -> None:
    finder = ImageFinder(["a/1.jpg", "a/1.png", "2"])
    assert finder.find(["nothing.jpg", "2.jpg"]) == "2"
    assert finder.find(["images/a/1.png"]) == "a/1.png"
    with pytest.raises(DataError, match="a/1 may be any of a/1.jpg, a/1.png"):
        finder.find(["a/1.webp"])
    with pytest.raises(DataError, match="no image of the data set has this name"):
        finder.find(["3.jpg"])
