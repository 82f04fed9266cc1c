"""An index of images by concept: which images show a concept, where, and how much it says about the whole image.

Two Parquet tables. ``postings`` has a row for every concept that is active in an image, ordered by concept and falling
value, so that a question about a concept reads its row groups alone. ``images`` has a row for every image. Codes are
sparse, and so is the index: an image has as many rows as concepts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from raytrain_xai.errors import CheckpointError, ConfigError, DataError
from raytrain_xai.insight.contributions import pool_code, strongest_code
from raytrain_xai.insight.image_rows import ImageRows
from raytrain_xai.insight.model import InsightModel
from raytrain_xai.insight.views import see_concepts
from raytrain_xai.storage import Location, exists, open_file, read_bytes, write_bytes

ABOUT, POSTINGS, IMAGES = "about.json", "postings.parquet", "images.parquet"
FORMAT_VERSION = 1
BATCH = 16  # images of one forward pass
_GROUP = 65_536  # rows that are read together
_POSTINGS = pa.schema([
    ("concept", pa.int32()),
    ("image", pa.int32()),
    ("peak", pa.float32()),
    ("patch", pa.int32()),
    ("share", pa.float32()),
])  # fmt: skip
_IMAGES = pa.schema([("data", pa.dictionary(pa.int32(), pa.string())), ("id", pa.string()), ("bias", pa.float32())])


@dataclass(frozen=True)
class About:
    """What an index is of.

    Attributes:
        fingerprint: of the model.
        run: its address.
        split: of all data sets.
        images, concepts: how many; concepts as in the dictionary.
        grid: (h, w), patches of an image.
    """

    fingerprint: str
    run: str
    split: str
    images: int
    concepts: int
    grid: tuple[int, int]


@torch.no_grad()
def build_index(
    model: InsightModel, images: ImageRows, split: str, at: Location, done: Callable[[int], None] = lambda _: None
) -> About:
    """Look for the concepts in images, and write the index; the postings of all images are in memory meanwhile.

    Args:
        model: encoder and concepts.
        images: of the side that the model was trained on.
        split: of ``images``, kept for the reader.
        at: folder, local or s3://; an older index there is replaced.
        done: told the number of images after each batch.
    Raises:
        DataError: an image is damaged, or the folder cannot be written.
    """
    parts: list[pa.Table] = []
    bias = np.zeros(len(images), dtype=np.float32)
    grid = (0, 0)
    for start in range(0, len(images), BATCH):
        for rows, batch in images.read(range(start, min(start + BATCH, len(images)))):
            found, bias[rows], grid = _postings(model, rows, batch.images)
            parts.append(found)
            done(len(rows))
    origins = [images.origin(row) for row in range(len(images))]
    table = pa.concat_tables(parts).sort_by([("concept", "ascending"), ("peak", "descending"), ("image", "ascending")])
    listed = pa.table(
        {"data": [origin.data for origin in origins], "id": [origin.id for origin in origins], "bias": bias},
        schema=pa.schema([("data", pa.string()), *list(_IMAGES)[1:]]),
    ).cast(_IMAGES)
    about = About(model.fingerprint, model.origin, split, len(images), model.sae.num_latents, grid)
    write_bytes(at.child(POSTINGS), _encoded(table))
    write_bytes(at.child(IMAGES), _encoded(listed))
    write_bytes(at.child(ABOUT), (json.dumps({"format_version": FORMAT_VERSION, **asdict(about)}) + "\n").encode())
    return about


class ImageIndex:
    """An index, opened; the table of images is in memory, postings are read when they are asked for.

    Args:
        at: folder of :func:`build_index`.
    Raises:
        ConfigError: no index there.
        DataError: it is damaged, or of another format.
    """

    def __init__(self, at: Location) -> None:
        if not exists(at.child(ABOUT)):
            raise ConfigError(f"{at.uri} holds no index of images; write one with: raytrain-xai insight index RUN")
        self._at = at
        try:
            record = json.loads(read_bytes(at.child(ABOUT)))
            version = record.pop("format_version")
            height, width = record.pop("grid")
            self.about = About(grid=(height, width), **record)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{at.child(ABOUT).uri} is damaged: {error}; write the index again") from error
        if version != FORMAT_VERSION:
            raise DataError(f"{at.uri} has format {version}, this release reads {FORMAT_VERSION}; write it again")
        self.images = self._read(IMAGES, _IMAGES)

    def check(self, model: InsightModel) -> None:
        """Make sure that the index was written by a model.

        Raises:
            CheckpointError: by another one.
        """
        if self.about.fingerprint != model.fingerprint:
            raise CheckpointError(
                f"the index {self._at.uri} was written by the concepts of {self.about.run}, not those of "
                f"{model.origin}; write it again: raytrain-xai insight index {model.origin}"
            )

    def postings(self, *, concepts: list[int] | None = None, images: list[int] | None = None) -> pa.Table:
        """Rows of some concepts or images, in the order of the index; None: all.

        Raises:
            DataError: the file is damaged.
        """
        chosen = [(name, "in", values) for name, values in (("concept", concepts), ("image", images)) if values]
        return self._read(POSTINGS, _POSTINGS, chosen or None)

    def _read(self, name: str, schema: pa.Schema, filters: list[tuple[str, str, list[int]]] | None = None) -> pa.Table:
        at = self._at.child(name)
        with open_file(at) as file:
            try:
                found = pq.read_table(file, filters=filters, page_checksum_verification=True)
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{at.uri} is damaged: {' '.join(str(error).split())}; write it again") from error
        if found.column_names != schema.names:
            raise DataError(f"{at.uri} has columns {found.column_names}, expected {schema.names}; write it again")
        return found


def _postings(
    model: InsightModel, rows: list[int], images: torch.Tensor
) -> tuple[pa.Table, np.ndarray, tuple[int, int]]:
    """Active concepts of some images, the mean of 1 / ‖x‖ over the patches of each, and the grid."""
    view = see_concepts(model)(images.to(model.encoder.device))
    assert view.code is not None  # of see_concepts
    weights = view.inverse_length / view.vectors.shape[1]
    peak, patch = strongest_code(view.code)
    image, concept = (peak > 0).nonzero().unbind(dim=1)
    share = pool_code(view.code, weights)[image, concept]
    columns = (concept, torch.tensor(rows, device=image.device)[image], peak[image, concept], patch[image, concept])
    arrays = [column.cpu().numpy() for column in (*columns, share)]
    table = pa.table(dict(zip(_POSTINGS.names, arrays, strict=True))).cast(_POSTINGS)
    return table, weights.sum(dim=1).cpu().numpy(), view.size


def _encoded(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, row_group_size=_GROUP, compression="zstd", write_page_checksum=True)
    return sink.getvalue().to_pybytes()
