"""Patch features of a frozen network for all images of a split, computed once and kept in half precision.

Images are taken in chunks of 64 in stored order, and worker r of n owns every n-th chunk: it computes it, keeps it in
memory, and learns from its images whenever a step draws them. So features depend on neither the number of workers nor
the step that asked for them. With a store, chunks are files that another run, or a restart, reads instead.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raytrain_xai.data.batches import PlannedBatches
from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.data.sampling import full_plan
from raytrain_xai.errors import CheckpointError
from raytrain_xai.language.backbone import Backbone
from raytrain_xai.sealed import seal, unseal
from raytrain_xai.storage import Location, exists, read_bytes, write_bytes

CHUNK = 64
_FEATURES = "features"


@dataclass(frozen=True)
class PatchShare:
    """What one worker owns of a split.

    Attributes:
        rows: (n,) int64 ascending row numbers of the split.
        features: (n, C, h, w) float16, on the CPU.
        labels: (n, M) float32 multi-hot, on the CPU.
        place: (N,) int64, for all N rows of the split: where in this share a row is, -1 where another worker owns it.
    """

    rows: Tensor
    features: Tensor
    labels: Tensor
    place: Tensor


def own_patches(
    backbone: Backbone, path: str, split: str, image_size: int, *, store: Location | None, rank: int, world_size: int
) -> PatchShare:
    """This worker's part of a split; computes the chunks that the store does not have, and adds them.

    Args:
        image_size: side of the square to which images are squeezed, pixels.
        store: folder of chunk files; None keeps them in memory alone.
    Raises:
        DataError: no such data set or split, or a damaged image.
        CheckpointError: a chunk file is damaged.
    """
    stored = StoredSplit(path, split)
    images = PlannedBatches(stored, image_size)
    own = [np.arange(start, min(start + CHUNK, len(stored))) for start in range(0, len(stored), CHUNK)]
    own = own[rank::world_size]
    folder = None if store is None else store.child(_key(backbone, stored, split, image_size))
    chunks = [_chunk(backbone, images, rows, folder) for rows in own]
    rows = np.concatenate(own) if own else np.zeros(0, dtype=np.int64)
    place = torch.full((len(stored),), -1)
    place[torch.from_numpy(rows)] = torch.arange(len(rows))
    labels = stored.annotations.multi_hot(rows, len(stored.info.classes)) if own else np.zeros((0, 0), dtype=np.float32)
    return PatchShare(torch.from_numpy(rows), _joined(chunks, backbone.dim), torch.from_numpy(labels), place)


def patch_chunks(share: PatchShare, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Features (n, C, h, w) float16 and labels (n, M) of a share, in order, at most ``size`` images at a time."""
    for start in range(0, len(share.rows), size):
        yield share.features[start : start + size], share.labels[start : start + size]


def _chunk(backbone: Backbone, images: PlannedBatches, rows: np.ndarray, folder: Location | None) -> Tensor:
    file = None if folder is None else folder.child(f"{int(rows[0]):08d}.safetensors")
    if file is not None and exists(file):
        return _read(file, len(rows))
    features = backbone.features(images[full_plan(rows)].images).half().cpu()
    if file is not None:
        write_bytes(file, seal({_FEATURES: features}))
    return features


def _read(file: Location, num_images: int) -> Tensor:
    try:
        features = unseal(read_bytes(file))[_FEATURES]
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{file.uri} is damaged; delete it, its images are computed again ({error})") from error
    if len(features) != num_images:
        raise CheckpointError(f"{file.uri} has {len(features)} images, expected {num_images}; delete it")
    return features


def _joined(chunks: list[Tensor], dim: int) -> Tensor:
    return torch.cat(chunks) if chunks else torch.zeros(0, dim, 0, 0, dtype=torch.float16)


def _key(backbone: Backbone, stored: StoredSplit, split: str, image_size: int) -> str:
    about = [backbone.fingerprint, stored.info.fingerprint, split, image_size, CHUNK]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:32]
