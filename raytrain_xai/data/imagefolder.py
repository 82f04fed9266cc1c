"""Your own images: one folder per class, with or without split folders, and your own boxes in a CSV file.

``SRC/train/<class>/*``, ``SRC/val/<class>/*``, ``SRC/test/<class>/*`` (those that exist), or ``SRC/<class>/*``, which
is divided 70 : 15 : 15 within each class by the seed. ``SRC/boxes.csv`` with the columns path (below SRC), label,
x0, y0, x1, y1 (pixels, half-open) gives boxes to guide with; images without a line in it are trained on unguided.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from raytrain_xai.data.records import SPLITS, Box, Entry, FileRecipe, Source, bad_entry
from raytrain_xai.data.tables import read_table
from raytrain_xai.errors import DataError

_SHARES = (0.70, 0.85)  # cumulated shares of train and of train + val, of images without split folders


def read_imagefolder(src: str, seed: int) -> Source:
    """List the images of all class folders.

    Raises:
        DataError: no such folder, fewer than two classes, or ``boxes.csv`` lacks a column.
    """
    root = Path(src)
    if not root.is_dir():
        raise DataError(f"no folder {root}; give the folder that holds train/<class>/ or <class>/ folders")
    has_splits = (root / "train").is_dir()
    files = _files_by_split(root) if has_splits else _divide(_files_by_class(root), seed)
    classes = tuple(sorted({name for name, _ in files["train"]}))
    if len(classes) < 2:
        raise DataError(f"{root} holds {len(classes)} class folders with images, expected two or more")
    boxes = _read_boxes(root)
    splits = {
        split: [_read_entry(root, name, file, classes, boxes.pop(_key(root, file), [])) for name, file in members]
        for split, members in files.items()
    }
    for path in boxes:
        splits["train"].append(bad_entry(f"boxes.csv:{path}", root / path, "boxes.csv names it, but it is in no class"))
    options = {"seed": None if has_splits else seed}
    return Source("imagefolder", "multiclass", classes, None, splits, options=options)


def _files_by_split(root: Path) -> dict[str, list[tuple[str, Path]]]:
    found = {split: root / split for split in SPLITS if (root / split).is_dir()}
    return {split: _files_by_class(folder) for split, folder in found.items()}


def _files_by_class(folder: Path) -> list[tuple[str, Path]]:
    """(class, file) of all files in class folders, sorted; hidden files (``.DS_Store``) are not data."""
    return [
        (class_folder.name, file)
        for class_folder in sorted(folder.iterdir())
        if class_folder.is_dir() and not class_folder.name.startswith(".")
        for file in sorted(class_folder.iterdir())
        if file.is_file() and not file.name.startswith(".")
    ]


def _divide(files: list[tuple[str, Path]], seed: int) -> dict[str, list[tuple[str, Path]]]:
    splits: dict[str, list[tuple[str, Path]]] = {split: [] for split in SPLITS}
    generator = np.random.default_rng(seed)
    for name in sorted({name for name, _ in files}):
        members = [pair for pair in files if pair[0] == name]
        order = generator.permutation(len(members))
        # at least one training image, or the class would be unknown
        first = max(1, round(_SHARES[0] * len(members)))
        second = max(first, round(_SHARES[1] * len(members)))
        for split, part in zip(SPLITS, np.split(order, [first, second]), strict=True):
            splits[split].extend(members[i] for i in sorted(part))
    return splits


def _read_entry(root: Path, name: str, file: Path, classes: tuple[str, ...], lines: list[dict[str, str]]) -> Entry:
    record_id = _key(root, file)
    if name not in classes:
        return bad_entry(record_id, file, f"unknown class {name!r}: train has {', '.join(classes)}")
    label = classes.index(name)
    boxes: list[Box] = []
    for line in lines:
        if line["label"] != name:
            return bad_entry(record_id, file, f"boxes.csv gives it class {line['label']!r}, its folder is {name!r}")
        try:
            x0, y0, x1, y1 = (float(line[side]) for side in ("x0", "y0", "x1", "y1"))
        except (TypeError, ValueError):
            return bad_entry(record_id, file, f"boxes.csv: corners are not four numbers in {line}")
        boxes.append(Box(label, x0, y0, x1, y1))
    return Entry(record_id, str(file), (label,), FileRecipe(file, tuple(boxes)))


def _read_boxes(root: Path) -> dict[str, list[dict[str, str]]]:
    file = root / "boxes.csv"
    boxes: dict[str, list[dict[str, str]]] = {}
    if file.is_file():
        for line in read_table(file, ("path", "label", "x0", "y0", "x1", "y1")):
            boxes.setdefault(Path(line["path"]).as_posix(), []).append(line)
    return boxes


def _key(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix()
