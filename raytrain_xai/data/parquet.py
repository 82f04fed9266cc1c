"""The stored form of images and annotations: one Parquet schema, written whole and read with checks.

Columns hold what the reader found, in pixels of the stored image; everything that depends on a run (size, crops,
budget) is made when reading. Nothing in a file is executed: columns are plain types, and a file whose schema differs
from :func:`schema` is refused before any row is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raytrain_xai.data.manifest import FORMAT_VERSION, ShardInfo
from raytrain_xai.data.records import Box
from raytrain_xai.errors import DataError
from raytrain_xai.storage import Location, read_bytes

ROW_GROUP_ROWS = 64  # the unit in which images are read
DATASET_KEY = b"raytrain_xai"
SHARD_KEY = b"raytrain_xai.shard"

_BOX = pa.struct([("label", pa.int32()), *((side, pa.float32()) for side in ("x0", "y0", "x1", "y1"))])
_COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.binary()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("labels", pa.list_(pa.int32())),
        ("boxes", pa.list_(_BOX)),
        ("mask", pa.binary()),
        ("group", pa.int32()),
    ]
)


@dataclass(frozen=True)
class StoredRow:
    """One image as it is stored; ``mask`` is a PNG, boxes lie inside the image."""

    id: str
    image: bytes
    width: int
    height: int
    labels: tuple[int, ...]
    boxes: tuple[Box, ...]
    mask: bytes | None
    group: int | None


def schema(dataset: Mapping[str, Any], shard: Mapping[str, Any]) -> pa.Schema:
    """The columns with their metadata.

    Args:
        dataset: ``{task, classes, groups, kind}``, the same in all files of a data set.
        shard: what ``prepare`` needs to know when it meets the file again.
    """
    versioned = {"format_version": FORMAT_VERSION, **dataset}
    return _COLUMNS.with_metadata({DATASET_KEY: json.dumps(versioned), SHARD_KEY: json.dumps(shard)})


def encode_shard(rows: Sequence[StoredRow], columns: pa.Schema) -> bytes:
    """Parquet file of the rows."""
    boxes = [[vars(box) for box in row.boxes] for row in rows]
    plain = {name: [getattr(row, name) for row in rows] for name in columns.names if name != "boxes"}
    return encode_table(pa.table(plain | {"boxes": boxes}, schema=columns))


def encode_table(table: pa.Table) -> bytes:
    """Parquet file of a table of :func:`schema`. Images and masks are compressed already, so nothing is again."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        row_group_size=ROW_GROUP_ROWS,
        compression="NONE",
        use_dictionary=False,
        write_statistics=False,  # minima of image bytes are of no use
        write_page_checksum=True,  # rows are read in parts, for which no checksum of the file can be compared
    )
    return sink.getvalue().to_pybytes()


def decode_shard(data: bytes, file: str) -> pa.Table:
    """All rows of an encoded shard, with the metadata of its schema.

    Raises:
        DataError: not a whole Parquet file of our schema.
    """
    return read_columns(open_shard(pa.BufferReader(data), file), _COLUMNS.names)


def with_boxes(table: pa.Table, boxes: Mapping[int, Sequence[Box]], labels: Mapping[int, Sequence[int]]) -> pa.Table:
    """The same rows, some of them (by number) with other boxes and other labels."""
    for name, new in (("boxes", {row: [vars(b) for b in given] for row, given in boxes.items()}), ("labels", labels)):
        values = table[name].to_pylist()
        for row, value in new.items():
            values[row] = list(value)
        place = table.schema.get_field_index(name)
        table = table.set_column(place, _COLUMNS.field(name), pa.array(values, _COLUMNS.field(name).type))
    return table


def describe_shard(file: str, data: bytes) -> tuple[ShardInfo, dict[str, Any]]:
    """Size, hash of the rows and the ``shard`` metadata of an encoded shard.

    Raises:
        DataError: not a whole Parquet file of our schema.
    """
    reader = open_shard(pa.BufferReader(data), file)
    table = read_columns(reader, _COLUMNS.names)
    num_masks = table.num_rows - table["mask"].null_count
    info = ShardInfo(file, table.num_rows, num_masks, len(data), _hash_rows(table))
    return info, json.loads(reader.schema_arrow.metadata[SHARD_KEY])


def read_shard_info(at: Location, file: str) -> tuple[ShardInfo, dict[str, Any]]:
    """:func:`describe_shard` of a stored file."""
    return describe_shard(file, read_bytes(at.child(*file.split("/"))))


def open_shard(source: pa.NativeFile, name: str, metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """Open a Parquet file whose columns are exactly ours.

    Raises:
        DataError: not Parquet, damaged, other columns or types, or another format version.
    """
    try:
        reader = pq.ParquetFile(source, metadata=metadata, page_checksum_verification=True)
        found = reader.schema_arrow
        version = json.loads((found.metadata or {})[DATASET_KEY])["format_version"]
    except KeyError as error:
        raise DataError(f"{name} was not written by `raytrain-xai data prepare` (no metadata)") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{name} is not a readable Parquet file: {' '.join(str(error).split())}") from error
    if version != FORMAT_VERSION:
        raise DataError(f"{name} has format {version}, this release reads {FORMAT_VERSION}; prepare it again")
    if not found.equals(_COLUMNS):
        raise DataError(f"{name} has columns {found.names}, expected {_COLUMNS}".replace("\n", ", "))
    return reader


def _hash_rows(table: pa.Table) -> str:
    """Hash of the rows alone: the file also holds where they came from, which must not tell equal data apart."""
    digest = hashlib.sha256()
    for name in table.column_names:
        for value in table[name].to_pylist():
            content = value if isinstance(value, bytes) else repr(value).encode()
            digest.update(len(content).to_bytes(8, "little") + content)
    return digest.hexdigest()


def read_columns(reader: pq.ParquetFile, columns: Sequence[str], row_group: int | None = None) -> pa.Table:
    """Some columns of a file, or of one row group.

    Raises:
        DataError: the data pages are damaged.
    """
    try:
        if row_group is None:
            return reader.read(columns=list(columns))
        return reader.read_row_group(row_group, columns=list(columns))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"damaged Parquet data: {' '.join(str(error).split())}; prepare the data set again") from error
