"""Whether everything stored at a place is what was written: all files are read and compared with their checksums.

Checkpoints, published runs and downloaded weights are compared whenever they are read. Data sets and stores are read in
parts while training, where sizes, headers and (of data sets) checksums of pages are compared; here is the rest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from raytrain_xai.checkpoint import checkpoint_name, complete_steps, read_checkpoint
from raytrain_xai.data import feature_store, manifest, teacher_store
from raytrain_xai.data.manifest import ShardInfo
from raytrain_xai.data.parquet import read_shard_info
from raytrain_xai.errors import CheckpointError, ConfigError, DataError
from raytrain_xai.publish import read_sums
from raytrain_xai.run_folder import CHECKPOINTS, CONFIG, SUMS
from raytrain_xai.storage import Location, exists, read_bytes

_READ_AT_ONCE = 4  # files in memory


@dataclass(frozen=True)
class Verdict:
    """Of one file or checkpoint.

    Attributes:
        name: relative to the place.
        problem: what is wrong with it; None: it is whole.
    """

    name: str
    problem: str | None


_Check = tuple[str, Callable[[], object]]  # name, and what raises when it is not whole


def verify(at: Location) -> Iterator[Verdict]:
    """Read everything at a place, in order.

    Args:
        at: a data set, feature store, store of a teacher's answers, or run (published or not).
    Raises:
        ConfigError: it is none of these.
        DataError: what lists its files is missing or damaged.
    """
    checks = _checks(at)
    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        yield from pool.map(_judge, checks)


def _judge(check: _Check) -> Verdict:
    name, raises = check
    try:
        raises()
    except (DataError, CheckpointError) as error:
        return Verdict(name, str(error))
    return Verdict(name, None)


def _checks(at: Location) -> list[_Check]:
    if exists(at.child(SUMS)):
        return [(file, partial(_check_sha256, at, file, digest)) for file, digest in read_sums(at).items()]
    if exists(at.child(CONFIG)):
        return _checkpoints(at)
    if not exists(at.child(manifest.NAME)):
        raise ConfigError(
            f"{at.uri} holds neither {CONFIG} nor {manifest.NAME}; give a run, a published run, a data set, a feature "
            "store or a teacher's answers that are complete"
        )
    return _stored(at)


def _checkpoints(run: Location) -> list[_Check]:
    parent = run.child(CHECKPOINTS)
    steps = complete_steps(parent)
    if not steps:
        raise ConfigError(f"{run.uri} has no complete checkpoint yet; there is nothing to verify")
    names = [checkpoint_name(step) for step in steps]
    return [(f"{CHECKPOINTS}/{name}", partial(read_checkpoint, parent.child(name))) for name in names]


def _stored(at: Location) -> list[_Check]:
    try:
        keys = set(json.loads(read_bytes(at.child(manifest.NAME))))
    except (ValueError, TypeError) as error:
        raise DataError(f"{at.child(manifest.NAME).uri} is damaged: not a JSON object; make it again") from error
    if "splits" in keys:
        shards = [shard for split in manifest.read_manifest(at).splits.values() for shard in split]
        return [(shard.file, partial(_check_rows, at, shard)) for shard in shards]
    if "scale" in keys:
        listed = [(s.file, s.sha256) for s in feature_store.read_feature_manifest(at).shards]
        folder = feature_store.SHARDS
    else:
        listed = [(s.file, s.sha256) for s in teacher_store.read_manifest(at).shards]
        folder = teacher_store.SHARDS
    return [(f"{folder}/{file}", partial(_check_sha256, at, f"{folder}/{file}", digest)) for file, digest in listed]


def _check_rows(at: Location, shard: ShardInfo) -> None:
    found, _ = read_shard_info(at, shard.file)
    if found != shard:
        raise DataError(f"{at.child(*shard.file.split('/')).uri} differs from {manifest.NAME}; prepare it again")


def _check_sha256(at: Location, file: str, digest: str) -> None:
    place = at.child(*file.split("/"))
    if hashlib.sha256(read_bytes(place)).hexdigest() != digest:
        raise DataError(f"{place.uri} differs from its checksum; make or copy it again")
