"""Images of one or several data sets to the patch vectors of a language-aligned encoder.

The splits of the data sets are laid end to end: a row counts through all of them. Labels are not read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from raytrain_xai.concepts.layer import to_vectors
from raytrain_xai.concepts.positions import sample_positions
from raytrain_xai.data.batches import PlannedBatches
from raytrain_xai.data.dataset import DatasetInfo, StoredSplit, open_dataset
from raytrain_xai.data.feature_store import FeaturePlan
from raytrain_xai.data.sampling import full_plan
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.features.plan import IMAGES_PER_SHARD, STORE_SEED
from raytrain_xai.features.source import VectorSource, planned_vectors
from raytrain_xai.insight_config import InsightRunConfig
from raytrain_xai.language.encoder import LanguageEncoder

PATCHES = "patches"
"""The one place of an encoder whose features are taken; the name of its folder in a feature store."""


def plan_patches(config: InsightRunConfig, encoder: LanguageEncoder) -> FeaturePlan:
    """What an epoch, or a store, holds.

    Raises:
        ConfigError: no data, or an image size that is no multiple of a patch.
        DataError: a data set cannot be read, or none has the split.
    """
    infos = {path: info for path, info in opened_data(config).items() if info.splits.get(config.features.split)}
    if not infos:
        raise DataError(f"no image in the split {config.features.split!r} of {', '.join(config.data)}")
    size = image_size(config, encoder)
    blank = torch.zeros((1, 3, size, size), dtype=torch.uint8, device=encoder.device)
    with torch.no_grad():
        _, dim, height, width = encoder.patches(blank).shape
    num_positions = height * width
    digest = hashlib.sha256(" ".join(info.fingerprint for info in infos.values()).encode())
    return FeaturePlan(
        tap=PATCHES, dim=dim, size=(height, width), sampling="uniform", seed=STORE_SEED,
        per_image=min(config.features.per_image or num_positions, num_positions),
        network_name=encoder.name, network=encoder.fingerprint, data=digest.hexdigest(), split=config.features.split,
        num_images=sum(info.splits[config.features.split] for info in infos.values()),
        images_per_shard=IMAGES_PER_SHARD, image_size=size, eval_resize=config.eval_resize,
    )  # fmt: skip


def image_size(config: InsightRunConfig, encoder: LanguageEncoder) -> int:
    """Side of the images, pixels.

    Raises:
        ConfigError: patches would hang over the border.
    """
    size = config.image_size or encoder.image_size
    if size % encoder.multiple:
        near = max(1, round(size / encoder.multiple)) * encoder.multiple
        raise ConfigError(
            f"image_size={size} is no multiple of the {encoder.multiple} pixels of a patch of {encoder.name}; set "
            f"{near}"
        )
    return size


def opened_data(config: InsightRunConfig) -> dict[str, DatasetInfo]:
    """Address -> description of the data sets of a run.

    Raises:
        ConfigError: there is none, or one twice.
        DataError: one cannot be read.
    """
    if not config.data:
        raise ConfigError("data names no prepared data set; set data to one or several")
    if len(set(config.data)) < len(config.data):
        raise ConfigError(f"data names a data set twice: {', '.join(config.data)}")
    return {path: open_dataset(path) for path in config.data}


def open_patches(
    config: InsightRunConfig, encoder: LanguageEncoder, *, rank: int, world_size: int, device: torch.device
) -> VectorSource:
    """The training vectors of a run; see :func:`raytrain_xai.features.source.open_vectors`."""
    plan = plan_patches(config, encoder)
    return planned_vectors(
        config, plan, lambda: open_patch_extraction(config, encoder), rank=rank, world_size=world_size, device=device
    )


@dataclass(frozen=True)
class PatchExtraction:
    """A :class:`~raytrain_xai.features.extraction.VectorExtraction` by an encoder.

    Attributes:
        encoder: on its device.
        parts: the split of each data set, prepared for the encoder.
        batch_size: images at a time.
    """

    encoder: LanguageEncoder
    parts: tuple[PlannedBatches, ...]
    batch_size: int

    @property
    def device(self) -> torch.device:
        """That of the encoder."""
        return self.encoder.device

    @property
    def shard_rows(self) -> list[int]:
        """Of all data sets, one after the other."""
        return [shard.rows for part in self.parts for shard in part.stored.shards]

    @torch.no_grad()
    def vectors(
        self, rows: np.ndarray, counts: Mapping[str, int | None], *, seed: int, epoch: int
    ) -> Iterator[dict[str, Tensor]]:
        """Vectors of images in the given order, batch by batch: ``patches`` -> (B, M, D) float32 on the device.

        Args:
            rows: (n,) int64, through all data sets.
            counts: ``patches`` -> patches of an image, drawn with equal chance; None: all.
            seed, epoch: of the draw.
        Raises:
            DataError: an image cannot be decoded, or its vectors are not finite.
        """
        for start in range(0, len(rows), self.batch_size):
            own = rows[start : start + self.batch_size]
            found = to_vectors(self.encoder.patches(self.images(own)))
            is_finite = found.isfinite().flatten(1).all(dim=1).cpu()
            if not bool(is_finite.all()):
                raise DataError(
                    f"the patches of {self.encoder.name} are not finite for image {self._name(own, is_finite)!r}; its "
                    "weights are damaged or overflow"
                )
            count = counts[PATCHES]
            if count is not None:
                image = torch.from_numpy(own).to(found.device)
                equal = torch.ones(found.shape[:2], device=found.device)
                at = sample_positions(equal, count, seed=seed, epoch=epoch, image=image)
                found = found.gather(1, at[..., None].expand(-1, -1, found.shape[2]))
            yield {PATCHES: found}

    def images(self, rows: np.ndarray) -> Tensor:
        """(n, 3, S, S) uint8 on the device, of rows through all data sets in the given order."""
        part, place = self._places(rows)
        order, images = [], []
        for number, batches in enumerate(self.parts):
            own = (part == number).nonzero()[0]
            if len(own):
                order.append(own)
                images.append(batches[full_plan(place[own])].images)
        restored = torch.from_numpy(np.argsort(np.concatenate(order)))
        return torch.cat(images)[restored].to(self.device, non_blocking=True)

    def _places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Data set of each row, and the row in it."""
        ends = np.array(list(accumulate(len(part.stored) for part in self.parts)))
        part = np.searchsorted(ends, rows, side="right")
        return part, rows - np.concatenate([[0], ends])[part]

    def _name(self, rows: np.ndarray, is_finite: Tensor) -> str:
        part, place = self._places(rows[~is_finite.numpy()][:1])
        return self.parts[int(part[0])].stored.annotations.ids[int(place[0])].as_py()


def open_patch_extraction(
    config: InsightRunConfig, encoder: LanguageEncoder, split: str | None = None
) -> PatchExtraction:
    """The extraction of a run.

    Args:
        split: of the data sets that have it; None: the one that is trained on.
    Raises:
        ConfigError, DataError: see :func:`plan_patches`.
    """
    split, size = split or config.features.split, image_size(config, encoder)
    paths = [path for path, info in opened_data(config).items() if info.splits.get(split)]
    if not paths:
        raise DataError(f"no image in the split {split!r} of {', '.join(config.data)}")
    parts = tuple(PlannedBatches(StoredSplit(path, split), size, shorter=config.eval_resize) for path in paths)
    return PatchExtraction(encoder, parts, config.evaluation.batch_size)
