"""Vectors for the training of concepts: from exported shards, or straight from the frozen network or encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.concept_runs.network import AdoptedNetwork
from raytrain_xai.data.feature_shards import FeatureStore, Segment
from raytrain_xai.data.feature_store import FeaturePlan, check_plan
from raytrain_xai.errors import ConfigError
from raytrain_xai.features.extraction import VectorExtraction, open_extraction
from raytrain_xai.features.plan import plan_features
from raytrain_xai.features.reservoir import ReservoirVectors
from raytrain_xai.insight_config import InsightRunConfig
from raytrain_xai.storage import locate

_BLOCK_SHARE = 64  # a batch mixes rows from this many places, or more
_LEAST_BLOCK = 64  # rows read in one piece
_BLOCKS = 6  # tag of this random stream


class VectorSource(Protocol):
    """Where the vectors of a concept run come from.

    Whatever it is, the vectors of a step depend on (configuration, epoch, step) alone: neither a restart nor the number
    of workers changes them.
    """

    @property
    def dim(self) -> int:
        """D, length of a vector."""
        ...

    @property
    def num_vectors(self) -> int:
        """Vectors of an epoch, over all workers; steps of an epoch = num_vectors // batch_size."""
        ...

    @property
    def scale(self) -> float:
        """sqrt(mean |F|^2) of the raw vectors; what :meth:`epoch` yields is divided by it already."""
        ...

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Tensor]:
        """This worker's part of every global batch of an epoch, from a step on.

        Yields:
            (n, D) float32 on the device, divided by :attr:`scale`; parts of a step in rank order are its batch.
        """
        ...


def open_vectors(
    config: ConceptRunConfig, adopted: AdoptedNetwork, *, rank: int, world_size: int, device: torch.device
) -> VectorSource:
    """The source that ``config.features`` describes.

    Args:
        config: with ``features.store`` exported vectors are read, without one the network feeds a reservoir.
        adopted: the network whose features these are.
        rank, world_size: of this worker, when the vectors of a step are shared out; with ``parallel: dictionary`` every
            worker needs all of them: give 0, 1.
        device: where vectors are put.
    Raises:
        DataError: the store is missing, unfinished, damaged, or holds features of another network, tap or data set.
        ConfigError: no such tap, or less than one batch in an epoch.
    """
    plan = plan_features(config, adopted, config.layer)
    return planned_vectors(
        config, plan, lambda: open_extraction(config, adopted), rank=rank, world_size=world_size, device=device
    )


def planned_vectors(
    config: ConceptRunConfig | InsightRunConfig, plan: FeaturePlan, extract: Callable[[], VectorExtraction], *,
    rank: int, world_size: int, device: torch.device,
) -> VectorSource:  # fmt: skip
    """The vectors of a plan, from the store of ``config.features`` or, without one, from what ``extract`` opens.

    Args and raises as :func:`open_vectors`.
    """
    if config.features.store is None:
        return ReservoirVectors(config, plan, extract(), rank=rank, world_size=world_size)
    store = FeatureStore(locate(config.features.store).child(plan.tap))
    check_plan(store.at, store.manifest.plan, plan)
    return StoredVectors(
        store, batch_size=config.batch_size, seed=config.seed, rank=rank, world_size=world_size, device=device
    )


