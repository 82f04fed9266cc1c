"""Pixels, boxes and masks of one sample, moved together by torchvision v2.

Images stay uint8 RGB here; floats, normalisation and 1 - x are made on the device by the network's encoder. torchvision
is imported inside the functions, because a broken installation must not break the rest of the package.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from raytrain_xai.data.views import View

if TYPE_CHECKING:
    from collections.abc import Callable

Augment = Literal["none", "flip", "shift", "crop"]
Policy = Literal["none", "randaugment", "trivialaugment"]
_AUGMENT = 2  # tag of this random stream
# Smallest crop used for Waterbirds in the distillation paper (e2KD, ECCV 2024): mild, because labels stay when an
# object is cut away. ImageNet recipes go down to .08.
_CROP_AREA = 0.7
_CROP_RATIO = (3 / 4, 4 / 3)
_ERASED_AREA, _ERASED_RATIO = (0.02, 0.33), (0.3, 3.3)  # Zhong et al., AAAI 2020, as in torchvision
_TRIES = 10
_SHIFT = 8  # a shift is at most this part of the side: 4 of 32 pixels, as customary on CIFAR


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


@dataclass(frozen=True)
class Augmentation:
    """How training images are changed; the fields are those of the data section of a configuration.

    Attributes:
        mode: none: scale only; flip: and mirror half of the images; shift: and move them by up to 1/8 of the side, with
            black filled in; crop: random-resized crop and mirror.
        crop_area: smallest share of an image that a crop keeps.
        policy: then, changes of colour and shape as torchvision draws them; boxes and masks do not follow.
        magnitude: of ``randaugment``, 0 to 30.
        erase: then, probability that a random rectangle becomes black.
    """

    mode: Augment = "none"
    crop_area: float = _CROP_AREA
    policy: Policy = "none"
    magnitude: int = 9
    erase: float = 0.0


def resize(sample: Sample, size: int) -> Sample:
    """Scale to ``size`` x ``size``, aspect ratio ignored as in the guidance paper.

    Images bilinear with antialiasing, masks nearest.
    """
    from torchvision.transforms.v2 import functional as F

    return _apply(sample, lambda value: F.resize(value, [size, size], antialias=True))


def centre(sample: Sample, size: int, shorter: int | None) -> Sample:
    """The view of a sample outside training.

    Args:
        size: side of the result, pixels.
        shorter: scale the shorter side to this and cut out the central square (boxes outside of it are gone); None
            squeezes the whole image, see :func:`resize`.
    """
    if shorter is None:
        return resize(sample, size)
    from torchvision.transforms.v2 import functional as F

    return _without_slivers(
        _apply(sample, lambda value: F.center_crop(F.resize(value, [shorter], antialias=True), [size, size]))
    )


def centre_image(image: Tensor, size: int, shorter: int | None) -> Tensor:
    """:func:`centre` of an image without annotation; (3, H, W) uint8 -> (3, size, size)."""
    no_boxes = torch.zeros(0, 4)
    return centre(Sample(image, no_boxes, no_boxes[:, 0].long(), None), size, shorter).image


def resize_images(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Scale images as :func:`resize` does: (..., 3, H, W) uint8 -> (..., 3, *size), whatever the ratio of the sides."""
    from torchvision.transforms.v2 import functional as F

    return F.resize(images, list(size), antialias=True)


def augment(sample: Sample, how: Augmentation, size: int, key: tuple[int, ...]) -> Sample:
    """Change at random, and scale to ``size`` x ``size``.

    Args:
        how: which changes.
        key: seed, epoch, index of the sample, and its repetition where an epoch repeats samples; all randomness comes
            from it, so that neither the worker nor the place in an epoch changes it.
    Returns:
        Sample of (3, size, size). Boxes cut away by more than all but one pixel of a side are gone.
    """
    generator = np.random.default_rng([*key, _AUGMENT])
    view = _draw_view(how, (sample.image.shape[1], sample.image.shape[2]), size, generator)
    if how.mode == "crop":
        sample = _crop(sample, (view.top, view.left, view.height, view.width), size)
    elif sample.image.shape[1:] != (size, size):
        sample = resize(sample, size)
    if how.mode == "shift":
        sample = _shift(sample, view.top, view.left)
    if view.is_mirrored:
        sample = mirror(sample)
    image = sample.image if how.policy == "none" else _by_policy(sample.image, how, generator)
    if how.erase > 0 and generator.random() < how.erase:
        image = _erased(image, generator)
    return sample if image is sample.image else Sample(image, sample.boxes, sample.box_labels, sample.mask)


