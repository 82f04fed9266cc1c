"""Exports as annotation tools write them, from boxes in pixels.

CVAT: datumaro's exporters (``coco_instances``, ``voc``), which round corners to two digits, count ids from 1, list
every image of the task and keep corners of VOC as they are. Label Studio: its converter, which takes percents of the
image to pixels, puts 8 digits before the name of an uploaded file, and rounds corners of VOC down.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Drawn = tuple[str, float, float, float, float]  # class, x0, y0, x1, y1
Images = Mapping[str, Sequence[Drawn]]  # name of the file -> boxes


def cvat_coco(images: Images, size: tuple[int, int]) -> dict[str, Any]:
    classes = sorted({box[0] for boxes in images.values() for box in boxes})
    drawn = [(number, box) for number, boxes in enumerate(images.values(), 1) for box in boxes]
    return {
        "licenses": [{"name": "", "id": 0, "url": ""}],
        "info": {"contributor": "", "date_created": "", "description": "", "url": "", "version": "", "year": ""},
        "categories": [{"id": k, "name": name, "supercategory": ""} for k, name in enumerate(classes, 1)],
        "images": [
            {"id": number, "width": size[0], "height": size[1], "file_name": name, "license": 0, "flickr_url": "",
             "coco_url": "", "date_captured": 0}
            for number, name in enumerate(images, 1)
        ],
        "annotations": [
            {"id": k, "image_id": number, "category_id": classes.index(name) + 1, "segmentation": [],
             "area": (x1 - x0) * (y1 - y0), "bbox": [round(x0, 2), round(y0, 2), round(x1 - x0, 2), round(y1 - y0, 2)],
             "iscrowd": 0, "attributes": {"occluded": False, "rotation": 0.0}}
            for k, (number, (name, x0, y0, x1, y1)) in enumerate(drawn, 1)
        ],
    }  # fmt: skip


def cvat_voc(images: Images, size: tuple[int, int]) -> dict[str, bytes]:
    """Members of the archive: an annotation of every image, with boxes or not."""
    members = {"labelmap.txt": b"# label:color_rgb:parts:actions\n", "ImageSets/Main/default.txt": b""}
    for file, boxes in images.items():
        objects = "".join(
            f"<object><name>{name}</name><truncated>0</truncated><occluded>0</occluded><difficult>0</difficult>"
            f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax><ymax>{y1}</ymax></bndbox>"
            "<attributes><attribute><name>rotation</name><value>0.0</value></attribute></attributes></object>"
            for name, x0, y0, x1, y1 in boxes
        )
        text = (
            f"<annotation><folder></folder><filename>{file}</filename><source><database>Unknown</database>"
            f"<annotation>Unknown</annotation><image>Unknown</image></source><size><width>{size[0]}</width>"
            f"<height>{size[1]}</height><depth></depth></size><segmented>0</segmented>{objects}</annotation>"
        )
        members[f"Annotations/{Path(file).stem}.xml"] = text.encode()
    return members


def label_studio_coco(images: Images, size: tuple[int, int]) -> dict[str, Any]:
    width, height = size
    classes = sorted({box[0] for boxes in images.values() for box in boxes})
    annotations: list[dict[str, Any]] = []
    for number, boxes in enumerate(images.values()):
        for name, x0, y0, x1, y1 in boxes:
            percent = (x0 / width * 100, y0 / height * 100, (x1 - x0) / width * 100, (y1 - y0) / height * 100)
            box = [value * side / 100 for value, side in zip(percent, (width, height) * 2, strict=True)]
            annotations.append({
                "id": len(annotations), "image_id": number, "category_id": classes.index(name), "segmentation": [],
                "bbox": box, "ignore": 0, "iscrowd": 0, "area": box[2] * box[3],
            })  # fmt: skip
    return {
        "images": [
            {"width": width, "height": height, "id": number, "file_name": f"images/{number:08x}-{name}"}
            for number, name in enumerate(images)
        ],
        "categories": [{"id": k, "name": name} for k, name in enumerate(classes)],
        "annotations": annotations,
        "info": {"year": 2026, "version": "1.0", "description": "", "contributor": "Label Studio", "url": ""},
    }


def label_studio_voc(images: Images, size: tuple[int, int]) -> dict[str, bytes]:
    """Members of the archive: annotations of the images that have boxes."""
    members: dict[str, bytes] = {}
    for number, (file, boxes) in enumerate(images.items()):
        objects = ""
        for name, x0, y0, x1, y1 in boxes:
            x, y, w, h = int(x0), int(y0), int(x1 - x0), int(y1 - y0)
            objects += (
                f"<object>\n<name>{name}</name>\n<pose>Unspecified</pose>\n<bndbox>\n<xmin>{x}</xmin>\n"
                f"<ymin>{y}</ymin>\n<xmax>{x + w}</xmax>\n<ymax>{y + h}</ymax>\n</bndbox>\n</object>\n"
            )
        if objects:
            stored = f"{number:08x}-{file}"
            text = (
                f'<?xml version="1.0" encoding="utf-8"?>\n<annotation>\n<folder>images</folder>\n<filename>{stored}'
                "</filename>\n<source>\n<database>MyDatabase</database>\n</source>\n<owner>\n<name>Label Studio</name>"
                f"\n</owner>\n<size>\n<width>{size[0]}</width>\n<height>{size[1]}</height>\n<depth>3</depth>\n</size>\n"
                f"{objects}</annotation>\n"
            )
            members[f"Annotations/{Path(stored).stem}.xml"] = text.encode()
    return members


def archive(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return buffer.getvalue()


def as_json(raw: object) -> bytes:
    return json.dumps(raw).encode()