class StoredVectors:
    """A :class:`VectorSource` that reads exported shards.

    Every epoch cuts the shards into blocks of rows at new places and lays the blocks end to end in random order; a
    batch is a stretch of that. Rows are shuffled within a shard since the export: what is read is contiguous.
    """

    def __init__(
        self, store: FeatureStore, *, batch_size: int, seed: int, rank: int, world_size: int, device: torch.device
    ) -> None:
        """
        Raises:
            ConfigError: less than one batch in an epoch.
        """
        self._store = store
        self._batch_size, self._seed, self._device = batch_size, seed, device
        self._rank, self._world_size = rank, world_size
        self._rows = np.array([shard.rows for shard in store.manifest.shards])
        if self.num_vectors < batch_size:
            raise ConfigError(
                f"{store.at.uri} has {self.num_vectors} vectors, less than one batch of {batch_size}; lower batch_size"
            )

    @property
    def dim(self) -> int:
        """See :class:`VectorSource`."""
        return self._store.manifest.plan.dim

    @property
    def num_vectors(self) -> int:
        """See :class:`VectorSource`."""
        return int(self._rows.sum())

    @property
    def scale(self) -> float:
        """Of all exported vectors."""
        return self._store.manifest.scale

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Tensor]:
        """See :class:`VectorSource`; the next part is read while the present one is used."""
        stretch = self._lay_out(epoch)
        own = self._batch_size // self._world_size

        def read(step: int) -> Tensor:
            first = step * self._batch_size + self._rank * own
            return self._read(stretch.segments(first, first + own))

        yield from _one_ahead(read, range(start_step, self.num_vectors // self._batch_size))

    def _lay_out(self, epoch: int) -> _Stretch:
        """All rows of the store in the order of an epoch."""
        generator = np.random.default_rng([self._seed, epoch, _BLOCKS])
        block = max(_LEAST_BLOCK, self._batch_size // _BLOCK_SHARE)
        shards, starts, stops = [], [], []
        for shard, rows in enumerate(self._rows):
            cuts = np.arange(generator.integers(block), rows, block)  # at new places: blocks differ between epochs
            cuts = np.unique(np.concatenate([[0], cuts, [rows]]))
            starts.append(cuts[:-1])
            stops.append(cuts[1:])
            shards.append(np.full(len(cuts) - 1, shard))
        order = generator.permutation(sum(map(len, starts)))
        shards, starts, stops = (np.concatenate(part)[order] for part in (shards, starts, stops))
        return _Stretch(shards, starts, np.cumsum(stops - starts))

    def _read(self, segments: Sequence[Segment]) -> Tensor:
        """(rows of all segments, D) float32 on the device, divided by the scale."""
        pieces = self._store.rows(segments)
        factors = [self._store.unit(segment.shard) / self.scale for segment in segments]
        if self._device.type == "cpu":
            vectors = torch.empty(sum(map(len, pieces)), self.dim)
            for piece, factor, target in zip(pieces, factors, vectors.split([len(p) for p in pieces]), strict=True):
                target.copy_(piece).mul_(factor)
            return vectors
        packed = torch.cat(list(pieces)).pin_memory().to(self._device, non_blocking=True)  # half the bytes to move
        column = torch.tensor(factors).repeat_interleave(torch.tensor([len(piece) for piece in pieces]))
        return packed.to(torch.float32).mul_(column[:, None].to(self._device, non_blocking=True))


@dataclass(frozen=True)
class _Stretch:
    """Blocks laid end to end, (blocks,) int64 each: their shards, first rows, and ends in the stretch."""

    shards: np.ndarray
    starts: np.ndarray
    ends: np.ndarray

    def segments(self, first: int, stop: int) -> list[Segment]:
        """What lies between two places of the stretch."""
        found: list[Segment] = []
        block = int(np.searchsorted(self.ends, first, side="right"))
        while first < stop:
            end = int(self.ends[block])
            begin = int(self.ends[block - 1]) if block else 0
            taken, offset = min(stop, end) - first, int(self.starts[block]) - begin
            found.append(Segment(int(self.shards[block]), first + offset, first + taken + offset))
            first, block = first + taken, block + 1
        return found


def _one_ahead(read: Callable[[int], Tensor], steps: Iterable[int]) -> Iterator[Tensor]:
    """``read`` of every step in order, the next one under way while the present one is used."""
    with ThreadPoolExecutor(1) as reader:
        coming: Future[Tensor] | None = None
        for step in steps:
            following = reader.submit(read, step)
            if coming is not None:
                yield coming.result()
            coming = following
        if coming is not None:
            yield coming.result()
