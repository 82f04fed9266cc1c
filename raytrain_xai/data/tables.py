"""CSV tables that come with data sets."""

from __future__ import annotations

import csv
from pathlib import Path

from raytrain_xai.errors import DataError


def read_table(file: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """Rows of a CSV file with a header.

    Raises:
        DataError: a column is missing, or the file is not UTF-8 text.
    """
    try:
        with file.open(encoding="utf-8", newline="") as stream:
            reader = csv.DictReader(stream)
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"{file} lacks the columns {', '.join(missing)}; it has {reader.fieldnames}")
            return list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} is not a CSV file in UTF-8: {error}") from error
