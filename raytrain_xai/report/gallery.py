"""The same test images through every run, as pictures for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from raytrain_xai.data.boxes import rasterise
from raytrain_xai.data.dataset import DatasetInfo, StoredSplit
from raytrain_xai.data.loader import load_samples
from raytrain_xai.errors import DataError
from raytrain_xai.evaluation import check_classes
from raytrain_xai.explain import Explainer
from raytrain_xai.guidance.metrics import energy_pointing_game
from raytrain_xai.report.overlay import draw_boxes, on_white, overlay_heatmap, to_picture
from raytrain_xai.report.selection import Choice, choose_images
from raytrain_xai.types import Batch

NUM_IMAGES = 12
SHOWN_PX = 224  # side of the pictures on the page


@dataclass(frozen=True)
class Tile:
    """One image through one run.

    Attributes:
        run: position of the run.
        heatmap: overlay for the true class, RGB.
        rgba: B-cos explanation in colour on white, RGB; None for other networks.
        epg: share of the map's positive part inside the boxes of the class; None for an image without such boxes.
        probability: of the true class.
        verdict: what the run says instead; empty when it is right.
    """

    run: int
    heatmap: Image
    rgba: Image | None
    epg: float | None
    probability: float
    verdict: str


@dataclass(frozen=True)
class Example:
    """One image with its true class, group name (empty without groups), photograph and one tile per run."""

    id: str
    target: str
    group: str
    photo: Image
    has_boxes: bool
    tiles: tuple[Tile, ...]


def build_gallery(
    explainers: Sequence[Explainer], data: str, split: str, num_images: int = NUM_IMAGES
) -> list[Example]:
    """Explain a fixed choice of images with every run.

    Args:
        explainers: one per run.
        data: stored data set, folder or s3:// address.
        split: the split to choose from; see :func:`raytrain_xai.report.selection.choose_images`.
        num_images: how many to choose.
    Raises:
        DataError: no such data set or split, other classes than a network's, or no labelled image.
    """
    stored = StoredSplit(data, split)
    info, rows = stored.info, stored.annotations
    for explainer in explainers:
        check_classes(explainer.origin, explainer.classes, data, info.classes)
    labels = [part.tolist() for part in np.split(rows.labels, rows.label_offsets[1:-1])]
    choices = choose_images(labels, rows.groups.tolist() if info.groups else None, num_images)
    if not choices:
        raise DataError(f"split {split} of {data} has no labelled image to show; report on other data with --data")
    indices = [choice.index for choice in choices]
    shown, ids = load_samples(data, split, indices, SHOWN_PX)
    target = torch.tensor([choice.target for choice in choices])
    columns: list[list[Tile]] = []
    for run, explainer in enumerate(explainers):
        size, shorter = explainer.image_size, explainer.shorter
        seen, _ = load_samples(data, split, indices, size, shorter=shorter)
        as_seen = None if shorter is None else round(SHOWN_PX * shorter / size)  # the same part of each image
        under, _ = load_samples(data, split, indices, SHOWN_PX, shorter=as_seen)
        columns.append(_tiles(run, explainer, seen, under, target, info))
    boxes = _own_boxes(shown, target)
    return [
        _example(info, choice, ids[row], shown.images[row], boxes[row], tuple(column[row] for column in columns))
        for row, choice in enumerate(choices)
    ]


def _tiles(run: int, explainer: Explainer, batch: Batch, shown: Batch, target: Tensor, info: DatasetInfo) -> list[Tile]:
    logits, pairs = explainer.attribute(batch.images, target)
    logits, maps = logits.cpu(), pairs.maps.cpu()
    probabilities = explainer.probabilities(logits)
    size = (explainer.image_size, explainer.image_size)
    region = rasterise(batch.boxes, batch.box_labels == target[:, None], size)
    epg = energy_pointing_game(maps, region)
    has_region = region.flatten(1).any(dim=1)
    overlays = overlay_heatmap(shown.images, maps)
    boxes = _own_boxes(shown, target)
    rows = range(len(target))
    return [
        Tile(
            run=run,
            heatmap=draw_boxes(to_picture(overlays[row]), boxes[row]),
            rgba=None if pairs.rgba is None else on_white(to_picture(pairs.rgba[row])),
            epg=float(epg[row]) if has_region[row] else None,
            probability=float(probabilities[row, target[row]]),
            verdict=_verdict(logits[row], int(target[row]), info),
        )
        for row in rows
    ]


def _verdict(logits: Tensor, target: int, info: DatasetInfo) -> str:
    """What a network says instead of the true class; empty when it says the true class."""
    if info.task == "multilabel":
        return "" if logits[target] >= 0 else "not found"
    answer = int(logits.argmax())
    return "" if answer == target else f"says {info.classes[answer]}"


def _own_boxes(shown: Batch, target: Tensor) -> list[list[list[float]]]:
    """Per image, the boxes of its class in pixels of ``shown``."""
    is_own = shown.box_labels == target[:, None]
    return [boxes[own].tolist() for boxes, own in zip(shown.boxes, is_own, strict=True)]


def _example(
    info: DatasetInfo, choice: Choice, name: str, photo: Tensor, boxes: list[list[float]], tiles: tuple[Tile, ...]
) -> Example:
    group = choice.group if choice.group is not None and choice.group >= 0 else None
    return Example(
        id=name,
        target=info.classes[choice.target],
        group="" if info.groups is None or group is None else info.groups[group],
        photo=draw_boxes(to_picture(photo.permute(1, 2, 0)), boxes),
        has_boxes=bool(boxes),
        tiles=tiles,
    )
