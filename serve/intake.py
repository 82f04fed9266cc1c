"""Images of requests on their way to a network: fetched, named by their hash, decoded, and scaled."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import anyio.to_thread
from PIL import Image
from torch import Tensor

from raytrain_xai.errors import DataError
from raytrain_xai.serving.model_store import Served
from raytrain_xai.serving.pictures import open_picture, picture_of_array
from serve.inputs import Refused, Sent
from serve.problems import ProblemError
from serve.schemas import ImageInfo
from serve.security.fetch import Fetcher
from serve.service import Service

_FETCHED_TOGETHER = 4  # images of a request


@dataclass(frozen=True)
class Opened:
    """An image that can be shown to a model.

    Attributes:
        sha256: of what was sent; of nested lists: of their height, width and pixels.
        open: decodes it; blocks, and raises DataError.
    """

    sha256: str
    open: Callable[[], Image.Image]


@dataclass(frozen=True)
class Seen:
    """An image as a network sees it: (3, S, S) uint8, and where it came from."""

    image: Tensor
    info: ImageInfo


Usable = TypeVar("Usable", Opened, Seen)


class Intake:
    """Takes in images for the routes of one kind.

    Images that cannot be used stay in their places as errors; :func:`none_refused` raises the first.

    Args:
        service: for its limits, and where it lets images be fetched from.
    """

    def __init__(self, service: Service) -> None:
        limits = service.settings.limits
        self._max_pixels = limits.pixels
        self._fetch = Fetcher(service.settings.security.fetch, limits.body_bytes)
        self._decoding = service.decoding

    async def open(self, images: Sequence[Sent | Refused]) -> list[Opened | Refused]:
        """Fetch what was sent as an address, and hash everything; nothing is decoded."""
        fetching = asyncio.Semaphore(_FETCHED_TOGETHER)

        async def fetched(sent: Sent | Refused) -> Sent | Refused:
            if isinstance(sent, Refused) or sent.url is None:
                return sent
            try:
                async with fetching:
                    return Sent(data=await self._fetch(sent.url))
            except ProblemError as error:
                return error

        there = await asyncio.gather(*(fetched(sent) for sent in images))
        return await anyio.to_thread.run_sync(self._hashed, there, limiter=self._decoding)

    async def prepare(self, model: Served, images: Sequence[Opened | Refused]) -> list[Seen | Refused]:
        """Decode and scale, one after the other, so that no more than one is in memory at full size."""
        return await anyio.to_thread.run_sync(_prepared, model, images, limiter=self._decoding)

    def _hashed(self, images: Sequence[Sent | Refused]) -> list[Opened | Refused]:
        return [self._opened(sent) for sent in images]

    def _opened(self, sent: Sent | Refused) -> Opened | Refused:
        if isinstance(sent, Refused):
            return sent
        if sent.pixels is not None:
            try:
                picture = picture_of_array(sent.pixels, max_pixels=self._max_pixels)
            except DataError as error:
                return error
            size = f"{picture.height} {picture.width} ".encode()
            return Opened(hashlib.sha256(size + picture.tobytes()).hexdigest(), lambda: picture)
        assert sent.data is not None
        data = sent.data
        return Opened(hashlib.sha256(data).hexdigest(), lambda: open_picture(data, max_pixels=self._max_pixels))


def none_refused(images: Sequence[Usable | Refused]) -> list[Usable]:
    """All images, where none was refused.

    Raises:
        DataError, ProblemError: why the first was; the message counts from 1.
    """
    usable: list[Usable] = []
    for number, image in enumerate(images, start=1):
        place = f"image {number}: " if len(images) > 1 else ""
        if isinstance(image, DataError):
            raise DataError(f"{place}{image}") from image
        if isinstance(image, ProblemError):
            raise ProblemError(image.status, f"{place}{image.detail}", image.headers) from image
        usable.append(image)
    return usable


def _prepared(model: Served, images: Sequence[Opened | Refused]) -> list[Seen | Refused]:
    return [image if isinstance(image, Refused) else _seen(model, image) for image in images]


def _seen(model: Served, image: Opened) -> Seen | DataError:
    try:
        picture = image.open()
    except DataError as error:
        return error
    width, height = picture.size
    info = ImageInfo(sha256=image.sha256, width=width, height=height, seen=model.seen(width, height))
    return Seen(model.prepare(picture), info)