def draw_view(how: Augmentation, canvas: tuple[int, int], size: int, key: tuple[int, ...]) -> View:
    """What :func:`augment` of the same arguments shows of an image; what changes its pixels besides is not in it.

    Args:
        canvas: height and width of the image that ``augment`` gets.
    """
    return _draw_view(how, canvas, size, np.random.default_rng([*key, _AUGMENT]))


def mirror(sample: Sample) -> Sample:
    """Left and right exchanged."""
    from torchvision.transforms.v2 import functional as F

    return _apply(sample, F.horizontal_flip)


def _draw_view(how: Augmentation, canvas: tuple[int, int], size: int, generator: np.random.Generator) -> View:
    """The first draws of an augmented image; those of colours and shapes follow from the same generator."""
    is_mirrored = bool(how.mode != "none" and generator.random() < 0.5)
    if how.mode == "shift":  # of the scaled image
        top, left = (int(value) for value in generator.integers(-(size // _SHIFT), size // _SHIFT + 1, size=2))
        return View(top, left, size, size, (size, size), is_mirrored)
    part = _draw_part(canvas, (how.crop_area, 1.0), _CROP_RATIO, generator) if how.mode == "crop" else None
    return View(*(part or (0, 0, *canvas)), canvas, is_mirrored)


def _crop(sample: Sample, crop: tuple[int, int, int, int], size: int) -> Sample:
    """Cut out (top, left, height, width) and scale it."""
    from torchvision.transforms.v2 import functional as F

    return _without_slivers(
        _apply(sample, lambda value: F.resized_crop(value, *crop, size=[size, size], antialias=True))
    )


def _shift(sample: Sample, top: int, left: int) -> Sample:
    """Move a square image up and to the left, black where nothing is left."""
    from torchvision.transforms.v2 import functional as F

    side = sample.image.shape[1]
    return _without_slivers(_apply(sample, lambda value: F.crop(value, top, left, side, side)))


def _by_policy(image: Tensor, how: Augmentation, generator: np.random.Generator) -> Tensor:
    """RandAugment (Cubuk et al., 2020; two operations) or TrivialAugment (Müller and Hutter, ICCV 2021; wide)."""
    from torchvision.transforms import InterpolationMode, v2

    bilinear = InterpolationMode.BILINEAR
    if how.policy == "randaugment":
        policy = v2.RandAugment(num_ops=2, magnitude=how.magnitude, interpolation=bilinear)
    else:
        policy = v2.TrivialAugmentWide(interpolation=bilinear)
    with _seeded(int(generator.integers(2**63))):
        return policy(image)


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    """torchvision draws from torch's global generator: give it a seed, and put its state back afterwards."""
    state = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)  # torch.manual_seed would reset the generators of GPUs too
    try:
        yield
    finally:
        torch.set_rng_state(state)


def _erased(image: Tensor, generator: np.random.Generator) -> Tensor:
    """With one rectangle black: (0, 0, 0, 1, 1, 1) for a B-cos network, as in its published training."""
    part = _draw_part((image.shape[1], image.shape[2]), _ERASED_AREA, _ERASED_RATIO, generator)
    if part is None:
        return image
    top, left, height, width = part
    image = image.clone()  # it may belong to the cache
    image[:, top : top + height, left : left + width] = 0
    return image


def _without_slivers(sample: Sample) -> Sample:
    """Without the boxes of which less than a pixel of a side is left."""
    kept = ((sample.boxes[:, 2:] - sample.boxes[:, :2]) >= 1).all(dim=1)
    return Sample(sample.image, sample.boxes[kept], sample.box_labels[kept], sample.mask)


def _draw_part(
    size: tuple[int, int], area: tuple[float, float], ratio: tuple[float, float], generator: np.random.Generator
) -> tuple[int, int, int, int] | None:
    """(top, left, height, width) of a random part with limits of its share and of width / height; None if none fits."""
    height, width = size
    for _ in range(_TRIES):
        pixels = generator.uniform(*area) * height * width
        shape = math.exp(generator.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
        if 0 < w <= width and 0 < h <= height:
            return int(generator.integers(height - h + 1)), int(generator.integers(width - w + 1)), h, w
    return None


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
