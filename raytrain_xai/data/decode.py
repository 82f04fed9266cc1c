"""Encoded bytes to pixels, for files that nobody vouches for.

One rule for all data sets: EXIF orientation is ignored, because boxes and masks are given in the frame of the
stored pixels (as torchvision and pycocotools read them). Only four formats are opened at all, and the size is
checked before any pixel is decoded, so that a small file cannot ask for a large image.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import Image

from raytrain_xai.errors import DataError

FORMATS = ("JPEG", "PNG", "WEBP", "BMP")
MAX_PIXELS = 50_000_000  # 150 MB as RGB; photographs of public data sets stay below 25 million


def decode_rgb(data: bytes) -> np.ndarray:
    """Decode an image.

    Returns:
        (H, W, 3) uint8 RGB; grey, palette and CMYK images are converted, transparency is dropped.
    Raises:
        DataError: not an image, another format than ``FORMATS``, truncated, more than ``MAX_PIXELS``, or more than
            8 bits per channel (converting those would clip them silently).
    """
    image = _open(data)
    if image.mode.startswith(("I", "F")):
        raise DataError(f"{image.mode} pixels have more than 8 bits per channel; convert the image to 8 bits")
    return np.asarray(_loaded(image).convert("RGB"))


def read_mask(data: bytes) -> np.ndarray:
    """Decode a class-index mask stored as palette or 8-bit grey PNG.

    Returns:
        (H, W) uint8, the stored indices (a palette's colours are not looked at).
    Raises:
        DataError: as :func:`decode_rgb`, or pixels that are not single indices.
    """
    image = _open(data)
    if image.mode not in ("P", "L"):
        raise DataError(f"mask has {image.mode} pixels, expected one class index per pixel (palette or grey PNG)")
    return np.asarray(_loaded(image))


def encode_mask(mask: np.ndarray) -> bytes:
    """(H, W) uint8 -> PNG bytes, lossless."""
    buffer = io.BytesIO()
    Image.fromarray(mask).save(buffer, format="PNG")
    return buffer.getvalue()


def _open(data: bytes) -> Image.Image:
    """Read the header only, and refuse by it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise DataError(f"more than {MAX_PIXELS} pixels") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's plugins raise all three on damaged headers
        raise DataError(f"not a readable {', '.join(FORMATS)} image") from error
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise DataError(f"{width} x {height} pixels, more than the limit of {MAX_PIXELS}")
    return image


def _loaded(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(f"damaged {image.format} image: {' '.join(str(error).split())}") from error
    return image
