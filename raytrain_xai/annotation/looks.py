"""What a network sees in the images that somebody is going to annotate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from raytrain_xai.annotation.asked import Asked
from raytrain_xai.annotation.heatmap_box import heatmap_box
from raytrain_xai.annotation.measure import pair_maps
from raytrain_xai.data.batches import PlannedBatches
from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.data.sampling import full_plan
from raytrain_xai.explain import Explainer
from raytrain_xai.explained_classes import require_finite
from raytrain_xai.guidance.postprocess import localise_map

_FOUND = 0.5  # probability


@dataclass(frozen=True)
class Look:
    """What the network says about one image and the n classes it shows.

    Attributes:
        row: of the image in its split.
        id: of the image.
        labels: class indices, ascending.
        probabilities: of these classes, as the network gives them.
        boxes: (n, 4) float32, :func:`~raytrain_xai.annotation.heatmap_box.heatmap_box` in pixels of the stored image.
    """

    row: int
    id: str
    labels: tuple[int, ...]
    probabilities: tuple[float, ...]
    boxes: Tensor

    def is_found(self, number: int) -> bool:
        """Whether the network finds the class of this number, so that a box around its evidence is worth a look."""
        return self.probabilities[number] >= _FOUND


def look_at(asked: Asked, stored: StoredSplit, ids: Sequence[str]) -> Iterator[tuple[Look, Tensor]]:
    """Explain images, some at a time.

    Returns:
        For each image what is said of it, and attribution maps (n, S, S) float32 of its classes at the network's image
        size: too large to be kept for many images.
    Raises:
        DataError: no image of such an id, or a damaged one.
        CheckpointError: the network answers with non-finite logits.
    """
    explainer, rows = asked.explainer, stored.find(ids)
    images = PlannedBatches(stored, explainer.image_size, shorter=explainer.shorter)
    for start in range(0, len(rows), asked.batch_size):
        own = rows[start : start + asked.batch_size]
        batch = images[full_plan(own)]
        row, target = (batch.labels > 0).nonzero(as_tuple=True)
        probabilities, maps = _explained(explainer, batch.images, row, target)
        boxes = _on_pictures(explainer, heatmap_box(maps), stored.annotations.size[own[row.numpy()]])
        sizes = batch.labels.sum(dim=1).int().tolist()
        parts = zip(*(values.split(sizes) for values in (target, probabilities, maps, boxes)), strict=True)
        for index, name, (labels, given, attr, corners) in zip(own, ids[start:], parts, strict=False):
            yield Look(int(index), name, tuple(labels.tolist()), tuple(given.tolist()), corners), attr


@torch.no_grad()
def _explained(explainer: Explainer, images: Tensor, rows: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities (R,) and maps (R, S, S) of pairs, on the CPU."""
    images, rows, target = (value.to(explainer.device) for value in (images, rows, target))
    logits = explainer.network(images)
    require_finite(explainer.network, logits)
    probabilities = explainer.probabilities(logits)[rows, target]
    attr = pair_maps(explainer, images, rows, target, method=explainer.method, layer=explainer.layer)
    size = (explainer.image_size, explainer.image_size)
    return probabilities.float().cpu(), localise_map(attr, size, None, "canonical").float().cpu()


def _on_pictures(explainer: Explainer, boxes: Tensor, sizes: np.ndarray) -> Tensor:
    """Boxes (R, 4) in pixels of what the network sees to pixels of stored images of ``sizes`` (R, 2)."""
    side = explainer.image_size
    seen = torch.tensor([explainer.seen(int(width), int(height)) for width, height in sizes])
    corner, extent = seen[:, :2].repeat(1, 2), (seen[:, 2:] - seen[:, :2]).repeat(1, 2)
    return corner + boxes / side * extent
