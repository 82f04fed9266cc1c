"""Images that a CSV table lists: one row an image, with its class and, if you like, its split.

Columns: ``file`` or ``path`` (below the folder of the table), the class in a column of your choice (``label`` unless
told otherwise), and optionally ``split`` (train, val or test). Without that column all images are for training. Classes
are numbered by their first appearance, so that a table in the usual order of ImageNet keeps its numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from raytrain_xai.data.records import SPLITS, Entry, FileRecipe, Source, bad_entry
from raytrain_xai.data.tables import read_table
from raytrain_xai.errors import DataError

_FILE_COLUMNS = ("file", "path")
LABEL = "label"


def read_image_table(src: str, label_column: str = LABEL) -> Source:
    """List the images of a table.

    Args:
        src: the CSV file, in UTF-8 with a header.
        label_column: column with the class of an image.
    Raises:
        DataError: no such file, no such columns, fewer than two classes, or no row at all.
    """
    table = Path(src)
    if not table.is_file():
        raise DataError(f"no file {table}; give the CSV file that lists the images")
    rows = read_table(table, (label_column,))
    column = _file_column(table, rows)
    classes = tuple(dict.fromkeys(row[label_column] for row in rows if row[label_column]))
    if len(classes) < 2:
        raise DataError(f"{table} has {len(classes)} classes in its column {label_column}, expected two or more")
    splits: dict[str, list[Entry]] = {}
    for row in rows:
        split = row.get("split") or "train"
        entry = _read_entry(table.parent, row, column, label_column, classes)
        if split not in SPLITS:
            entry, split = bad_entry(entry.id, entry.file, f"split {split!r} is none of {', '.join(SPLITS)}"), "train"
        splits.setdefault(split, []).append(entry)
    ordered = {split: splits[split] for split in SPLITS if split in splits}
    return Source("table", "multiclass", classes, None, ordered, options={"label_column": label_column})


def _file_column(table: Path, rows: Sequence[dict[str, str]]) -> str:
    if not rows:
        raise DataError(f"{table} has no rows; give one for each image")
    column = next((name for name in _FILE_COLUMNS if name in rows[0]), None)
    if column is None:
        raise DataError(f"{table} lacks a column {' or '.join(_FILE_COLUMNS)}; it has {', '.join(rows[0])}")
    return column


def _read_entry(root: Path, row: dict[str, str], column: str, label_column: str, classes: tuple[str, ...]) -> Entry:
    if not row[column] or not row[label_column]:
        return bad_entry(row[column] or "?", root, f"a row without {column} or {label_column}: {row}")
    file = root / row[column]
    if not file.resolve().is_relative_to(root.resolve()):
        return bad_entry(row[column], file, f"lies outside of {root}")
    return Entry(Path(row[column]).as_posix(), str(file), (classes.index(row[label_column]),), FileRecipe(file))
