"""Images of a data set to feature vectors of a frozen network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.concept_runs.network import AdoptedNetwork
from raytrain_xai.concepts.positions import Sampling, sampled_vectors
from raytrain_xai.data.batches import PlannedBatches
from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.data.loader import Batches
from raytrain_xai.data.sampling import full_plan
from raytrain_xai.errors import DataError
from raytrain_xai.features.plan import seen_images
from raytrain_xai.models.network import Network


class VectorExtraction(Protocol):
    """What turns images of a split into vectors, whatever sees them."""

    @property
    def device(self) -> torch.device:
        """Where the vectors are."""
        ...

    @property
    def shard_rows(self) -> list[int]:
        """Images in each stored shard of the split, in order."""
        ...

    def vectors(
        self, rows: np.ndarray, counts: Mapping[str, int | None], *, seed: int, epoch: int
    ) -> Iterator[dict[str, Tensor]]:
        """See :meth:`Extraction.vectors`."""
        ...


@dataclass(frozen=True)
class Extraction:
    """What runs images through a network; see :func:`open_extraction`.

    Attributes:
        network: frozen, in evaluation mode, on its device.
        images: of the split, prepared for the network.
        sampling: of positions.
        batch_size: images at a time.
        num_loader_workers: processes that decode.
    """

    network: Network
    images: PlannedBatches
    sampling: Sampling
    batch_size: int
    num_loader_workers: int

    @property
    def device(self) -> torch.device:
        """That of the network."""
        return next(self.network.net.parameters()).device

    @property
    def shard_rows(self) -> list[int]:
        """See :class:`VectorExtraction`."""
        return [shard.rows for shard in self.images.stored.shards]

    def vectors(
        self, rows: np.ndarray, counts: Mapping[str, int | None], *, seed: int, epoch: int
    ) -> Iterator[dict[str, Tensor]]:
        """Vectors of images in the given order, batch by batch: tap -> (B, M, D) float32 on the device.

        Args:
            rows: (n,) int64, of the split.
            counts: tap -> positions of an image; None: all.
            seed, epoch: of the positions.
        Raises:
            DataError: an image cannot be decoded, or its features are not finite.
        """
        device = self.device
        plans = [full_plan(rows[start : start + self.batch_size]) for start in range(0, len(rows), self.batch_size)]
        for batch in Batches(self.images, plans, self.num_loader_workers):
            images, index = batch.images.to(device, non_blocking=True), batch.index.to(device, non_blocking=True)
            found = sampled_vectors(self.network, images, index, counts, sampling=self.sampling, seed=seed, epoch=epoch)
            found = {tap: vectors.to(torch.float32) for tap, vectors in found.items()}
            self._check_finite(found, batch.index)
            yield found

    def _check_finite(self, found: Mapping[str, Tensor], index: Tensor) -> None:
        for tap, vectors in found.items():
            is_finite = vectors.isfinite().flatten(1).all(dim=1).cpu()
            if not bool(is_finite.all()):
                row = int(index[~is_finite][0])
                name = self.images.stored.annotations.ids[row].as_py()
                raise DataError(
                    f"the features of {self.network.name} at {tap} are not finite for image {name!r}; its weights are "
                    "damaged or overflow"
                )


def open_extraction(config: ConceptRunConfig, adopted: AdoptedNetwork) -> Extraction:
    """The extraction of a concept run.

    Raises:
        DataError: no such data set or split, or it is damaged.
    """
    images = seen_images(config, adopted)
    stored = StoredSplit(images.path, images.split)
    return Extraction(
        network=adopted.network,
        images=PlannedBatches(stored, images.image_size, shorter=images.shorter),
        sampling=config.features.sampling,
        batch_size=config.evaluation.batch_size,
        num_loader_workers=adopted.config.data.num_loader_workers,
    )
