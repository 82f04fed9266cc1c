"""Vectors without a disk: the frozen network or encoder fills a reservoir, from which batches are drawn at random.

An epoch sees the images in a new order and draws new positions of each. The order is cut into *lanes*, of which every
batch takes an equal number of vectors; workers own lanes and run the network on the images of their own lanes only. The
lanes are filled again when they are empty, with ``features.reservoir`` vectors in all; a batch is a random sample of
these, so that vectors of one image are spread over one filling, and a restart repeats one filling at most.

The number of lanes divides the batch and does not depend on the workers: which vectors a step sees is a function of
(configuration, epoch, step). Their values agree to rounding when the number of workers changes, since the network then
gets its images in other batches; with the same number they agree bit by bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.data.feature_store import FeaturePlan
from raytrain_xai.draws import uniform
from raytrain_xai.errors import ConfigError
from raytrain_xai.features.extraction import VectorExtraction
from raytrain_xai.features.plan import image_order
from raytrain_xai.insight_config import InsightRunConfig

_LANES = 960  # 2^6 · 3 · 5: what most batch sizes and numbers of workers divide
_LEAST_PER_LANE = 16  # images of an epoch; the rest of a division is left out, at most 1/16 of the images
_SCALE_IMAGES = 256  # from which the scale is estimated
_SHUFFLE = 0xE5E  # tag of this stream of random numbers


class ReservoirVectors:
    """A :class:`~raytrain_xai.features.source.VectorSource` fed by what sees the images."""

    def __init__(
        self, config: ConceptRunConfig | InsightRunConfig, plan: FeaturePlan, extraction: VectorExtraction, *,
        rank: int, world_size: int,
    ) -> None:  # fmt: skip
        """
        Args:
            config: features.reservoir, batch_size and seed are used.
            plan: which vectors; its seed is that of stores and not used.
            extraction: on the device of this worker.
            rank, world_size: of this worker.
        Raises:
            ConfigError: less than one batch in an epoch, or a number of workers that lanes do not divide into.
            DataError: the images cannot be read.
        """
        self._extraction = extraction
        self._tap, self._dim, self._seed = plan.tap, plan.dim, config.seed
        self._per_image = plan.per_image
        self._count = None if plan.keeps_all else plan.per_image
        self._shard_rows = extraction.shard_rows
        num_images = sum(self._shard_rows)
        self._lanes = _num_lanes(config.batch_size, num_images)
        self._own = _own_lanes(self._lanes, rank, world_size)
        self._lane_images = num_images // self._lanes
        self._fill_images = max(1, config.features.reservoir // (self._per_image * self._lanes))
        self._batch_size = config.batch_size
        if self.num_vectors < self._batch_size:
            raise ConfigError(
                f"an epoch has {self.num_vectors} vectors, less than one batch of {self._batch_size}; lower batch_size"
            )
        self._scale = self._estimate_scale()

    @property
    def dim(self) -> int:
        """See :class:`~raytrain_xai.features.source.VectorSource`."""
        return self._dim

    @property
    def num_vectors(self) -> int:
        """See :class:`~raytrain_xai.features.source.VectorSource`."""
        return self._lane_images * self._lanes * self._per_image

    @property
    def scale(self) -> float:
        """Of the first images, on every worker the same."""
        return self._scale

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Tensor]:
        """See :class:`~raytrain_xai.features.source.VectorSource`."""
        order = image_order(self._shard_rows, self._seed, epoch)
        quota = self._batch_size // self._lanes  # vectors of a lane in a batch
        first, skipped = divmod(start_step * quota, self._fill_images * self._per_image)
        parts: list[Tensor] = []
        missing = quota
        for fill in range(first, math.ceil(self._lane_images / self._fill_images)):
            vectors, drawn = self._fill(order, epoch, fill)
            position, skipped = skipped, 0
            while position < drawn.shape[1]:
                taken = drawn[:, position : position + missing]
                parts.append(vectors[taken])  # (lanes of this worker, rows of each, D)
                position += taken.shape[1]
                missing -= taken.shape[1]
                if missing == 0:
                    yield torch.cat(parts, dim=1).flatten(0, 1)
                    parts, missing = [], quota
            del vectors  # before the next filling takes its place

    def _fill(self, order: np.ndarray, epoch: int, fill: int) -> tuple[Tensor, Tensor]:
        """Vectors (n, D) of a filling, image by image, and the rows in the order of drawing, (lanes, n / lanes)."""
        first = fill * self._fill_images
        num_images = min(self._fill_images, self._lane_images - first)
        start = first * self._lanes
        rows = order[start + self._own.start * num_images : start + self._own.stop * num_images]
        found = self._extraction.vectors(rows, {self._tap: self._count}, seed=self._seed, epoch=epoch)
        vectors = torch.empty(len(rows) * self._per_image, self._dim, device=self._device)
        at = 0
        for batch in found:
            block = batch[self._tap].flatten(0, 1)
            torch.div(block, self._scale, out=vectors[at : at + len(block)])
            at += len(block)
        per_lane = num_images * self._per_image
        lane = torch.arange(self._own.start, self._own.stop, device=self._device)[:, None]
        place = torch.arange(per_lane, device=self._device).expand(len(lane), per_lane)
        drawn = uniform(place, lane, fill, epoch, self._seed, _SHUFFLE).argsort(dim=1, stable=True)
        return vectors, drawn + (lane - self._own.start) * per_lane

    def _estimate_scale(self) -> float:
        rows = image_order(self._shard_rows, self._seed, 0)[:_SCALE_IMAGES]
        found = self._extraction.vectors(rows, {self._tap: self._count}, seed=self._seed, epoch=0)
        total = sum(float(batch[self._tap].to(torch.float64).square().sum()) for batch in found)
        return math.sqrt(total / (len(rows) * self._per_image)) or 1.0

    @property
    def _device(self) -> torch.device:
        return self._extraction.device


def check_workers(config: ConceptRunConfig | InsightRunConfig, num_images: int) -> None:
    """Check, before anything starts, that a run without a store can share its vectors out.

    Raises:
        ConfigError: lanes do not divide among the workers.
    """
    if isinstance(config, InsightRunConfig) or config.parallel == "data":
        for size in config.resources.sizes(config.workers):
            _own_lanes(_num_lanes(config.batch_size, num_images), 0, size)


def _num_lanes(batch_size: int, num_images: int) -> int:
    most = max(1, num_images // _LEAST_PER_LANE)
    common = math.gcd(batch_size, _LANES)
    return max(lanes for lanes in range(1, min(common, most) + 1) if common % lanes == 0)


def _own_lanes(lanes: int, rank: int, world_size: int) -> range:
    if lanes % world_size:
        raise ConfigError(
            f"without a store the vectors of a step come from {lanes} streams, which do not divide among {world_size} "
            "workers; change workers, or set features.store"
        )
    own = lanes // world_size
    return range(rank * own, (rank + 1) * own)
