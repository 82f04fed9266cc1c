"""Stored data sets made of stored ones: shards are carried over one by one, their rows as they are unless edited."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from raytrain_xai.data.manifest import Manifest, ShardInfo, claim_folder, remove_other_shards, write_manifest
from raytrain_xai.data.parquet import DATASET_KEY, decode_shard, describe_shard, encode_table, schema
from raytrain_xai.data.prepare import Progress
from raytrain_xai.errors import DataError
from raytrain_xai.storage import Location, read_bytes, write_bytes


@dataclass(frozen=True)
class StoredShard:
    """A shard of a stored data set.

    Attributes:
        dataset: the data set it lies in.
        split: it belongs to.
        info: what the manifest says of it.
    """

    dataset: Location
    split: str
    info: ShardInfo


Edit = Callable[[StoredShard, pa.Table], pa.Table]  # returns the very table it was given where nothing changes


def shards_of(at: Location, manifest: Manifest) -> list[StoredShard]:
    """All shards of a data set, in the order of its splits."""
    return [StoredShard(at, split, info) for split, shards in manifest.splits.items() for info in shards]


def is_same_place(one: Location, other: Location) -> bool:
    """Whether two addresses lead to one folder, also by a link."""
    paths = [os.path.realpath(at.path) if at.is_local else at.path for at in (one, other)]
    return one.is_local == other.is_local and paths[0] == paths[1]


def read_shard(shard: StoredShard) -> tuple[bytes, pa.Table]:
    """Bytes of a stored shard, and its rows.

    Raises:
        DataError: missing, damaged, or not of the size that the manifest tells.
    """
    at = shard.dataset.child(*shard.info.file.split("/"))
    data = read_bytes(at)
    if len(data) != shard.info.bytes:
        raise DataError(f"{at.uri} has {len(data)} bytes, its manifest says {shard.info.bytes}; prepare again")
    return data, decode_shard(data, at.uri)


def rewrite(
    shards: Sequence[StoredShard], dest: Location, described: Manifest, *, edit: Edit, overwrite: bool,
    progress: Progress | None,
) -> Manifest:  # fmt: skip
    """Write a data set from shards of others.

    A shard that ``edit`` leaves alone is copied byte by byte. Rows keep their order; shards of a split are numbered
    in the order given. The manifest is written last, so that a torn data set is never read.

    Args:
        shards: to carry over.
        dest: where the data set is written; none of those that the shards lie in.
        described: its manifest, whose ``splits`` names them in order; what they hold is filled in here.
        edit: other boxes, or fewer rows; a shard without rows is left out.
        overwrite: replace a finished data set at ``dest``.
        progress: called after each shard with the number of its images.
    Raises:
        DataError: ``dest`` is one of the sources or holds something else, or a source is damaged.
    """
    for source in {shard.dataset.path: shard.dataset for shard in shards}.values():
        if is_same_place(source, dest):
            raise DataError(f"{dest.uri} is the data set that is read; give another place")
    claim_folder(dest, described.splits, overwrite)
    dataset = {name: getattr(described, name) for name in ("task", "classes", "groups", "kind")}
    written: dict[str, list[ShardInfo]] = {split: [] for split in described.splits}
    for shard in shards:
        file = f"{shard.split}/part-{len(written[shard.split]):05d}.parquet"
        data, table = read_shard(shard)
        edited = edit(shard, table)
        # "plan" and the rest as prepare writes them: it reads them where it meets an unfinished data set
        origin = {"plan": f"from {shard.info.sha256}", "bad_records": [], "dropped_boxes": 0}
        columns = schema(dataset, origin)
        if edited is not table or table.schema.metadata[DATASET_KEY] != columns.metadata[DATASET_KEY]:
            data = encode_table(edited.replace_schema_metadata(columns.metadata))
            info = describe_shard(file, data)[0]
        else:
            info = replace(shard.info, file=file)
        if info.rows:
            write_bytes(dest.child(*file.split("/")), data)
            written[shard.split].append(info)
        if progress is not None:
            progress(shard.info.rows)
    manifest = replace(described, splits={split: tuple(infos) for split, infos in written.items() if infos})
    remove_other_shards(dest, manifest)
    write_manifest(dest, manifest)
    return manifest
