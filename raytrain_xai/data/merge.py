"""Two stored data sets made one: what people flagged beside what a model learned from, for its next training."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from raytrain_xai.data.manifest import BadRecord, Manifest, read_manifest
from raytrain_xai.data.prepare import Progress
from raytrain_xai.data.records import SPLITS
from raytrain_xai.data.rewrite import StoredShard, is_same_place, rewrite, shards_of
from raytrain_xai.errors import DataError
from raytrain_xai.storage import Location, locate


@dataclass(frozen=True)
class Merged:
    """A written data set, and the records of the second one that the first holds already."""

    manifest: Manifest
    left_out: tuple[BadRecord, ...]


class _Known:
    """Images that were written: which of the second data set may follow."""

    def __init__(self, first: Location) -> None:
        self._first = first
        self._split_of_id: dict[str, str] = {}
        self._of_image: dict[str, str] = {}  # SHA-256 of the file -> id
        self.left_out: list[BadRecord] = []

    def edit(self, shard: StoredShard, table: pa.Table) -> pa.Table:
        """Note the images of the first data set; drop those of the second that are among them."""
        ids: list[str] = table["id"].to_pylist()
        images = [hashlib.sha256(image.as_buffer()).hexdigest() for image in table["image"]]
        if shard.dataset is self._first:
            self._split_of_id |= dict.fromkeys(ids, shard.split)
            self._of_image |= dict(zip(images, ids, strict=True))
            return table
        problems = [self._problem(id, image) for id, image in zip(ids, images, strict=True)]
        self.left_out += [
            BadRecord(shard.split, id, problem) for id, problem in zip(ids, problems, strict=True) if problem
        ]
        return table.filter(pa.array(np.array([not p for p in problems], dtype=bool))) if any(problems) else table

    def _problem(self, id: str, image: str) -> str:
        # the id of a flagged image is the hash of the file that was sent, which is stored turned upright
        same = self._of_image.get(image) or self._of_image.get(id)
        if same is not None:
            return f"the same image is in the first data set as {same} ({self._split_of_id[same]})"
        if id in self._split_of_id:
            return f"the first data set has another image of this id ({self._split_of_id[id]})"
        return ""


def merge_datasets(
    first: str, second: str, dest: str, *, overwrite: bool = False, progress: Progress | None = None
) -> Merged:
    """Write the images of two data sets to a third one, each in its split, those of the first one first.

    An image of the second one that the first holds, in whatever split, is left out: a test image must not be trained
    on because somebody flagged it. Images are the same when their files are, byte by byte.

    Args:
        first, second: addresses of stored data sets with the same task and classes; they are not changed. Groups are
            the same, or one of them has none; images without a group are in no group.
        dest: where the data set is written.
        overwrite: replace a finished data set at ``dest``.
        progress: called after each shard.
    Raises:
        DataError: they do not fit together, ``dest`` is one of them or holds something else, or a shard is damaged.
    """
    at, other = locate(first), locate(second)
    manifest, added = read_manifest(at), read_manifest(other)
    _check_fit(first, manifest, second, added)
    kinds = dict.fromkeys((*manifest.kind.split("+"), *added.kind.split("+")))
    described = replace(
        manifest,
        kind="+".join(kinds),
        groups=manifest.groups or added.groups,
        options={**manifest.options, "merged": f"{added.kind} {added.fingerprint()[:12]}"},
        splits={split: () for split in SPLITS if split in manifest.splits or split in added.splits},
        dropped_boxes=manifest.dropped_boxes + added.dropped_boxes,
        bad_records=(*manifest.bad_records, *added.bad_records),
    )
    known = _Known(at)
    shards = [*shards_of(at, manifest), *shards_of(other, added)]
    written = rewrite(shards, locate(dest), described, edit=known.edit, overwrite=overwrite, progress=progress)
    return Merged(written, tuple(known.left_out))


def _check_fit(first: str, manifest: Manifest, second: str, added: Manifest) -> None:
    if is_same_place(locate(first), locate(second)):
        raise DataError(f"{first} and {second} are the same data set")
    if manifest.task != added.task:
        raise DataError(f"{first} is {manifest.task}, {second} is {added.task}; they have no labels in common")
    for name in ("classes", "groups"):
        own, others = getattr(manifest, name), getattr(added, name)
        if own != others and (name == "classes" or (own and others)):
            raise DataError(f"{name} of {first} are {_shown(own)}; those of {second} are {_shown(others)}")


def _shown(names: tuple[str, ...]) -> str:
    return ", ".join(names[:10]) + (f", … ({len(names)})" if len(names) > 10 else "")
