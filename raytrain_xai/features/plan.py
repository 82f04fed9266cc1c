"""What a concept run takes from its data and network: which images, seen how, and which vectors of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.concept_runs.model import network_fingerprint
from raytrain_xai.concept_runs.network import AdoptedNetwork
from raytrain_xai.concepts.positions import positions_per_image
from raytrain_xai.data.dataset import open_dataset
from raytrain_xai.data.feature_store import FeaturePlan
from raytrain_xai.data.parquet import ROW_GROUP_ROWS
from raytrain_xai.errors import DataError
from raytrain_xai.models.network import Network

IMAGES_PER_SHARD = 512  # by the published number of positions a shard has 38 MB whatever the layer

STORE_SEED = 512  # of exported positions, as published; not that of a run, so that runs share a store
_ORDER = 5  # tag of this random stream


@dataclass(frozen=True)
class SeenImages:
    """Images and how they are prepared for the network.

    Attributes:
        path: address of the data set.
        split: of it.
        image_size: side of the network input, pixels.
        shorter: see :func:`raytrain_xai.data.transforms.centre`.
    """

    path: str
    split: str
    image_size: int
    shorter: int | None


def seen_images(config: ConceptRunConfig, adopted: AdoptedNetwork) -> SeenImages:
    """The images of a concept run, seen as the network was trained to see them."""
    own = adopted.config.data
    return SeenImages(
        path=config.data or own.path,
        split=config.features.split,
        image_size=own.image_size,
        shorter=own.eval_resize,
    )


def plan_features(config: ConceptRunConfig, adopted: AdoptedNetwork, tap: str) -> FeaturePlan:
    """What a store of the features of one tap holds.

    Raises:
        ConfigError: no such tap.
        DataError: the data set has no such split, or cannot be read.
    """
    images = seen_images(config, adopted)
    info = open_dataset(images.path)
    if images.split not in info.splits:
        raise DataError(f"{images.path} has no split {images.split!r}; set features.split to {_choice(info.splits)}")
    dim, height, width = tap_shape(adopted.network, tap, images.image_size)
    return FeaturePlan(
        tap=tap,
        dim=dim,
        size=(height, width),
        per_image=positions_per_image(dim, height * width, config.features.per_image),
        sampling=config.features.sampling,
        seed=STORE_SEED,
        network_name=adopted.network.name,
        network=network_fingerprint(adopted.network),
        data=info.fingerprint,
        split=images.split,
        num_images=info.splits[images.split],
        images_per_shard=IMAGES_PER_SHARD,
        image_size=images.image_size,
        eval_resize=images.shorter,
    )


@torch.no_grad()
def tap_shape(network: Network, tap: str, image_size: int) -> tuple[int, int, int]:
    """(D, h, w) of the map at a tap.

    Raises:
        ConfigError: no such tap; the message lists them.
    """
    device = next(network.net.parameters()).device
    blank = torch.zeros((1, 3, image_size, image_size), dtype=torch.uint8, device=device)
    _, dim, height, width = network.features(blank, tap).shape
    return dim, height, width


def image_order(shard_rows: Sequence[int], seed: int, epoch: int) -> np.ndarray:
    """Random order of the images of a split, (n,) int64, in which images that are read together stay together.

    Row groups, the unit in which images are read from the data set, are laid end to end in random order: a stretch of
    it reads each of its images once, and holds images from all over the split.

    Args:
        shard_rows: rows of each shard of the data set.
    """
    starts = np.cumsum([0, *shard_rows[:-1]])
    groups = [
        np.arange(start + first, start + min(first + ROW_GROUP_ROWS, rows), dtype=np.int64)
        for start, rows in zip(starts, shard_rows, strict=True)
        for first in range(0, rows, ROW_GROUP_ROWS)
    ]
    order = np.random.default_rng([seed, epoch, _ORDER]).permutation(len(groups))
    return np.concatenate([groups[group] for group in order])


def largest_per_image(plans: Sequence[FeaturePlan], num_bytes: int) -> int:
    """Positions of an image with which stores of some taps have at most ``num_bytes`` together; 0: one is too many."""
    fits = (
        count
        for count in range(max(plan.per_image for plan in plans), 0, -1)
        if sum(plan.num_bytes // plan.per_image * min(count, plan.per_image) for plan in plans) <= num_bytes
    )
    return next(fits, 0)


def _choice(names: Iterable[str]) -> str:
    return " or ".join(names)
