"""A stored data set, opened: its description, and random access to the rows of a split.

Annotations of a split are read once and kept: 64 bytes a row with one label and one box, and its id. Images are read
by row groups, a bounded number of which is kept, as of the descriptions of their files. Reading needs no Ray and no
torch.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raytrain_xai.data.manifest import Manifest, ShardInfo, read_manifest
from raytrain_xai.data.parquet import ROW_GROUP_ROWS, open_shard, read_columns
from raytrain_xai.errors import DataError
from raytrain_xai.storage import Location, locate, open_file

_REQUESTS = 16  # files of a remote data set that are opened together
_DESCRIBED_ROWS = 65536  # whose files stay described: about 25 MB, 25 kB for each row group


@dataclass(frozen=True)
class DatasetInfo:
    """What a run needs to know of a data set.

    Attributes:
        classes: names in the order of labels.
        task: multilabel or multiclass.
        groups: names of the sub-populations, or None.
        splits: name -> number of images.
        has_masks: whether any image has a class mask.
        kind: what it was prepared from.
        fingerprint: hash of its content, independent of where it lies.
    """

    classes: tuple[str, ...]
    task: str
    groups: tuple[str, ...] | None
    splits: dict[str, int]
    has_masks: bool
    kind: str
    fingerprint: str


def open_dataset(path: str) -> DatasetInfo:
    """Describe the data set at a folder or ``s3://`` address.

    Raises:
        DataError: missing, unfinished, damaged or of another format version; names the remedy.
    """
    return describe(read_manifest(locate(path)))


def describe(manifest: Manifest) -> DatasetInfo:
    """The description that a manifest gives."""
    return DatasetInfo(
        classes=manifest.classes,
        task=manifest.task,
        groups=manifest.groups,
        splits={split: manifest.rows(split) for split in manifest.splits},
        has_masks=any(shard.masks for shards in manifest.splits.values() for shard in shards),
        kind=manifest.kind,
        fingerprint=manifest.fingerprint(),
    )


@dataclass(frozen=True)
class Annotations:
    """Annotations of all n rows of a split; ragged columns are flat with offsets: row i has items
    ``offsets[i]:offsets[i + 1]``.

    Attributes:
        ids: (n,) strings.
        size: (n, 2) int32, width and height of the stored image.
        groups: (n,) int64, -1 for none.
        label_offsets, labels: (n + 1,) and (L,) int64.
        box_offsets, box_labels, boxes: (n + 1,), (R,) int64, (R, 4) float32 pixels of the stored image.
    """

    ids: pa.ChunkedArray
    size: np.ndarray
    groups: np.ndarray
    label_offsets: np.ndarray
    labels: np.ndarray
    box_offsets: np.ndarray
    box_labels: np.ndarray
    boxes: np.ndarray

    @property
    def has_box(self) -> np.ndarray:
        """(n,) bool."""
        return self.box_offsets[1:] > self.box_offsets[:-1]

    def multi_hot(self, indices: np.ndarray, num_classes: int) -> np.ndarray:
        """(B, C) float32 labels of some rows."""
        hot = np.zeros((len(indices), num_classes), dtype=np.float32)
        first, last = self.label_offsets[indices], self.label_offsets[indices + 1]
        rows = np.repeat(np.arange(len(indices)), last - first)
        hot[rows, np.concatenate([self.labels[a:b] for a, b in zip(first, last, strict=True)])] = 1
        return hot


class StoredSplit:
    """Rows of one split: annotations in memory, image bytes on demand.

    Holds open nothing, keeps a bounded cache of row groups, and may be sent to other processes.
    """

    def __init__(self, path: str, split: str, *, cached_rows: int = 2 * ROW_GROUP_ROWS) -> None:
        """
        Args:
            path: address of the data set.
            split: train, val or test.
            cached_rows: encoded images kept; at least two row groups.
        Raises:
            DataError: no such data set or split, or a file is damaged or missing.
        """
        self.location = locate(path)
        manifest = read_manifest(self.location)
        if split not in manifest.splits:
            raise DataError(f"{path} has no split {split!r}; it has {', '.join(manifest.splits)}")
        self.info = describe(manifest)
        self.shards = manifest.splits[split]
        self.starts = np.cumsum([0, *(shard.rows for shard in self.shards)])
        self._cached_rows = max(cached_rows, 2 * ROW_GROUP_ROWS)
        self._cache: OrderedDict[tuple[int, int], pa.Table] = OrderedDict()
        largest = max(shard.rows for shard in self.shards)  # a window may begin and end within a file
        self._described_rows = max(_DESCRIBED_ROWS, self._cached_rows) + 2 * largest
        self._described: OrderedDict[int, pq.FileMetaData] = OrderedDict()
        self.annotations = self._read_annotations()
        pa.default_memory_pool().release_unused()  # what the tables took; else it stays as large as the annotations

    def __len__(self) -> int:
        return int(self.starts[-1])

    def encoded(self, index: int) -> tuple[bytes, bytes | None]:
        """Image bytes and mask PNG (or None) of a row."""
        shard = int(np.searchsorted(self.starts, index, side="right")) - 1
        group, row = divmod(index - int(self.starts[shard]), ROW_GROUP_ROWS)
        table = self._row_group(shard, group)
        return table["image"][row].as_py(), table["mask"][row].as_py()

    def find(self, ids: Sequence[str]) -> np.ndarray:
        """(len(ids),) row numbers.

        Raises:
            DataError: an id is not in the split.
        """
        position = {name: row for row, name in enumerate(self.annotations.ids.to_pylist())}
        missing = [name for name in ids if name not in position]
        if missing:
            raise DataError(f"no sample {missing[0]!r} in this split of {self.location.uri}")
        return np.array([position[name] for name in ids], dtype=np.int64)

    def _row_group(self, shard: int, group: int) -> pa.Table:
        key = (shard, group)
        if key in self._cache:
            self._cache.move_to_end(key)
            return self._cache[key]
        with open_file(self._file(self.shards[shard])) as source:
            reader = open_shard(source, self._file(self.shards[shard]).uri, self._described.get(shard))
            table = read_columns(reader, ("image", "mask"), group).combine_chunks()
        self._describe(shard, reader.metadata)
        self._cache[key] = table
        while len(self._cache) > 2 and sum(t.num_rows for t in self._cache.values()) > self._cached_rows:
            self._cache.popitem(last=False)
        return table

    def _file(self, shard: ShardInfo) -> Location:
        return self.location.child(*shard.file.split("/"))

    def _describe(self, shard: int, metadata: pq.FileMetaData) -> None:
        """Keep what a file says of itself, for the row groups of it that follow; forget those used longest ago."""
        self._described[shard] = metadata
        self._described.move_to_end(shard)
        while sum(self.shards[kept].rows for kept in self._described) > self._described_rows:
            self._described.popitem(last=False)

    def _read_annotations(self) -> Annotations:
        shards = range(len(self.shards))
        if self.location.is_local or len(shards) < 2:
            return _flatten(pa.concat_tables(map(self._annotations_of, shards)))
        with ThreadPoolExecutor(min(_REQUESTS, len(shards))) as pool:  # a few round trips each
            return _flatten(pa.concat_tables(pool.map(self._annotations_of, shards)))

    def _annotations_of(self, shard: int) -> pa.Table:
        at, size = self._file(self.shards[shard]), self.shards[shard].bytes
        with open_file(at) as source:
            if source.size() != size:
                raise DataError(f"{at.uri} has {source.size()} bytes, its manifest says {size}; prepare again")
            return read_columns(open_shard(source, at.uri), ("id", "width", "height", "labels", "boxes", "group"))


def _flatten(table: pa.Table) -> Annotations:
    labels, boxes = table["labels"].combine_chunks(), table["boxes"].combine_chunks()
    fields = boxes.flatten()
    corners = [fields.field(side).to_numpy() for side in ("x0", "y0", "x1", "y1")]
    return Annotations(
        ids=table["id"],
        size=np.stack([table["width"].to_numpy(), table["height"].to_numpy()], axis=1),
        groups=table["group"].combine_chunks().fill_null(-1).to_numpy().astype(np.int64),
        label_offsets=_offsets(labels),
        labels=labels.flatten().to_numpy().astype(np.int64),
        box_offsets=_offsets(boxes),
        box_labels=fields.field("label").to_numpy().astype(np.int64),
        boxes=np.stack(corners, axis=1).astype(np.float32),
    )


def _offsets(column: pa.ListArray) -> np.ndarray:
    lengths = column.value_lengths().to_numpy()
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
