"""How answers and explanations change when an image moves by some pixels.

Convolutions move with their input (up to their stride and the border), the patches and position codes of a transformer
do not; a student that explains as a convolutional teacher can inherit the habit (Parchami-Araghi et al., ECCV 2024,
arXiv 2402.03119). Both windows are cut from a larger image, so that real pixels come in where others leave, and what
both windows show is compared; the range of shifts is ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from raytrain_xai.attribution.tapped import tapped_pass
from raytrain_xai.distill.explanation import TAPS, ExplanationKind, explanation
from raytrain_xai.distill.losses import explanation_loss, kd_loss
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.models.network import Network, evaluation_mode
from raytrain_xai.types import Batch

SHIFTS = (1, 2, 4, 8, 12, 16, 24, 32)  # pixels; 16 and 32 are whole patches of the transformers of the zoo
_LARGEST = 8  # a shift is at most this part of the side, so that most of the image is in both windows


@dataclass(frozen=True)
class ShiftPoint:
    """What a shift changes, over a split.

    Attributes:
        pixels: length of the shift along both sides.
        agreement: share of images with the same first class as before.
        divergence: mean KL of the answer from the answer before, in nats, >= 0.
        similarity: mean cosine of the explanation, moved back, with the explanation before, in [-1, 1], over the images
            where neither is empty; None where there is none. Both explain the first class before the shift.
        empty: share of the other images.
    """

    pixels: int
    agreement: float
    divergence: float
    similarity: float | None
    empty: float


def shifts_for(image_size: int) -> tuple[int, ...]:
    """The shifts that are measured on images of a size, ascending: up to an eighth of the side.

    Raises:
        ConfigError: the images have less than 8 pixels on a side.
    """
    shifts = tuple(pixels for pixels in SHIFTS if pixels * _LARGEST <= image_size)
    if not shifts:
        raise ConfigError(f"images of {image_size} pixels are too small to be moved by a part of their side")
    return shifts


@torch.no_grad()
def study_shifts(
    network: Network, batches: Iterable[Batch], shifts: Sequence[int], *, kind: ExplanationKind, device: torch.device
) -> list[ShiftPoint]:
    """Move every image by each of ``shifts`` along both sides; the network is on ``device`` already.

    The network is in evaluation mode meanwhile.

    Args:
        batches: images (B, 3, S + d, S + d) for windows of S, where d is the largest shift.
        shifts: pixels, >= 0.
        kind: of the explanation; maps coarser than the window are enlarged to it bilinearly.
    Returns:
        One point per shift, in the given order.
    Raises:
        ConfigError: the network has no explanation of this kind.
        DataError: ``batches`` is empty.
    """
    sums, count = torch.zeros(len(shifts), 4, dtype=torch.float64, device=device), 0
    with evaluation_mode(network):
        for batch in batches:
            images = batch.images.to(device)
            size, count = images.shape[2] - max(shifts), count + images.shape[0]
            logits, maps, target = _answer(network, images[..., :size, :size], kind)
            for row, pixels in enumerate(shifts):
                window = images[..., pixels : pixels + size, pixels : pixels + size]
                moved_logits, moved_maps, _ = _answer(network, window, kind, target)
                both = maps[..., pixels:, pixels:], moved_maps[..., : size - pixels, : size - pixels]
                sums[row] += _sums(logits, moved_logits, *both)
    if not count:
        raise DataError("nothing to move: the split has no samples; look at it with `raytrain-xai data info`")
    return [_point(pixels, count, row) for pixels, row in zip(shifts, sums.tolist(), strict=True)]


def _answer(
    network: Network, images: Tensor, kind: ExplanationKind, target: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (B, C), maps (B, D, S, S) and the explained classes (B,): ``target``, or the largest logits."""
    tapped = tapped_pass(network, images, TAPS[kind])
    target = tapped.logits.argmax(dim=1) if target is None else target
    maps = explanation(network, tapped, target, kind=kind)
    if maps.shape[2:] != images.shape[2:]:
        maps = F.interpolate(maps, size=images.shape[2:], mode="bilinear")
    return tapped.logits, maps, target


def _sums(before: Tensor, after: Tensor, maps: Tensor, moved_maps: Tensor) -> Tensor:
    """(4,) float64 over a batch: equal first classes, divergences, maps that are not empty, their cosines."""
    distance, is_empty = explanation_loss(moved_maps.double(), maps.double())
    per_image = [
        before.argmax(dim=1) == after.argmax(dim=1),
        kd_loss(after, before, 1.0),
        ~is_empty,
        torch.where(is_empty, 0.0, 1 - distance),
    ]
    return torch.stack([values.to(torch.float64).sum() for values in per_image])


def _point(pixels: int, count: int, sums: Sequence[float]) -> ShiftPoint:
    agreed, divergence, maps, similarity = sums
    return ShiftPoint(
        pixels=pixels,
        agreement=agreed / count,
        divergence=divergence / count,
        similarity=similarity / maps if maps else None,
        empty=1 - maps / count,
    )
