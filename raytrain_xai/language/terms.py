"""What the classes of a data set are called in a text: tables from class to term.

Class names of data sets are written for tables ("tvmonitor", "n02389026") and leave out what everybody knows: a text
encoder was never told that a sorrel is a horse. The shipped tables write names out, and the one of ImageNet adds the
kind of animal, vehicle or vessel ("sorrel, horse").

A table is a CSV file in UTF-8 with the columns ``class`` and ``term``. ``imagenet`` (by WordNet id, in the order of the
1000 classes) and ``voc`` come with the package.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from importlib.resources import files

from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.storage import exists, locate, read_bytes

SHIPPED = ("imagenet", "voc")
_COLUMNS = ["class", "term"]


def read_terms(text: str) -> dict[str, str]:
    """A table by its shipped name, or by a file or s3:// address.

    Returns:
        Class -> term, in the order of the table.
    Raises:
        ConfigError: nothing of this name or at this address.
        DataError: no such table, or a class that is named twice.
    """
    if text in SHIPPED:
        return _parse((files("raytrain_xai.language") / "terms" / f"{text}.csv").read_bytes(), text)
    at = locate(text)
    if not exists(at):
        raise ConfigError(f"no table of terms {text!r}; give {', '.join(SHIPPED)} or a CSV file with class and term")
    return _parse(read_bytes(at), text)


def terms_of(classes: Sequence[str], table: str | None) -> tuple[str, ...]:
    """Terms of the classes of a data set, in their order.

    Args:
        table: see :func:`read_terms`; None takes the names themselves, with spaces for underscores.
    Raises:
        ConfigError: no such table.
        DataError: the table lacks a class; names it.
    """
    if table is None:
        return tuple(name.replace("_", " ") for name in classes)
    terms = read_terms(table)
    missing = [name for name in classes if name not in terms]
    if missing:
        raise DataError(
            f"table {table} has no term for {len(missing)} of {len(classes)} classes, such as {missing[0]!r}; add "
            "lines, or leave the table out where names are words"
        )
    return tuple(terms[name] for name in classes)


def _parse(data: bytes, source: str) -> dict[str, str]:
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8"), newline="")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{source} is not a CSV file in UTF-8: {error}") from error
    if not rows or any(not row.get(column) for row in rows for column in _COLUMNS):
        raise DataError(f"{source} is no table of terms; expected the columns class and term, both filled in each row")
    terms = {row["class"]: row["term"] for row in rows}
    if len(terms) < len(rows):
        raise DataError(f"{source} names a class twice ({len(rows)} rows, {len(terms)} classes); keep one row of each")
    return terms
