"""``manifest.json`` of a stored data set: written last, so a data set exists only once it is complete."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from raytrain_xai.data.records import SPLITS, Option
from raytrain_xai.errors import DataError
from raytrain_xai.storage import Location, delete_tree, exists, list_names, read_bytes, write_bytes

FORMAT_VERSION = 1
NAME = "manifest.json"


@dataclass(frozen=True)
class BadRecord:
    """A record that could not be used: the file to look at, and why."""

    split: str
    file: str
    reason: str


@dataclass(frozen=True)
class ShardInfo:
    """One Parquet file: its place below the data set, rows, those with a mask, size, and hash of its rows."""

    file: str
    rows: int
    masks: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a stored data set holds; ``splits`` keeps the order train, val, test."""

    kind: str
    task: str
    classes: tuple[str, ...]
    groups: tuple[str, ...] | None
    options: Mapping[str, Option]
    splits: Mapping[str, tuple[ShardInfo, ...]]
    dropped_boxes: int
    bad_records: tuple[BadRecord, ...]
    format_version: int = FORMAT_VERSION

    def rows(self, split: str) -> int:
        """Number of images of a split."""
        return sum(shard.rows for shard in self.splits[split])

    def fingerprint(self) -> str:
        """Hash over classes and rows of all shards; equal for equal data, wherever it lies and came from."""
        content = [list(self.classes), [[split, [s.sha256 for s in shards]] for split, shards in self.splits.items()]]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def write_manifest(at: Location, manifest: Manifest) -> None:
    """Write it below the data set ``at``; this finishes the data set."""
    write_bytes(at.child(NAME), json.dumps(asdict(manifest), indent=1).encode())


def is_finished(at: Location) -> bool:
    """Whether a complete data set lies at ``at``."""
    return exists(at.child(NAME))


def read_manifest(at: Location) -> Manifest:
    """Read the manifest of a finished data set.

    Raises:
        DataError: nothing there, not finished, another format version, or damaged; with the remedy.
    """
    if not is_finished(at):
        state = "is not finished" if exists(at) else "does not exist"
        raise DataError(f"data set {at.uri} {state}: run `raytrain-xai data prepare KIND [SRC] {at.uri}`")
    try:
        raw: dict[str, Any] = json.loads(read_bytes(at.child(NAME)))
        version = raw["format_version"]
        if version != FORMAT_VERSION:
            raise DataError(
                f"data set {at.uri} has format {version}, this release reads {FORMAT_VERSION}: "
                "run `raytrain-xai data prepare --overwrite` again"
            )
        return _parse(raw)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{at.child(NAME).uri} is damaged ({error!r}): run `raytrain-xai data prepare` again"
        ) from error


def claim_folder(at: Location, splits: Collection[str], overwrite: bool) -> None:
    """Make sure that ``at`` is ours to write; a finished data set becomes unfinished when it may be replaced.

    Raises:
        DataError: it holds a finished data set and ``overwrite`` is not set, or other things than a data set.
    """
    if is_finished(at):
        if not overwrite:
            raise DataError(f"{at.uri} holds a finished data set; use --overwrite to replace it, or another place")
        delete_tree(at.child(NAME))
        for split in SPLITS:
            delete_tree(at.child(split))
    foreign = sorted(set(list_names(at)) - set(splits) - set(SPLITS))
    if foreign:
        raise DataError(f"{at.uri} holds other things ({', '.join(foreign[:5])}); give an empty or new folder")


def remove_other_shards(at: Location, manifest: Manifest) -> None:
    """Remove shards of an earlier, interrupted run with another plan."""
    wanted = {shard.file for shards in manifest.splits.values() for shard in shards}
    for split in SPLITS:
        for name in list_names(at.child(split)):
            if f"{split}/{name}" not in wanted:
                delete_tree(at.child(split, name))


def _parse(raw: dict[str, Any]) -> Manifest:
    return Manifest(
        kind=raw["kind"],
        task=raw["task"],
        classes=tuple(raw["classes"]),
        groups=None if raw["groups"] is None else tuple(raw["groups"]),
        options=raw["options"],
        splits={split: tuple(ShardInfo(**shard) for shard in shards) for split, shards in raw["splits"].items()},
        dropped_boxes=raw["dropped_boxes"],
        bad_records=tuple(BadRecord(**record) for record in raw["bad_records"]),
        format_version=raw["format_version"],
    )
