"""Exported feature vectors of one layer: a plan, shards of half-precision rows, and a manifest that finishes the store.

Layout: ``plan.json`` (what decides the content, written first), ``shards/00012.safetensors`` with one tensor
``vectors`` (rows, D) float16, ``shards/00012.json`` beside it (size, checksum, unit), and ``manifest.json``, written
last: without it the store does not exist for readers. Rows are shuffled within a shard, and a shard holds images from
all over the split, so that consecutive rows are a random sample of them and reading is contiguous.

Features of B-cos networks can exceed the range of half precision (65504), so the rows of a shard are divided by its
``unit``, the root mean square of their values; what is kept of a value is 11 bits, of values below 6e-5 units fewer.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from raytrain_xai.errors import DataError
from raytrain_xai.storage import Location, exists, list_names, read_bytes, write_bytes

FORMAT_VERSION = 1
PLAN, MANIFEST, SHARDS = "plan.json", "manifest.json", "shards"
TENSOR = "vectors"

_VALUE_BYTES = 2
_LARGEST = 60000.0  # below the 65504 of half precision
_BLOCK_ROWS = 4096  # summed in double precision at a time
_READ_AT_ONCE = 8  # shards that are verified


@dataclass(frozen=True)
class FeaturePlan:
    """Everything that decides what a store holds; stores of equal plans hold the same vectors.

    Attributes:
        tap: layer of the network.
        dim: D, length of a vector.
        size: (h, w) of the map.
        per_image: positions kept of an image.
        sampling: contribution or uniform.
        seed: of the positions and of all shuffling.
        network_name, network: architecture and fingerprint of its weights.
        data: fingerprint of the data set.
        split: of the data set.
        num_images: in the split.
        images_per_shard: images whose vectors form a shard; the last one may have fewer.
        image_size: side of the network input, pixels.
        eval_resize: shorter side before the central square is cut out; None: the image is squeezed.
    """

    tap: str
    dim: int
    size: tuple[int, int]
    per_image: int
    sampling: str
    seed: int
    network_name: str
    network: str
    data: str
    split: str
    num_images: int
    images_per_shard: int
    image_size: int
    eval_resize: int | None
    format_version: int = FORMAT_VERSION

    @property
    def keeps_all(self) -> bool:
        """Whether no position of an image is left out."""
        return self.per_image == self.size[0] * self.size[1]

    @property
    def num_vectors(self) -> int:
        """Rows of all shards."""
        return self.num_images * self.per_image

    @property
    def num_shards(self) -> int:
        """Files."""
        return math.ceil(self.num_images / self.images_per_shard)

    @property
    def num_bytes(self) -> int:
        """Size of all rows: images · positions · D · 2."""
        return self.num_vectors * self.dim * _VALUE_BYTES

    def images_of(self, shard: int) -> range:
        """Places in the shuffled split of the images of a shard."""
        first = shard * self.images_per_shard
        return range(first, min(first + self.images_per_shard, self.num_images))

    def fingerprint(self) -> str:
        """Hash of all of it; every shard carries it."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()


@dataclass(frozen=True)
class ShardRecord:
    """One shard.

    Attributes:
        file: name below ``shards``.
        rows: vectors.
        bytes, sha256: of the file.
        unit: what all values were divided by.
        sum_squares: of all values, before that.
    """

    file: str
    rows: int
    bytes: int
    sha256: str
    unit: float
    sum_squares: float


@dataclass(frozen=True)
class FeatureManifest:
    """A finished store.

    Attributes:
        plan: what was exported.
        shards: in order.
        scale: sqrt(mean |F|^2), by which training divides vectors.
    """

    plan: FeaturePlan
    shards: tuple[ShardRecord, ...]
    scale: float


def is_finished(at: Location) -> bool:
    """Whether a complete store lies at ``at``."""
    return exists(at.child(MANIFEST))


def claim_store(at: Location, plan: FeaturePlan) -> None:
    """Begin a store, or go on with this very one.

    Raises:
        DataError: see :func:`check_place`.
    """
    check_place(at, plan)
    if not exists(at.child(PLAN)):
        write_bytes(at.child(PLAN), json.dumps(asdict(plan), indent=1).encode())


def check_place(at: Location, plan: FeaturePlan) -> None:
    """Make sure that a place is free for a plan, or holds (a part of) this very store.

    Raises:
        DataError: it holds features of something else, or other things.
    """
    if exists(at.child(PLAN)):
        source = at.child(PLAN)
        check_plan(at, _parse_plan(_read_json(source), source), plan)
    elif foreign := list_names(at):
        raise DataError(f"{at.uri} holds other things ({', '.join(foreign[:5])}); set features.store to a new folder")


