"""From the task files of ``annotate suggest`` through CVAT and Label Studio into a data set."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from export_cases import Images, archive, as_json, cvat_coco, cvat_voc, label_studio_coco
from PIL import Image

from raytrain_xai.annotation.task_files import write_task_files
from raytrain_xai.data.annotation_export import read_export
from raytrain_xai.data.annotation_import import import_annotations, match_export
from raytrain_xai.data.annotation_order import Order
from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.data.prepare import prepare
from raytrain_xai.data.records import Box, Content, Entry, Source
from raytrain_xai.storage import locate

SIZE = (40, 30)
# ids as of an imagefolder, of scenes, of COCO, and of a file that a camera turned
IDS = ("train/cat one/ä.jpg", "train-000001", "17", "turned")
CORNERS = np.array([1.25, 2.5, 30.75, 28.0])


@dataclass(frozen=True)
class Given:
    number: int

    def load(self) -> Content:
        exif, buffer = Image.Exif(), io.BytesIO()
        exif[0x0112] = 6 if IDS[self.number] == "turned" else 1
        pixels = np.random.default_rng(self.number).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, format="JPEG", exif=exif)
        return Content(buffer.getvalue(), (Box(0, 0, 0, 5, 5),), None)


@pytest.fixture
def dataset(tmp_path: Path) -> str:
    entries = [Entry(id, id, (0,), Given(number)) for number, id in enumerate(IDS)]
    source = Source("test", "multilabel", ("cat", "dog & hound"), None, {"train": entries}, options={})
    prepare(source, str(tmp_path / "data"))
    return str(tmp_path / "data")


def drawn_on(files: list[Path]) -> Images:
    """Of the k-th image a box that is k / 100 smaller; what the tools see of a picture is its upright size."""
    for file in files:
        with Image.open(file) as image:
            assert image.size == SIZE
            assert image.getexif().get(0x0112, 1) == 1
    return {file.name: [("dog & hound", *(CORNERS - [0, 0, 0, k / 100]).tolist())] for k, file in enumerate(files)}


@pytest.mark.parametrize("tool", ["CVAT as COCO", "CVAT as VOC", "Label Studio uploaded", "Label Studio local files"])
def test_boxes_come_back_to_their_images(tool: str, dataset: str, tmp_path: Path) -> None:
    stored = StoredSplit(dataset, "train")
    order = Order("random", 0, "run", None, stored.info.fingerprint, IDS[::-1])
    task = tmp_path / "a task"
    write_task_files(locate(str(task)), order, stored)
    tasks = json.loads((task / "label_studio" / "tasks.json").read_bytes())
    served = [unquote(one["data"]["image"].partition("?d=")[2]) for one in tasks]
    images = drawn_on([tmp_path / place for place in served])  # in the order of the order
    assert sorted(images) == sorted(file.name for file in (task / "images").iterdir())
    match tool:
        case "CVAT as COCO":
            data = archive({"annotations/instances_default.json": as_json(cvat_coco(images, SIZE))})
        case "CVAT as VOC":
            escaped = {file: [("dog &amp; hound", *box[1:]) for box in boxes] for file, boxes in images.items()}
            data = archive(cvat_voc(escaped, SIZE))
        case "Label Studio uploaded":
            data = archive({"result.json": as_json(label_studio_coco(images, SIZE))})
        case _:
            raw = label_studio_coco(images, SIZE)
            for record, place in zip(raw["images"], served, strict=True):
                record["file_name"] = f"../../../files/{place}"
            data = as_json(raw)
    name = tmp_path / ("export.json" if tool == "Label Studio local files" else "export.zip")
    name.write_bytes(data)
    new = match_export(dataset, read_export(str(name)))
    assert new.bad_records == ()
    import_annotations(dataset, new, str(tmp_path / "new"), origin=name.name)
    notes = StoredSplit(str(tmp_path / "new"), "train").annotations
    assert notes.box_labels.tolist() == [1, 1, 1, 1]
    expected = [CORNERS - [0, 0, 0, (len(IDS) - 1 - row) / 100] for row in range(len(IDS))]
    assert notes.boxes == pytest.approx(np.array(expected), abs=1e-5)
    assert notes.labels.tolist() == [0, 1] * 4  # what was drawn is there, and what was known stays
