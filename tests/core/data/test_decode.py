from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from raytrain_xai.data.decode import MAX_PIXELS, decode_rgb, encode_mask, read_mask
from raytrain_xai.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (10, 14, 3), dtype=np.uint8)


def encode(image: Image.Image, image_format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=image_format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("image_format", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})])
def test_lossless_formats_come_back_exactly(image_format: str, options: dict) -> None:
    assert np.array_equal(decode_rgb(encode(Image.fromarray(PIXELS), image_format, **options)), PIXELS)


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    image_format = "JPEG" if mode == "CMYK" else "PNG"
    decoded = decode_rgb(encode(Image.fromarray(PIXELS).convert(mode), image_format))
    assert decoded.shape == (10, 14, 3)
    assert decoded.dtype == np.uint8


def test_grey_is_repeated() -> None:
    grey = PIXELS[..., 0]
    assert np.array_equal(decode_rgb(encode(Image.fromarray(grey), "PNG")), np.stack([grey] * 3, axis=2))


def test_exif_orientation_is_ignored() -> None:
    """Boxes and masks are given in the frame of the stored pixels."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    assert decode_rgb(encode(Image.fromarray(PIXELS), "JPEG", exif=exif)).shape == (10, 14, 3)


def bomb(width: int, height: int) -> bytes:
    """A PNG of 100 bytes whose header promises width x height pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 64)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    "size", [(8_000, 8_000), (12_000, 12_000), (60_000, 60_000)], ids=["ours", "warned", "refused"]
)
def test_bombs_are_refused_by_their_header(size: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=str(MAX_PIXELS)):
        decode_rgb(bomb(*size))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a readable"),
        (b"<html>not found</html>", "not a readable"),
        (encode(Image.fromarray(PIXELS), "GIF"), "not a readable"),
        (encode(Image.fromarray(PIXELS), "TIFF"), "not a readable"),
        (encode(Image.fromarray(PIXELS), "PNG")[:-60], "damaged PNG"),
        (encode(Image.fromarray(PIXELS), "JPEG")[:-100], "damaged JPEG"),
        (encode(Image.fromarray(np.full((4, 4), 40_000, dtype=np.uint16)), "PNG"), "8 bits"),
    ],
    ids=["empty", "html", "gif", "tiff", "short png", "short jpeg", "16 bit"],
)
def test_unusable_bytes_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        decode_rgb(data)


def test_masks_keep_their_indices() -> None:
    mask = np.array([[0, 1, 20], [255, 3, 0]], dtype=np.uint8)
    assert np.array_equal(read_mask(encode_mask(mask)), mask)
    palette = Image.fromarray(mask)
    palette.putpalette([7] * 768)
    assert np.array_equal(read_mask(encode(palette, "PNG")), mask)
    with pytest.raises(DataError, match="RGB pixels"):
        read_mask(encode(Image.fromarray(PIXELS), "PNG"))
