"""What a concept catalogue is on disk or ``s3://``: Parquet tables of plain columns, and one JSON file written last.

Layout: ``catalogue.json`` (what it is of, totals), ``concepts.parquet`` (statistics), ``examples.parquet`` (images that
show a concept, with their maps as PNG), ``coactivation.parquet``, ``images.parquet`` (each shown image once, small, as
JPEG), ``histograms.parquet`` (how strongly concepts are active, which drift is measured against; not in catalogues of
earlier releases); ``index.html`` with its folders is made from these. ``parts-<hash>`` is there only until all of it is
complete.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from safetensors.torch import load, save
from torch import Tensor

from raytrain_xai.concept_runs.catalogue_tables import HISTOGRAMS, SCHEMAS, rows_of
from raytrain_xai.concepts.catalogue import CatalogueState
from raytrain_xai.concepts.histograms import EXPONENTS, LOWEST
from raytrain_xai.concepts.sparse_sums import SparseSums
from raytrain_xai.errors import ConfigError, DataError, NotFoundError
from raytrain_xai.storage import Location, exists, open_file, read_bytes, write_bytes

FORMAT_VERSION = 1
INDEX = "catalogue.json"

_TOGETHER = pa.schema([("concept", pa.int32()), ("partner", pa.int32()), ("positions", pa.int64())])
_TOGETHER_ROWS = 1 << 16  # of a row group: the unit in which a range of concepts is read


@dataclass(frozen=True)
class Subject:
    """What a catalogue is of.

    Attributes:
        run: address of the concept run.
        layer: its tap.
        concepts: size of the dictionary (K).
        fingerprint: of the autoencoder and of the network it belongs to.
        data, split: the images.
        data_fingerprint: of the data set.
        num_images: in the split.
        examples: images kept per concept.
    """

    run: str
    layer: str
    concepts: int
    fingerprint: str
    data: str
    split: str
    data_fingerprint: str
    num_images: int
    examples: int

    @property
    def content(self) -> dict[str, Any]:
        """What decides the numbers, wherever run and data lie."""
        return {name: value for name, value in asdict(self).items() if name not in ("run", "data")}

    @property
    def parts(self) -> str:
        """Folder of the unfinished parts of this very catalogue."""
        return f"parts-{hashlib.sha256(json.dumps(self.content).encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class Catalogue:
    """A complete catalogue.

    Attributes:
        at: its folder.
        subject: what it is of.
        classes: names of labels and classes.
        totals: numbers over all concepts, see :func:`raytrain_xai.concepts.statistics.totals`.
    """

    at: Location
    subject: Subject
    classes: tuple[str, ...]
    totals: Mapping[str, float]

    def table(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One of ``SCHEMAS``, or some of its columns."""
        return read_table(self.at, name, SCHEMAS[name], columns)

    def has(self, name: str) -> bool:
        """Whether a table is there; only catalogues of earlier releases lack one."""
        return exists(self.at.child(f"{name}.parquet"))

    def histogram(self) -> SparseSums:
        """Images per concept and power of two of its activation; see :mod:`raytrain_xai.concepts.histograms`.

        Raises:
            NotFoundError: an earlier release made this catalogue, without them.
            DataError: the table is damaged.
        """
        if not self.has(HISTOGRAMS):
            raise NotFoundError(
                "the catalogue of the model has no histograms of activations, an earlier release made it; "
                "`raytrain-xai catalogue RUN` adds them"
            )
        table = self.table(HISTOGRAMS)
        concept, exponent, images = (torch.from_numpy(table[c].to_numpy().copy()).long() for c in table.column_names)
        return SparseSums.add(concept * EXPONENTS + exponent - LOWEST, images)


