"""Vectors for the training of a concept layer: from exported shards, or straight from the frozen network."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.concept_network import AdoptedNetwork


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
    raise NotImplementedError
