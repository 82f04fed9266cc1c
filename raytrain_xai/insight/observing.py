"""Concepts of an encoder and the images they are looked at in, in one process: what a worker of a description does."""

from __future__ import annotations

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from raytrain_xai.concepts.code import SparseCode, stack_codes
from raytrain_xai.concepts.merging import merge_parts
from raytrain_xai.errors import CheckpointError
from raytrain_xai.insight.absorption import Absorption, ClassConcepts, absorption
from raytrain_xai.insight.described import PICTURE_SCHEMA
from raytrain_xai.insight.description import Description, describe_images, patch_labels
from raytrain_xai.insight.image_rows import ImageRows
from raytrain_xai.insight.model import InsightModel
from raytrain_xai.storage import Location, write_bytes
from raytrain_xai.types import Batch

BATCH = 32  # images of one forward pass
PICTURE_PX = 96  # side of a stored picture
_QUALITY = 72


class InsightSource:
    """A model and images.

    Args:
        model: of the concepts.
        images: all of one size.
        size: (h, w), positions of an image.
    """

    def __init__(self, model: InsightModel, images: ImageRows, size: tuple[int, int]) -> None:
        self._model = model
        self._images = images
        self._size = size
        self._positions = size[0] * size[1]

    def describe(self, start: int, stop: int) -> Description:
        """The sums over rows ``start`` to ``stop`` of the images, not empty; on the CPU.

        Raises:
            DataError: an image is damaged.
            CheckpointError: codes are not finite.
        """
        groups = torch.arange(start, stop).split(BATCH)
        total = merge_parts(part for rows in groups for part in self._describe(rows.tolist()))
        return Description.from_tensors(total.to_tensors())

    def codes(self, tokens: Sequence[int]) -> SparseCode:
        """Codes (n, k) of tokens in ascending order, on the CPU."""
        wanted = torch.tensor(tokens, dtype=torch.int64)
        image = wanted // self._positions
        parts: list[SparseCode] = []
        for group in torch.unique(image).split(BATCH):
            for rows, batch in self._images.read(group.tolist()):
                code = self._encode(batch.images)
                listed = torch.tensor(rows)
                own = (image >= listed[0]) & (image <= listed[-1])
                place = torch.searchsorted(listed, image[own]) * self._positions + wanted[own] % self._positions
                flat = SparseCode(code.values.flatten(0, 1), code.indices.flatten(0, 1), code.num_latents)
                chosen = flat.rows(place.to(code.values.device))
                parts.append(SparseCode(chosen.values.cpu(), chosen.indices.cpu(), code.num_latents))
        nothing = SparseCode(torch.zeros(0, 1), torch.zeros(0, 1, dtype=torch.int64), self._model.sae.num_latents)
        return stack_codes(parts) if parts else nothing

    def absorption(self, rows: Sequence[int], concepts: ClassConcepts) -> Absorption:
        """Evidence for the classes of masks in some images, ascending rows, one or more."""
        parts = (
            absorption(self._encode(batch.images), self._labels(own, batch).to(concepts.main.device), concepts)
            for first in range(0, len(rows), BATCH)
            for own, batch in self._images.read(rows[first : first + BATCH])
        )
        return merge_parts(parts)

    def pictures(self, rows: Sequence[int]) -> pa.Table:
        """Rows of ``pictures.parquet`` of some images, ascending."""
        found = [
            (row, image)
            for first in range(0, len(rows), BATCH)
            for own, batch in self._images.read(rows[first : first + BATCH])
            for row, image in zip(own, batch.images, strict=True)
        ]
        origins = [self._images.origin(row) for row, _ in found]
        columns = {
            "row": [row for row, _ in found],
            "data": [origin.data for origin in origins],
            "id": [origin.id for origin in origins],
            "jpeg": [_small(image) for _, image in found],
        }
        return pa.table(columns, schema=PICTURE_SCHEMA)

    def _describe(self, rows: Sequence[int]) -> list[Description]:
        """Of some rows, one part for each data set among them."""
        classes = len(self._images.classes)
        parts: list[Description] = []
        for own, batch in self._images.read(rows):
            code = self._encode(batch.images)
            labels = self._labels(own, batch).to(code.values.device)
            parts.append(describe_images(code, own[0] * self._positions, labels, classes))
        return parts

    def _labels(self, rows: Sequence[int], batch: Batch) -> Tensor:
        return patch_labels(self._images.masks(rows[0], batch), batch.has_mask, self._size)

    def _encode(self, images: Tensor) -> SparseCode:
        code, size = self._model.codes(images)
        assert size == self._size, f"an encoder of multiple {self._model.encoder.multiple} answers with {size} patches"
        if not bool(code.values.isfinite().all()):
            raise CheckpointError(
                f"{self._model.origin} answers with codes that are not finite; its weights are broken"
            )
        return code


def write_table(at: Location, table: pa.Table, *, row_group: int | None = None) -> None:
    """Store a table as Parquet, whole or not at all."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=row_group, write_page_checksum=True)
    write_bytes(at, buffer.getvalue())


def _small(image: Tensor) -> bytes:
    picture = Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy()).resize((PICTURE_PX, PICTURE_PX))
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=_QUALITY, optimize=True)
    return buffer.getvalue()
