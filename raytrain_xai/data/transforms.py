"""Pixels, boxes and masks of one sample, moved together by torchvision v2.

Images stay uint8 RGB here; floats, normalisation and 1 - x are made on the device by the network's encoder. torchvision
is imported inside the functions, because a broken installation must not break the rest of the package.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable

Augment = Literal["none", "flip", "crop"]
_AUGMENT = 2  # tag of this random stream
# Scale and ratio of random-resized crops used for Waterbirds in the distillation paper (e2KD, ECCV 2024): mild, because
# labels stay when an object is cut away.
_CROP_AREA = (0.7, 1.0)
_CROP_RATIO = (3 / 4, 4 / 3)
_CROP_TRIES = 10


@dataclass(frozen=True)
class Sample:
    """One image with its annotation.

    Attributes:
        image: (3, H, W) uint8.
        boxes: (R, 4) float32, pixels of ``image``, half-open.
        box_labels: (R,) int64.
        mask: (H, W) uint8, see :class:`raytrain_xai.types.Batch`, or None.
    """

    image: Tensor
    boxes: Tensor
    box_labels: Tensor
    mask: Tensor | None


def resize(sample: Sample, size: int) -> Sample:
    """Scale to ``size`` x ``size``, aspect ratio ignored as in the guidance paper.

    Images bilinear with antialiasing, masks nearest.
    """
    from torchvision.transforms.v2 import functional as F

    return _apply(sample, lambda value: F.resize(value, [size, size], antialias=True))


def augment(sample: Sample, mode: Augment, size: int, key: tuple[int, int, int]) -> Sample:
    """Crop and mirror at random, and scale to ``size`` x ``size``.

    Args:
        mode: none: scale only; flip: and mirror half of the images; crop: random-resized crop and mirror.
        key: seed, epoch and index of the sample; all randomness comes from it, so that neither the worker nor the place
            in an epoch changes it.
    Returns:
        Sample of (3, size, size). Boxes cut away by more than all but one pixel of a side are gone.
    """
    if mode == "none":
        return resize(sample, size)
    generator = np.random.default_rng([*key, _AUGMENT])
    is_mirrored = generator.random() < 0.5
    if mode == "crop":
        sample = _crop(sample, _draw_crop(sample.image.shape[1:], generator), size)
    elif sample.image.shape[1:] != (size, size):
        sample = resize(sample, size)
    return mirror(sample) if is_mirrored else sample


def mirror(sample: Sample) -> Sample:
    """Left and right exchanged."""
    from torchvision.transforms.v2 import functional as F

    return _apply(sample, F.horizontal_flip)


def _crop(sample: Sample, crop: tuple[int, int, int, int], size: int) -> Sample:
    """Cut out (top, left, height, width) and scale it."""
    from torchvision.transforms.v2 import functional as F

    cut = _apply(sample, lambda value: F.resized_crop(value, *crop, size=[size, size], antialias=True))
    sides = cut.boxes[:, 2:] - cut.boxes[:, :2]
    kept = (sides >= 1).all(dim=1)
    return Sample(cut.image, cut.boxes[kept], cut.box_labels[kept], cut.mask)


def _draw_crop(size: torch.Size, generator: np.random.Generator) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a random part with the area and ratio limits above; all when none fits."""
    height, width = size
    for _ in range(_CROP_TRIES):
        area = generator.uniform(*_CROP_AREA) * height * width
        ratio = math.exp(generator.uniform(math.log(_CROP_RATIO[0]), math.log(_CROP_RATIO[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(generator.integers(height - h + 1)), int(generator.integers(width - w + 1)), h, w
    return 0, 0, height, width


def _apply(sample: Sample, transform: Callable[[Any], Any]) -> Sample:
    """Call a torchvision v2 kernel, which looks at the type of what it gets, on all parts of a sample."""
    from torchvision import tv_tensors

    canvas = (int(sample.image.shape[1]), int(sample.image.shape[2]))
    boxes = tv_tensors.BoundingBoxes(sample.boxes, format=tv_tensors.BoundingBoxFormat.XYXY, canvas_size=canvas)  # pyright: ignore[reportCallIssue]
    mask = None if sample.mask is None else transform(tv_tensors.Mask(sample.mask)).as_subclass(Tensor)
    return Sample(
        transform(tv_tensors.Image(sample.image)).as_subclass(Tensor),
        transform(boxes).as_subclass(Tensor),
        sample.box_labels,
        mask,
    )
