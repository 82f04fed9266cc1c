"""Encoded pictures in a Parquet table, read when they are shown."""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raytrain_xai.errors import DataError
from raytrain_xai.storage import Location, Stamp, open_file, stamp_of

KEPT_BYTES = 32 << 20


class PictureColumn:
    """A binary column of a table on disk or ``s3://``; its row groups are read one at a time, the last ones are kept.

    Safe for threads: two that want the same row group may both read it.

    Args:
        at: the Parquet file.
        column: its name.
        kept_bytes: of row groups in memory; the newest stays however large it is.
    """

    def __init__(self, at: Location, column: str, *, kept_bytes: int = KEPT_BYTES) -> None:
        self._at = at
        self._column = column
        self._kept_bytes = kept_bytes
        self._lock = threading.Lock()
        self._footer: tuple[Stamp | None, pq.FileMetaData] | None = None
        self._kept: OrderedDict[int, pa.ChunkedArray] = OrderedDict()

    def read(self, row: int) -> bytes:
        """The picture of a row that exists.

        Raises:
            DataError: the file is missing or damaged.
        """
        with self._lock:
            metadata = self._metadata()
        ends = np.cumsum([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)])
        assert 0 <= row < ends[-1]
        group = int(np.searchsorted(ends, row, side="right"))
        return self._group(group, metadata)[row - int(ends[group]) + metadata.row_group(group).num_rows].as_py()

    def _metadata(self) -> pq.FileMetaData:
        stamp = stamp_of(self._at)
        if self._footer is None or self._footer[0] != stamp:  # a catalogue that is made again keeps its rows
            self._kept.clear()
            with open_file(self._at) as source:
                try:
                    self._footer = stamp, pq.read_metadata(source)
                except (pa.ArrowException, OSError) as error:
                    raise self._damaged(error) from error
        return self._footer[1]

    def _group(self, group: int, metadata: pq.FileMetaData) -> pa.ChunkedArray:
        with self._lock:
            if group in self._kept:
                self._kept.move_to_end(group)
                return self._kept[group]
        with open_file(self._at) as source:
            try:
                reader = pq.ParquetFile(source, metadata=metadata, page_checksum_verification=True)
                found = reader.read_row_group(group, columns=[self._column])[self._column]
            except (pa.ArrowException, OSError) as error:
                raise self._damaged(error) from error
        with self._lock:
            self._kept[group] = found
            while len(self._kept) > 1 and sum(part.nbytes for part in self._kept.values()) > self._kept_bytes:
                self._kept.popitem(last=False)
        return found

    def _damaged(self, error: Exception) -> DataError:
        return DataError(f"{self._at.uri} is damaged: {' '.join(str(error).split())}; make the catalogue again")
