"""Pictures of a folder or bucket, for answers that nobody waits for: found, read, checked and resized one by one.

A picture that cannot be used is a row that says why; it never ends a job.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from raytrain_xai.data.decode import MAX_PIXELS
from raytrain_xai.data.transforms import centre_image
from raytrain_xai.errors import DataError
from raytrain_xai.serving.pictures import open_picture
from raytrain_xai.storage import Location, list_tree, read_bytes
from raytrain_xai.storage.bucket import walk

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
MAX_BYTES = 4 * MAX_PIXELS + 1_000_000  # of a file: the largest picture that may be decoded, not even compressed
PICTURES = pa.schema(
    [
        ("path", pa.string()),  # relative to the source, with /
        ("error", pa.string()),  # why it has no answer; null for a usable picture
        ("sha256", pa.string()),  # of the file; null when it could not be read
        ("width", pa.int32()),  # pixels after EXIF rotation
        ("height", pa.int32()),
        ("pixels", pa.binary()),  # (3, S, S) uint8 as the network sees it
    ]
)
_READERS = 4  # pictures in memory at once; Pillow decodes outside the interpreter lock


@dataclass(frozen=True)
class View:
    """How a network looks at pictures.

    Attributes:
        image_size: side of its square input, pixels.
        shorter: side to which the shorter one is scaled before the square is cut out; None: squeezed to it.
    """

    image_size: int
    shorter: int | None

    @property
    def nbytes(self) -> int:
        """Of a picture as the network sees it."""
        return 3 * self.image_size**2


def find_pictures(source: Location) -> dict[str, int]:
    """Files below a folder with the suffix of a picture: name relative to it -> bytes, sorted by name.

    A bucket is listed by page: other objects, and what a listing says of pictures besides, are never all in memory.

    Raises:
        DataError: there is no such folder, or no picture in it.
        ConfigError: it is on S3, and boto3 is not installed.
    """
    files = list_tree(source).items() if source.is_local else walk(source)
    found = {name: size for name, size in files if name.lower().endswith(SUFFIXES)}
    if not found:
        raise DataError(f"{source.uri} holds no files ending in {', '.join(SUFFIXES)}; give the folder of the pictures")
    return found


def read_pictures(source: Location, sizes: Mapping[str, int], view: View) -> pa.Table:
    """Read some of the files that :func:`find_pictures` found.

    Returns:
        Table of ``PICTURES``, a row per file in their order.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        rows = list(pool.map(lambda name: _row(source, name, sizes[name], view), sizes))
    return pa.Table.from_pylist(rows, schema=PICTURES)


def stack_pictures(pictures: pa.Table, view: View) -> torch.Tensor:
    """Usable rows of ``PICTURES`` as (B, 3, S, S) uint8."""
    side = view.image_size
    pixels: Sequence[bytes] = pictures["pixels"].drop_null().to_pylist()
    whole = np.frombuffer(bytearray(b"".join(pixels)), dtype=np.uint8)  # writable, as torch wants it
    return torch.from_numpy(whole).view(-1, 3, side, side)


def _row(source: Location, name: str, size: int, view: View) -> dict[str, Any]:
    row: dict[str, Any] = {"path": name}
    try:
        if size > MAX_BYTES:
            raise DataError(f"{size} bytes, more than the limit of {MAX_BYTES}")
        data = read_bytes(source.child(*name.split("/")))
        row["sha256"] = hashlib.sha256(data).hexdigest()
        picture = open_picture(data, max_pixels=MAX_PIXELS)
    except DataError as error:
        return {**row, "error": str(error)}
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
    seen = centre_image(pixels, view.image_size, view.shorter)
    return {**row, "width": picture.width, "height": picture.height, "pixels": seen.numpy().tobytes()}
