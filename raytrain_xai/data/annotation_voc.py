"""Annotations exported as Pascal VOC: one XML file per image, by CVAT ("PASCAL VOC 1.1") or Label Studio.

The files do not tell how corners count. Those of the devkit are 1-based and inclusive; CVAT writes the corners of its
boxes as they are, 0-based and half-open, and so does Label Studio after it has rounded position and size down to whole
pixels, which moves the far sides in by up to two pixels. A file is taken to be of the devkit when its source is
"The VOC<year> Database".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from xml.etree import ElementTree

from raytrain_xai.data.annotation_records import Export, ExportedBox, ExportedImage, upright
from raytrain_xai.errors import DataError

_DEVKIT = re.compile(r"The VOC\d{4} Database")
_SIDES = ("xmin", "ymin", "xmax", "ymax")


def parse_voc(address: str, files: Mapping[str, bytes]) -> Export:
    """Images of all files.

    Args:
        address: of the export, for messages.
        files: name -> content. A file that is not XML is a problem of the image of its name.
    Raises:
        DataError: the files are of CVAT's own format.
    """
    images: list[ExportedImage] = []
    num_devkit = 0
    for name, data in files.items():
        stem = name.removesuffix(".xml")
        try:
            root = ElementTree.fromstring(data)
        except ElementTree.ParseError as error:
            images.append(ExportedImage((stem,), None, (), (f"{name} is not valid XML: {error}",)))
            continue
        if root.tag == "annotations":
            raise DataError(f"{address}: {name} is of CVAT's own format; export it as COCO 1.0 or PASCAL VOC 1.1")
        is_devkit = _DEVKIT.fullmatch(_text(root, "source/database")) is not None
        num_devkit += is_devkit
        images.append(_read_image(root, stem, first=1 if is_devkit else 0))
    notes = (f"corners of {num_devkit} files of the VOC devkit read as 1-based and inclusive",) if num_devkit else ()
    return Export(address, "voc", tuple(images), notes)


def _read_image(root: ElementTree.Element, stem: str, *, first: int) -> ExportedImage:
    boxes: list[ExportedBox] = []
    problems = [] if root.tag == "annotation" else [f"{stem}.xml is <{root.tag}>, expected <annotation>"]
    # direct children only: "part" elements (head, hand) nest boxes of their own
    for element in root.findall("object"):
        try:
            boxes.append(_read_box(element, first))
        except DataError as error:
            problems.append(str(error))
    names = (_text(root, "filename"), stem)
    return ExportedImage(tuple(filter(None, names)), _size(root), tuple(boxes), tuple(problems))


def _size(root: ElementTree.Element) -> tuple[int, int] | None:
    texts = _text(root, "size/width"), _text(root, "size/height")
    width, height = (int(text) if text.isdecimal() else 0 for text in texts)
    return (width, height) if width and height else None


def _read_box(element: ElementTree.Element, first: int) -> ExportedBox:
    """
    Raises:
        DataError: corners or angle are no numbers.
    """
    name = _text(element, "name")
    texts = [_text(element, f"bndbox/{side}") for side in _SIDES]
    try:
        x0, y0, x1, y1 = map(float, texts)
        degrees = float(_attribute(element, "rotation") or 0)
    except ValueError:
        raise DataError(f"box of {name} has corners {texts}, expected four numbers") from None
    return upright(ExportedBox(name, x0 - first, y0 - first, x1, y1), degrees)


def _attribute(element: ElementTree.Element, name: str) -> str:
    """Value of an attribute as CVAT writes them; empty without."""
    for attribute in element.findall("attributes/attribute"):
        if _text(attribute, "name") == name:
            return _text(attribute, "value")
    return ""


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()
