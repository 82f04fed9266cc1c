"""Searched images of a served run: which of them show a concept or what a text says, and small pictures of them."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.errors import NotFoundError
from raytrain_xai.insight.described import description_of
from raytrain_xai.insight.image_index import ABOUT, ImageIndex
from raytrain_xai.insight.search import Hit, search_concept, search_text
from raytrain_xai.serving.pictures import open_picture
from raytrain_xai.serving.served_insight import ServedInsight
from raytrain_xai.storage import Location, exists

SPLITS = ("val", "test", "train")  # of which the first that was indexed is searched where none is named
PICTURE_PX = 224  # longer side of a picture
_MAX_PIXELS = 25_000_000
_QUALITY = 80


@dataclass(frozen=True)
class FoundImage:
    """An image of an index.

    Attributes:
        number: row in the index.
        hit: see there.
    """

    number: int
    hit: Hit


class ImageSearch:
    """An index of images in the folder of a run; safe for threads.

    Args:
        run: folder of the run.
        split: whose index, at ``insight/index-SPLIT``; None: the first of ``SPLITS`` that has one.
    Raises:
        NotFoundError: no such index.
        DataError: it is damaged.
    """

    def __init__(self, run: Location, split: str | None = None) -> None:
        folder = description_of(run)
        there = [one for one in SPLITS if exists(folder.child(f"index-{one}", ABOUT))]
        if not there or split not in (None, *there):
            known = f"there are those of {', '.join(there)}" if there else "there is none of any split"
            raise NotFoundError(
                f"no index of images{'' if split is None else f' of split {split}'}; {known}; make one with "
                "`raytrain-xai insight index RUN`"
            )
        self.split = split or there[0]
        self._index = ImageIndex(folder.child(f"index-{self.split}"))
        origins = zip(self._index.images["data"].to_pylist(), self._index.images["id"].to_pylist(), strict=True)
        self._numbers: Mapping[tuple[str, str], int] = {origin: number for number, origin in enumerate(origins)}
        self._reading = threading.Lock()  # of the two below
        self._opened: dict[str, StoredSplit] = {}

    def __len__(self) -> int:
        """Images in the index."""
        return self._index.about.images

    def by_concept(self, served: ServedInsight, concepts: Sequence[int], count: int) -> list[FoundImage]:
        """Images that show one of some concepts most strongly; see :func:`~raytrain_xai.insight.search.search_concept`.

        Raises:
            NotFoundError: no such concept, or the index is of another checkpoint or encoder.
        """
        self._check(served)
        return self._numbered(search_concept(self._index, list(concepts), count))

    def by_text(self, served: ServedInsight, text: Tensor, count: int, *, top: int) -> list[FoundImage]:
        """Images that are like a text (D,); see :func:`~raytrain_xai.insight.search.search_text`.

        Raises:
            NotFoundError: the index is of another checkpoint or encoder.
        """
        self._check(served)
        return self._numbered(search_text(self._index, served.model, text, count, top=top))

    def picture(self, number: int) -> bytes:
        """JPEG of an image, ``PICTURE_PX`` pixels at most.

        Raises:
            NotFoundError: no such image.
            DataError: its data set cannot be read, or not any more.
        """
        if not 0 <= number < len(self):
            raise NotFoundError(f"no image {number}; the index has {len(self)}")
        data, name = (self._index.images[column][number].as_py() for column in ("data", "id"))
        with self._reading:
            if data not in self._opened:
                self._opened[data] = StoredSplit(data, self.split)
            stored = self._opened[data]
            encoded, _ = stored.encoded(int(stored.find([name])[0]))
        picture = open_picture(encoded, max_pixels=_MAX_PIXELS)
        picture.thumbnail((PICTURE_PX, PICTURE_PX), Image.Resampling.BILINEAR)
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=_QUALITY)
        return buffer.getvalue()

    def _check(self, served: ServedInsight) -> None:
        if self._index.about.fingerprint != served.model.fingerprint:
            raise NotFoundError(
                f"the index of split {self.split} was made with other concepts than those of {served.key.name}; make "
                "it again with `raytrain-xai insight index RUN`"
            )

    def _numbered(self, hits: Sequence[Hit]) -> list[FoundImage]:
        return [FoundImage(self._numbers[hit.data, hit.id], hit) for hit in hits]