def check_plan(at: Location, found: FeaturePlan, wanted: FeaturePlan) -> None:
    """Refuse the features of something else.

    Raises:
        DataError: names everything that differs.
    """
    a, b = asdict(found), asdict(wanted)
    differing = [f"{key} {_short(a[key])} instead of {_short(b[key])}" for key in a if a[key] != b[key]]
    if differing:
        raise DataError(
            f"{at.uri} holds other features: {', '.join(differing)}; set features.store to another folder, or delete "
            "this one to export anew"
        )


def write_shard(at: Location, plan: FeaturePlan, shard: int, vectors: Tensor) -> ShardRecord:
    """Write the rows of a shard, then its record; a shard without a record is not there.

    Args:
        at: the store.
        plan: of the store.
        shard: number.
        vectors: (rows, D) float32 on the CPU, in their final order, finite.
    """
    sum_squares = sum(float(rows.to(torch.float64).square().sum()) for rows in vectors.split(_BLOCK_ROWS))
    rms, largest = math.sqrt(sum_squares / vectors.numel()), float(vectors.abs().max())
    unit = max(rms, largest / _LARGEST) or 1.0
    name = f"{shard:05d}.safetensors"
    content = save({TENSOR: (vectors / unit).to(torch.float16)}, shard_metadata(plan, shard))
    write_bytes(at.child(SHARDS, name), content)
    record = ShardRecord(name, vectors.shape[0], len(content), hashlib.sha256(content).hexdigest(), unit, sum_squares)
    write_bytes(at.child(SHARDS, f"{shard:05d}.json"), json.dumps(asdict(record)).encode())
    return record


def shard_metadata(plan: FeaturePlan, shard: int) -> dict[str, str]:
    """What the header of a shard says of its origin; one entry, since safetensors writes several in any order."""
    return {"origin": f"shard {shard} of {plan.fingerprint()}"}


def written_shards(at: Location, plan: FeaturePlan) -> dict[int, ShardRecord]:
    """Shards that are there, whole: their content, which is read for this, has the checksum of their record."""
    names = set(list_names(at.child(SHARDS)))

    def whole(shard: int) -> ShardRecord | None:
        if f"{shard:05d}.json" not in names or f"{shard:05d}.safetensors" not in names:
            return None
        source = at.child(SHARDS, f"{shard:05d}.json")
        record = _parse_shard(_read_json(source), source)
        content = read_bytes(at.child(SHARDS, record.file))
        return record if hashlib.sha256(content).hexdigest() == record.sha256 else None

    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        found = enumerate(pool.map(whole, range(plan.num_shards)))
        return {shard: record for shard, record in found if record is not None}


def finish_store(at: Location, plan: FeaturePlan, shards: Sequence[ShardRecord]) -> FeatureManifest:
    """Write the manifest; from here on the store exists."""
    assert len(shards) == plan.num_shards
    scale = math.sqrt(sum(record.sum_squares for record in shards) / plan.num_vectors)
    manifest = FeatureManifest(plan, tuple(shards), scale)
    write_bytes(at.child(MANIFEST), json.dumps(asdict(manifest), indent=1).encode())
    return manifest


def read_feature_manifest(at: Location) -> FeatureManifest:
    """The manifest of a finished store.

    Raises:
        DataError: nothing there, not finished, another format version, or damaged; with the remedy.
    """
    if not is_finished(at):
        state = "is not finished" if exists(at.child(PLAN)) else "does not exist"
        raise DataError(f"feature store {at.uri} {state}: run `raytrain-xai concepts features CONFIG`")
    source = at.child(MANIFEST)
    raw = _read_json(source)
    try:
        shards = tuple(_parse_shard(shard, source) for shard in raw["shards"])
        return FeatureManifest(_parse_plan(raw["plan"], source), shards, float(raw["scale"]))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(source, error) from error


def _read_json(source: Location) -> dict[str, Any]:
    try:
        raw = json.loads(read_bytes(source))
    except ValueError as error:
        raise _damaged(source, error) from error
    if not isinstance(raw, dict):
        raise DataError(f"{source.uri} is damaged (not an object); delete the store and export again")
    return raw


def _parse_plan(raw: dict[str, Any], source: Location) -> FeaturePlan:
    try:
        if raw["format_version"] != FORMAT_VERSION:
            raise DataError(
                f"{source.uri} has format {raw['format_version']}, this release reads {FORMAT_VERSION}; export again"
            )
        height, width = raw["size"]
        return replace(FeaturePlan(**raw), size=(height, width))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(source, error) from error


def _parse_shard(raw: dict[str, Any], source: Location) -> ShardRecord:
    try:
        return ShardRecord(**raw)
    except TypeError as error:
        raise _damaged(source, error) from error


def _damaged(source: Location, error: Exception) -> DataError:
    return DataError(f"{source.uri} is damaged ({error!r}); delete the store and export again")


def _short(value: Any) -> str:
    """A value for a message; of a fingerprint its beginning."""
    text = str(value)
    return text if len(text) < 64 else text[:12]