def read_catalogue(at: Location) -> Catalogue:
    """Open a complete catalogue.

    Raises:
        ConfigError: there is none.
        DataError: it is damaged or of another format version.
    """
    if not exists(at.child(INDEX)):
        raise ConfigError(f"{at.uri} holds no concept catalogue; make one with `raytrain-xai catalogue RUN`")
    try:
        raw = json.loads(read_bytes(at.child(INDEX)))
        version = raw["format_version"]
        if version == FORMAT_VERSION:
            return Catalogue(at, Subject(**raw["subject"]), tuple(raw["classes"]), raw["totals"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{at.child(INDEX).uri} is damaged; delete the folder and make the catalogue again") from error
    raise DataError(f"{at.uri} has catalogue format {version}, this release reads {FORMAT_VERSION}; make it again")


def write_index(catalogue: Catalogue) -> None:
    """Make a catalogue complete; its tables are there."""
    content = {
        "format_version": FORMAT_VERSION, "subject": asdict(catalogue.subject), "classes": list(catalogue.classes),
        "totals": dict(catalogue.totals),
    }  # fmt: skip
    write_bytes(catalogue.at.child(INDEX), json.dumps(content, indent=1).encode())


def write_table(at: Location, name: str, table: pa.Table, *, row_group: int | None = None) -> None:
    """Store a table as ``<name>.parquet``, whole or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", row_group_size=row_group, write_page_checksum=True)
    write_bytes(at.child(f"{name}.parquet"), sink.getvalue().to_pybytes())


def read_table(
    at: Location, name: str, schema: pa.Schema, columns: Sequence[str] | None = None, where: pc.Expression | None = None
) -> pa.Table:
    """Read what :func:`write_table` wrote, or some columns and rows of it.

    Raises:
        DataError: missing, damaged, or of other columns.
    """
    place = at.child(f"{name}.parquet")
    with open_file(place) as source:
        try:
            found = pq.read_schema(source)
            if not found.equals(schema):
                raise DataError(
                    f"{place.uri} has columns {found.names}, expected {schema.names}; make the catalogue again"
                )
            source.seek(0)
            chosen = None if columns is None else list(columns)
            return pq.read_table(source, columns=chosen, filters=where, page_checksum_verification=True)
        except (pa.ArrowException, OSError) as error:
            raise DataError(
                f"{place.uri} is damaged: {' '.join(str(error).split())}; delete {at.uri} and make it again"
            ) from error


def write_state(at: Location, name: str, state: CatalogueState) -> None:
    """Store a part: all but the pairs in one file; the pairs, in both directions and by concept, in another."""
    tensors = state.to_tensors()
    low, high = state.together.cells(state.num_concepts)
    concept, partner = torch.cat([low, high]), torch.cat([high, low])
    order = (concept * state.num_concepts + partner).argsort()
    both = {"concept": concept[order], "partner": partner[order], "positions": state.together.sums.repeat(2)[order]}
    write_table(at, f"{name}-together", rows_of(both, _TOGETHER), row_group=_TOGETHER_ROWS)
    for field in ("together.keys", "together.sums"):
        tensors[field] = tensors[field][:0].clone()
    write_bytes(at.child(f"{name}.safetensors"), save(tensors))


def read_state(at: Location, name: str) -> CatalogueState:
    """A part without its pairs; see :func:`read_together`.

    Raises:
        DataError: missing or damaged.
    """
    place = at.child(f"{name}.safetensors")
    try:
        return CatalogueState.from_tensors(load(read_bytes(place)))
    except (ValueError, KeyError, OSError) as error:
        raise DataError(f"{place.uri} is damaged; delete {at.uri} and make the catalogue again") from error


def read_together(at: Location, names: Sequence[str], first: int, last: int, num_concepts: int) -> Tensor:
    """Positions that concepts ``first`` to ``last`` (not included) share with every other, over all parts.

    Returns:
        (last - first, K) int64.
    """
    counts = torch.zeros((last - first) * num_concepts, dtype=torch.int64)
    where = (pc.field("concept") >= first) & (pc.field("concept") < last)
    for name in names:
        table = read_table(at, f"{name}-together", _TOGETHER, where=where)
        concept, partner, positions = (torch.from_numpy(table[c].to_numpy().copy()) for c in table.column_names)
        counts.index_add_(0, (concept.long() - first) * num_concepts + partner, positions)
    return counts.view(last - first, num_concepts)
