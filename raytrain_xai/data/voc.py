"""PASCAL VOC 2007 and 2012 in the layout of the development kit.

Splits are the lists in ``ImageSets/Main``. As in the guidance paper (Rao et al., ICCV 2023) objects marked
``difficult`` count as labels and boxes like all others. XML boxes are 1-based and inclusive; they become 0-based and
half-open, so a box from 1 to W covers the whole width.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from raytrain_xai.data.records import SPLITS, Box, Entry, FileRecipe, Source, bad_entry, drop_unlabelled
from raytrain_xai.errors import DataError

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle",
    "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person",
    "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def read_voc(src: str, year: int) -> Source:
    """Find ``VOC<year>`` at, in or one folder below ``src`` and list its records.

    Raises:
        DataError: no such devkit there, or it has none of the lists train, val and test.
    """
    root = _find_root(Path(src), year)
    lists = {split: root / "ImageSets" / "Main" / f"{split}.txt" for split in SPLITS}
    found = {split: file for split, file in lists.items() if file.is_file()}
    if not found:
        raise DataError(f"{root}/ImageSets/Main holds none of train.txt, val.txt and test.txt; unpack the whole devkit")
    splits: dict[str, list[Entry]] = {}
    listed: dict[str, str] = {}
    for split, file in found.items():
        splits[split] = []
        for image_id in _read_list(file):
            if image_id in listed:
                problem = f"{image_id} is also in {listed[image_id]}.txt"
                splits[split].append(bad_entry(f"{image_id}-again", file, problem))
                continue
            listed[image_id] = split
            splits[split].append(_read_entry(root, image_id))
    labelled, notes = drop_unlabelled(splits)
    return Source(f"voc{year}", "multilabel", CLASSES, None, labelled, options={}, notes=notes)


def _find_root(src: Path, year: int) -> Path:
    name = f"VOC{year}"
    for folder in (src, src / name, src / "VOCdevkit" / name):
        if folder.name == name and (folder / "ImageSets" / "Main").is_dir() and (folder / "Annotations").is_dir():
            return folder
    raise DataError(
        f"no {name} devkit at {src}: expected {name}/ with Annotations, ImageSets/Main and JPEGImages; "
        "give VOCdevkit, its parent, or the folder itself"
    )


def _read_list(file: Path) -> list[str]:
    """First word of every line (lists of one class carry a flag behind the id)."""
    return [line.split()[0] for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def _read_entry(root: Path, image_id: str) -> Entry:
    annotation = root / "Annotations" / f"{image_id}.xml"
    try:
        boxes = _read_boxes(annotation)
    except FileNotFoundError:
        return bad_entry(image_id, annotation, "missing annotation file")
    except ElementTree.ParseError as error:
        return bad_entry(image_id, annotation, f"not valid XML: {error}")
    except DataError as error:
        return bad_entry(image_id, annotation, str(error))
    mask = root / "SegmentationClass" / f"{image_id}.png"
    image = root / "JPEGImages" / f"{image_id}.jpg"
    recipe = FileRecipe(image, boxes, mask if mask.is_file() else None)
    return Entry(image_id, str(image), tuple(sorted({b.label for b in boxes})), recipe)


def _read_boxes(annotation: Path) -> tuple[Box, ...]:
    boxes: list[Box] = []
    # direct children only: "part" elements (head, hand) nest boxes of their own
    for element in ElementTree.parse(annotation).getroot().findall("object"):
        name = element.findtext("name", default="").strip()
        if name not in CLASSES:
            raise DataError(f"unknown class {name!r}; the classes of VOC are {', '.join(CLASSES)}")
        corners = [element.findtext(f"bndbox/{side}", default="") for side in ("xmin", "ymin", "xmax", "ymax")]
        try:
            x0, y0, x1, y1 = (float(text) for text in corners)
        except ValueError:
            raise DataError(f"box of {name} has corners {corners}, expected four numbers") from None
        boxes.append(Box(CLASSES.index(name), x0 - 1, y0 - 1, x1, y1))
    return tuple(boxes)
