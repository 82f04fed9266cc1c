"""Images and task files for the tools in which people draw boxes: CVAT and Label Studio.

Layout: ``images/<stem>.<jpg, png, webp or bmp>``, ``cvat/labels.json``, ``label_studio/tasks.json`` and ``config.xml``.

Boxes that a network suggests are given to Label Studio only, which keeps predictions apart from annotations and exports
none that nobody accepted. CVAT would take them for annotations like all others.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from PIL import Image

from raytrain_xai.annotation.looks import Look
from raytrain_xai.data.annotation_order import Order
from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.data.decode import decode_rgb
from raytrain_xai.data.image_names import image_stem
from raytrain_xai.storage import Location, write_bytes, write_files

IMAGES = "images"
CVAT_LABELS, TASKS, CONFIG = "cvat/labels.json", "label_studio/tasks.json", "label_studio/config.xml"
_SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "BMP": "bmp"}
_ORIENTATION = 0x0112  # EXIF tag
_NAME, _TO = "label", "image"  # of the tags in config.xml, to which tasks refer


def write_task_files(
    folder: Location, order: Order, stored: StoredSplit, looks: Mapping[str, Look] | None = None, model: str = ""
) -> None:
    """Write the images of an order and what the tools need to know of them.

    Args:
        folder: local or s3://; Label Studio reads the images where they are written.
        order: which images, in which order.
        stored: split they are in.
        looks: by id, for predicted boxes; None for none.
        model: name by which Label Studio calls who predicted.
    Raises:
        DataError: a stored image is damaged, or the folder cannot be written.
    """
    rows, classes = stored.find(order.ids), stored.info.classes
    files = _write_images(folder, stored, dict(zip(order.ids, rows.tolist(), strict=True)))
    sizes = stored.annotations.size[rows].tolist()
    tasks: list[dict[str, Any]] = []
    for rank, name in enumerate(order.ids):
        score = None if order.scores is None else order.scores[rank]
        address = _address(folder, files[name])
        task: dict[str, Any] = {"data": {_TO: address, "id": name, "rank": rank + 1, "score": score}}
        if looks is not None and (boxes := _predicted_boxes(looks[name], classes, sizes[rank])):
            least = min(box["score"] for box in boxes)
            task["predictions"] = [{"model_version": model, "score": least, "result": boxes}]
        tasks.append(task)
    write_bytes(folder.child(*TASKS.split("/")), (json.dumps(tasks, indent=1) + "\n").encode())
    write_bytes(folder.child(*CONFIG.split("/")), labelling_config(classes).encode())
    labels = [{"name": name, "type": "rectangle", "attributes": []} for name in classes]
    write_bytes(folder.child(*CVAT_LABELS.split("/")), (json.dumps(labels, indent=1) + "\n").encode())


def labelling_config(classes: Sequence[str]) -> str:
    """Label Studio's interface for drawing boxes of some classes, XML."""
    labels = "\n".join(f"    <Label value={quoteattr(name)}/>" for name in classes)
    return (
        f'<View>\n  <Image name="{_TO}" value="${_TO}" zoom="true"/>\n'
        f'  <RectangleLabels name="{_NAME}" toName="{_TO}" canRotate="false">\n'
        f"{labels}\n  </RectangleLabels>\n</View>\n"
    )


def upright_file(data: bytes) -> tuple[bytes, str]:
    """An image as every program shows it as we read it, and the suffix for its name.

    Stored files are read without regard to EXIF orientation, annotation tools turn them: a box drawn there would be
    beside the object here. Such files become PNG; all others stay as they are.
    """
    with Image.open(io.BytesIO(data), formats=tuple(_SUFFIXES)) as image:
        if image.getexif().get(_ORIENTATION, 1) == 1:
            return data, _SUFFIXES[str(image.format)]
    buffer = io.BytesIO()
    Image.fromarray(decode_rgb(data)).save(buffer, format="PNG")
    return buffer.getvalue(), "png"


def _write_images(folder: Location, stored: StoredSplit, rows: Mapping[str, int]) -> dict[str, str]:
    """Write the images of some rows by id; returns the name of the file of each."""
    files: dict[str, str] = {}

    def contents() -> Iterator[tuple[str, bytes]]:
        for name, row in rows.items():
            data, suffix = upright_file(stored.encoded(row)[0])
            files[name] = f"{image_stem(name)}.{suffix}"
            yield f"{IMAGES}/{files[name]}", data

    write_files(folder, contents())
    return files


def _address(folder: Location, file: str) -> str:
    """Where Label Studio finds an image: on S3, or below the folder that it serves files from."""
    if not folder.is_local:
        return folder.child(IMAGES, file).uri.partition("?")[0]
    return f"/data/local-files/?d={quote(folder.path.rstrip('/').rpartition('/')[2])}/{IMAGES}/{file}"


def _predicted_boxes(look: Look, classes: Sequence[str], size: Sequence[int]) -> list[dict[str, Any]]:
    """Of the classes that the network finds, in percent of the picture, as Label Studio counts."""
    width, height = size
    boxes: list[dict[str, Any]] = []
    for number, (label, box) in enumerate(zip(look.labels, look.boxes.tolist(), strict=True)):
        if not look.is_found(number):
            continue
        x0, y0, x1, y1 = box
        value = {
            "x": 100 * x0 / width, "y": 100 * y0 / height,
            "width": 100 * (x1 - x0) / width, "height": 100 * (y1 - y0) / height,
            "rotation": 0, "rectanglelabels": [classes[label]],
        }  # fmt: skip
        boxes.append({
            "id": f"box{number}", "type": "rectanglelabels", "from_name": _NAME, "to_name": _TO,
            "original_width": width, "original_height": height, "image_rotation": 0, "value": value,
            "score": look.probabilities[number],
        })  # fmt: skip
    return boxes
