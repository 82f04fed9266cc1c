"""Waterbirds (CUB birds pasted on Places backgrounds): ``metadata.csv`` of the released folders.

Columns: img_id, img_filename, y (0 landbird, 1 waterbird), split (0 train, 1 val, 2 test), place (0 land, 1 water).
Groups are 2 * y + place. Boxes are those of CUB-200-2011 (x, y, width, height in the frame of the pasted image, which
keeps the CUB size): ``bounding_boxes.txt`` in the folder, beside it, or in ``CUB_200_2011`` beside it.

A folder with ``images.csv`` (path, class, habitat, split) instead is read as well: plain bird photographs labelled by
habitat, without groups and boxes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from raytrain_xai.data.records import SPLITS, Box, Entry, FileRecipe, Source, bad_entry
from raytrain_xai.data.tables import read_table
from raytrain_xai.errors import DataError

CLASSES = ("landbird", "waterbird")
GROUPS = ("landbird_on_land", "landbird_on_water", "waterbird_on_land", "waterbird_on_water")
_HABITATS = ("land", "water")


def read_waterbirds(src: str) -> Source:
    """List the records of a Waterbirds folder.

    Raises:
        DataError: neither ``metadata.csv`` nor ``images.csv``, or a column is missing.
    """
    root = Path(src)
    if (root / "metadata.csv").is_file():
        return _read_metadata(root)
    if (root / "images.csv").is_file():
        return _read_images_table(root)
    raise DataError(f"no metadata.csv in {root}; give the folder that holds it beside the bird folders")


def _read_metadata(root: Path) -> Source:
    table = read_table(root / "metadata.csv", ("img_id", "img_filename", "y", "split", "place"))
    boxes = _find_boxes(root)
    splits: dict[str, list[Entry]] = {}
    for row in table:
        image = root / row["img_filename"]
        codes = (row["y"], row["place"], row["split"])
        if row["y"] not in ("0", "1") or row["place"] not in ("0", "1") or row["split"] not in ("0", "1", "2"):
            problem = f"y, place, split are {codes}, expected 0/1, 0/1, 0/1/2"
            splits.setdefault("train", []).append(bad_entry(row["img_id"], image, problem))
            continue
        label, place, split = (int(code) for code in codes)
        entries = splits.setdefault(SPLITS[split], [])
        if boxes is not None and row["img_id"] not in boxes:
            entries.append(bad_entry(row["img_id"], image, f"no line {row['img_id']} in bounding_boxes.txt"))
            continue
        box = () if boxes is None else (_to_box(label, boxes[row["img_id"]]),)
        entries.append(Entry(row["img_id"], str(image), (label,), FileRecipe(image, box), 2 * label + place))
    notes = () if boxes is not None else ("no bounding_boxes.txt found: the images have no boxes to guide with",)
    return Source("waterbirds", "multiclass", CLASSES, GROUPS, splits, options={}, notes=notes)


def _find_boxes(root: Path) -> Mapping[str, tuple[float, ...]] | None:
    for folder in (root, root.parent, root.parent / "CUB_200_2011"):
        file = folder / "bounding_boxes.txt"
        if file.is_file():
            return _read_boxes(file)
    return None


def _read_boxes(file: Path) -> dict[str, tuple[float, ...]]:
    boxes: dict[str, tuple[float, ...]] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        parts = line.split()
        if not parts:
            continue
        try:
            x, y, width, height = (float(part) for part in parts[1:])
        except ValueError:
            raise DataError(f"{file}:{number}: {line!r} is not 'id x y width height'") from None
        boxes[parts[0]] = (x, y, width, height)
    return boxes


def _to_box(label: int, box: tuple[float, ...]) -> Box:
    x, y, width, height = box
    return Box(label, x, y, x + width, y + height)


def _read_images_table(root: Path) -> Source:
    splits: dict[str, list[Entry]] = {}
    for row in read_table(root / "images.csv", ("path", "habitat", "split")):
        image = root / row["path"]
        known = row["split"] in SPLITS
        entries = splits.setdefault(row["split"] if known else "train", [])
        if not known or row["habitat"] not in _HABITATS:
            problem = f"habitat {row['habitat']!r}, split {row['split']!r}; expected land or water, {'/'.join(SPLITS)}"
            entries.append(bad_entry(row["path"], image, problem))
            continue
        label = _HABITATS.index(row["habitat"])
        entries.append(Entry(row["path"], str(image), (label,), FileRecipe(image)))
    notes = ("images.csv gives no boxes to guide with, and no groups",)
    return Source("waterbirds", "multiclass", CLASSES, None, splits, options={}, notes=notes)
