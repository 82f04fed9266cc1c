"""Which parts of images an encoder sees at a time, and which pixels the answers are about."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from raytrain_xai.errors import ConfigError


@dataclass(frozen=True)
class Sliding:
    """Square windows that move over an image; defaults as published (Insight / CFM, 2026).

    Attributes:
        size_px: side; a smaller image is seen as it is.
        stride_px: step, at most the side, so that every pixel is seen.
    """

    size_px: int = 448
    stride_px: int = 224

    def __post_init__(self) -> None:
        if not 1 <= self.stride_px <= self.size_px:
            raise ConfigError(f"windows of {self.size_px} px need a stride of 1 to that, got {self.stride_px}")


@dataclass(frozen=True)
class Area:
    """A part of an image, pixels: rows ``top`` to ``top + height``, columns ``left`` to ``left + width``."""

    top: int
    left: int
    height: int
    width: int

    def of(self, pixels: Tensor) -> Tensor:
        """That part of (..., H, W)."""
        return pixels[..., self.top : self.top + self.height, self.left : self.left + self.width]


def areas_of(height: int, width: int, sliding: Sliding | None) -> list[Area]:
    """Windows row by row; the last of a row or column ends with the image. None: the whole image is one."""
    if sliding is None:
        return [Area(0, 0, height, width)]
    side = sliding.size_px
    return [
        Area(top, left, min(side, height), min(side, width))
        for top in _starts(height, sliding)
        for left in _starts(width, sliding)
    ]


def reach(seen: Sequence[int], grid: Sequence[int], multiple: int, area: Sequence[int]) -> tuple[int, int]:
    """Pixels of an area that a grid of patches spans, with what an encoder filled in on the right and below.

    Args:
        seen: sides of the image that the encoder got.
        grid: (h, w).
        multiple: side of a patch in what the encoder got.
        area: sides of the area that the image shows.
    """
    height, width = (max(a, round(a * n * multiple / s)) for s, n, a in zip(seen, grid, area, strict=True))
    return height, width


def _starts(length: int, sliding: Sliding) -> list[int]:
    last = max(0, length - sliding.size_px)
    return sorted({*range(0, last, sliding.stride_px), last})
