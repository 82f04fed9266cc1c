"""Reading a feature store: any rows of any shard, without loading the rest.

On a local disk shards are memory-mapped, elsewhere the byte ranges of the rows are fetched.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from raytrain_xai.data.feature_store import SHARDS, TENSOR, FeatureManifest, read_feature_manifest, shard_metadata
from raytrain_xai.errors import DataError
from raytrain_xai.storage import Location, open_file

_REQUESTS = 16  # files looked at or read from at once; on S3 each takes a few round trips
_LONGEST_HEADER = 4096  # bytes; a shard's names one tensor and two short texts


@dataclass(frozen=True)
class Segment:
    """Rows ``start`` to ``stop`` of a shard."""

    shard: int
    start: int
    stop: int

    @property
    def rows(self) -> int:
        """How many."""
        return self.stop - self.start


class FeatureStore:
    """A finished store, opened: the size and header of every shard have been checked."""

    def __init__(self, at: Location) -> None:
        """
        Raises:
            DataError: not a finished store, or a shard is missing, truncated or of another store.
        """
        self.at = at
        self.manifest: FeatureManifest = read_feature_manifest(at)
        shards = range(len(self.manifest.shards))
        with ThreadPoolExecutor(min(_REQUESTS, len(shards))) as pool:
            self._offsets = list(pool.map(self._check, shards))
        self._mapped: dict[int, Tensor] = {}

    def rows(self, segments: Sequence[Segment]) -> list[Tensor]:
        """(rows, D) float16 of each segment, in units of its shard: views of mapped files, or fetched bytes."""
        if self.at.is_local:
            return [self._map(segment.shard)[segment.start : segment.stop] for segment in segments]
        with ThreadPoolExecutor(min(_REQUESTS, len(segments))) as pool:
            return list(pool.map(self._fetch, segments))

    def unit(self, shard: int) -> float:
        """What the values of a shard were divided by."""
        return self.manifest.shards[shard].unit

    def _fetch(self, segment: Segment) -> Tensor:
        row_bytes = 2 * self.manifest.plan.dim
        with open_file(self._file(segment.shard)) as file:
            file.seek(self._offsets[segment.shard] + segment.start * row_bytes)
            content = bytearray(file.read(segment.rows * row_bytes))
        return torch.frombuffer(content, dtype=torch.float16).view(segment.rows, -1)

    def _map(self, shard: int) -> Tensor:
        if shard not in self._mapped:
            record, path = self.manifest.shards[shard], Path(self._file(shard).path)
            # private: nothing written through it could reach the file; a mapping of torch keeps no file open
            content = torch.from_file(str(path), shared=False, size=record.bytes, dtype=torch.uint8)
            self._mapped[shard] = content[self._offsets[shard] :].view(torch.float16).view(record.rows, -1)
        return self._mapped[shard]

    def _check(self, shard: int) -> int:
        """Position in the file at which the rows of a shard begin."""
        record, plan, at = self.manifest.shards[shard], self.manifest.plan, self._file(shard)
        with open_file(at) as file:
            size, start = file.size(), file.read(8 + _LONGEST_HEADER)
        if size != record.bytes:
            raise DataError(f"{at.uri} has {size} bytes, its manifest says {record.bytes}; export again to mend it")
        length = int.from_bytes(start[:8], "little")
        try:
            header = json.loads(start[8 : 8 + length])
            origin, tensor = header["__metadata__"], header[TENSOR]
            first, last = tensor["data_offsets"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{at.uri} is no shard of features ({error!r}); export again to mend it") from error
        if origin != shard_metadata(plan, shard):
            raise DataError(f"{at.uri} belongs to another feature store; export again to mend it")
        expected = [record.rows, plan.dim]
        if tensor["dtype"] != "F16" or tensor["shape"] != expected or last - first != 2 * math.prod(expected):
            raise DataError(
                f"{at.uri} holds {tensor['dtype']} {tensor['shape']}, expected F16 {expected}; export again"
            )
        return 8 + length + first

    def _file(self, shard: int) -> Location:
        return self.at.child(SHARDS, self.manifest.shards[shard].file)
