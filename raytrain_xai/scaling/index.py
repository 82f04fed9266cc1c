"""What the index of a data set costs every worker before its first image, and what breaks first as it grows.

The constants were measured with ``python -m bench.many_rows``: 10 million rows against 1 million, one core, files in
the page cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from raytrain_xai.scaling_config import IndexValues

_MANIFEST_BYTES = 190  # of a shard, as JSON
_PARSED_BYTES = 660  # of a shard, once read
_ROW_BYTES = 64 - 24  # of a row without its box: size, group, offsets and label
_BOX_BYTES = 24
_ID_OFFSET_BYTES = 4
_PIECES_BYTES = 70  # of a row: measured beyond what the columns hold; freed pieces that the allocator keeps
_PEAK_BYTES = 90  # of a row while the columns are laid out; the order of an epoch takes less, and comes later
_OPEN_S = 3.2e-6  # of a row: its annotations read, decoded and laid out
_REQUESTS, _REQUEST_S = 16, 0.03  # at once, and of each; footer and columns take three after one another
_ROUND_TRIPS = 3
_RECORD_BYTES = 970  # of an image in ``data prepare``

_MANY_FILES, _MUCH_MEMORY, _LONG_S, _MUCH_RECORD_MEMORY = 200_000, 64e9, 600, 32e9


@dataclass(frozen=True)
class IndexCost:
    """Of one data set.

    Attributes:
        files: shards.
        manifest_bytes: of ``manifest.json``.
        worker_bytes, node_bytes: most memory of annotations and manifest, of a worker and of all on a node.
        open_s, open_remote_s: until the first image, from a local disk and from S3.
        prepare_bytes: memory of ``data prepare``.
        advice: what to set where one of them is too large.
    """

    files: int
    manifest_bytes: int
    worker_bytes: int
    node_bytes: int
    open_s: float
    open_remote_s: float
    prepare_bytes: int
    advice: tuple[str, ...]


def index_cost(index: IndexValues, workers_per_node: int) -> IndexCost:
    """Sizes and times of the index of ``index.images`` images."""
    files = math.ceil(index.images / index.shard_rows)
    columns = _ROW_BYTES + _BOX_BYTES * index.boxes_per_image + _ID_OFFSET_BYTES + index.id_bytes
    worker = round(index.images * (columns + _PIECES_BYTES + _PEAK_BYTES) + files * _PARSED_BYTES)
    open_s = index.images * _OPEN_S
    remote_s = max(open_s, files * _ROUND_TRIPS * _REQUEST_S / _REQUESTS)
    prepare = index.images * _RECORD_BYTES
    costs = (files, files * _MANIFEST_BYTES, worker, worker * workers_per_node, open_s, remote_s, prepare)
    return IndexCost(*costs, advice=_advice(index, files, worker * workers_per_node, remote_s, prepare))


def _advice(index: IndexValues, files: int, node: int, remote_s: float, prepare: int) -> tuple[str, ...]:
    said: list[str] = []
    if files > _MANY_FILES:
        rows = 2 ** math.ceil(math.log2(index.images / _MANY_FILES))
        said.append(f"{files:,} files: prepare with --shard-rows {rows}")
    if prepare > _MUCH_RECORD_MEMORY:
        parts = math.ceil(prepare / _MUCH_RECORD_MEMORY)
        said.append(
            f"data prepare holds {prepare / 1e9:.0f} GB of records: prepare {parts} parts, then `data merge` them"
        )
    if remote_s > _LONG_S:
        said.append(f"{remote_s / 60:.0f} minutes to open from S3 at every start: copy the data set to a local disk")
    if node > _MUCH_MEMORY:
        said.append(
            f"{node / 1e9:.0f} GB per node for annotations: take nodes with that much memory, fewer workers on each, "
            "or train on a part of the images"
        )
    return tuple(said)
