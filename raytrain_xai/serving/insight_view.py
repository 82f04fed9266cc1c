"""The concepts of an encoder for people who look through them: names, parents and children, patches that show them.

What ``insight describe`` found is read when it is first asked for; pictures are read when they are shown. Neither the
encoder nor the dictionary is loaded.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor

from raytrain_xai.concept_runs.names import NameChange, rename
from raytrain_xai.concepts.relations import Relations
from raytrain_xai.concepts.sparse_sums import SparseSums, strongest_columns
from raytrain_xai.concepts.top_tokens import unpack_tokens
from raytrain_xai.config import parse_insight_config
from raytrain_xai.errors import ConfigError, DataError, NotFoundError
from raytrain_xai.insight.described import PICTURES, Described, is_described, read_described
from raytrain_xai.run_folder import read_config
from raytrain_xai.serving.concept_view import (
    UNRELATED,
    ConceptQuery,
    ConceptRow,
    ExampleRow,
    Relatives,
    by_name,
    fitting,
    named_by,
)
from raytrain_xai.serving.live_names import LiveNames
from raytrain_xai.serving.picture_column import PictureColumn
from raytrain_xai.storage import Location, open_file

LAYER = "patches"  # the one layer that concepts of an encoder are in
_LABELS = 5  # classes of masks told of a concept
_PARTNERS = 8
_SORTS = ("frequency", "name", "id")


class InsightView:
    """The concepts of an encoder; a :class:`~raytrain_xai.serving.concept_view.ConceptView`.

    Args:
        at: folder of the run.
    Raises:
        ConfigError: not a concept run of an encoder.
        CheckpointError, DataError: names or description are damaged or cannot be read.
    """

    def __init__(self, at: Location) -> None:
        config = parse_insight_config(read_config(at), source=at.child("config.yaml").uri)
        self.layer = LAYER
        self.per_position: int | None = None  # a threshold decides, so it varies
        self.num_concepts = config.sae.latents
        self.names = LiveNames(at)
        self._at = at
        self._known = _Known.of(read_described(at)) if is_described(at) else None

    @property
    def has_catalogue(self) -> bool:
        """Whether the run was described."""
        return self._known is not None

    @property
    def has_relations(self) -> bool:
        """Whether the run was described."""
        return self._known is not None

    @property
    def num_images(self) -> int:
        """Different images that examples show; 0 for a run that was not described."""
        return 0 if self._known is None else len(self._known.place)

    def find(self, query: ConceptQuery) -> list[int]:
        """See :meth:`~raytrain_xai.serving.concept_view.ConceptView.find`."""
        if query.class_name is not None:
            raise ConfigError("concepts of an encoder belong to no class; search by text, or leave class out")
        if query.sort not in (None, *_SORTS):
            raise ConfigError(f"concepts of an encoder are sorted by {', '.join(_SORTS)}, not by {query.sort}")
        known, names = self._known, self.names.book().names
        if known is None and (query.sort == "frequency" or query.parent is not None or query.roots):
            raise ConfigError("this run was not described: its concepts have no relations and sort by name or id only")
        found = fitting(names, self.num_concepts, query.text)
        if known is not None and query.parent is not None:
            self._check(query.parent)
            below = set(known.relations.children(query.parent))
            found = [k for k in found if k in below]
        if known is not None and query.roots:
            found = [k for k in found if known.is_root[k]]
        if query.sort == "name":
            return by_name(found, names)
        if known is None or query.sort == "id":
            return found
        frequency = known.relations.frequency[found].numpy()
        return np.array(found, dtype=np.int64)[np.argsort(-frequency, kind="stable")].tolist()

    def rows(self, concepts: Sequence[int]) -> list[ConceptRow]:
        """See :meth:`~raytrain_xai.serving.concept_view.ConceptView.rows`."""
        for concept in concepts:
            self._check(concept)
        book, known = self.names.book(), self._known
        return [
            ConceptRow(
                id=concept, name=self.name(concept), named_by=named_by(book, concept),
                labels={} if known is None else known.labels(concept), classes={},
                examples=0 if known is None else known.num_examples(concept),
                statistics={} if known is None else {"frequency": known.frequency(concept)},
            )
            for concept in concepts
        ]  # fmt: skip

    def name(self, concept: int) -> str:
        """Name of a concept, ``concept 12`` where it has none."""
        return self.names.get(concept, f"concept {concept}")

    def examples(self, concept: int) -> list[ExampleRow]:
        """See :meth:`~raytrain_xai.serving.concept_view.ConceptView.examples`."""
        self._check(concept)
        if self._known is None:
            return []
        values = self._known.values[concept, : self._known.num_examples(concept)].tolist()
        return [ExampleRow(value, None, (), None) for value in values]

    def partners(self, concept: int) -> list[tuple[int, float]]:
        """See :meth:`~raytrain_xai.serving.concept_view.ConceptView.partners`."""
        self._check(concept)
        return [] if self._known is None else self._known.partners(concept)

    def relatives(self, concept: int) -> Relatives:
        """See :meth:`~raytrain_xai.serving.concept_view.ConceptView.relatives`."""
        self._check(concept)
        return UNRELATED if self._known is None else self._known.relatives(concept)

    def history(self, concept: int) -> list[NameChange]:
        """What became of the given names of a concept, oldest first."""
        return [change for change in self.names.book().history if change.concept == concept]

    def photograph(self, concept: int, rank: int) -> bytes:
        """See :meth:`~raytrain_xai.serving.concept_view.ConceptView.photograph`."""
        known = self._example(concept, rank)
        return known.pictures.read(known.place[int(known.image[concept, rank])])

    def map(self, concept: int, rank: int) -> bytes:
        """The patch of an example where a concept is strongest: grey PNG of a pixel per patch, white there."""
        known = self._example(concept, rank)
        height, width = known.size
        cells = np.zeros(height * width, dtype=np.uint8)
        cells[int(known.position[concept, rank])] = 255
        buffer = io.BytesIO()
        Image.fromarray(cells.reshape(height, width)).save(buffer, format="PNG")
        return buffer.getvalue()

    def image(self, number: int) -> bytes:
        """See :meth:`~raytrain_xai.serving.concept_view.ConceptView.image`."""
        if self._known is None or not 0 <= number < self.num_images:
            raise NotFoundError(f"no example image {number}; this model has {self.num_images}")
        return self._known.pictures.read(number)

    def rename(self, concept: int, name: str) -> None:
        """See :meth:`~raytrain_xai.serving.concept_view.ConceptView.rename`."""
        self._check(concept)
        rename(self._at, {concept: name}, self.num_concepts)
        self.names.refresh()

    def _example(self, concept: int, rank: int) -> _Known:
        self._check(concept)
        own = 0 if self._known is None else self._known.num_examples(concept)
        if self._known is None or not 0 <= rank < own:
            raise NotFoundError(f"no example {rank} of concept {concept}; it has {own}")
        return self._known

    def _check(self, concept: int) -> None:
        if not 0 <= concept < self.num_concepts:
            raise NotFoundError(f"no concept {concept}; there are concepts 0 to {self.num_concepts - 1}")


@dataclass(frozen=True)
class _Known:
    """What stays in memory of a description. K concepts, n examples of each.

    Attributes:
        relations: parents and synonyms.
        is_root: (K,) bool, see :attr:`~raytrain_xai.serving.concept_view.ConceptQuery.roots`.
        label, label_share: (K, m) names of the classes of masks that hold most of a concept's activation, -1 for none.
        classes: their names; column c + 1 of a label is class c, 0 the background.
        partner, overlap: (K, p), -1 for none.
        values, image, position: (K, n), the strongest patch of each image; -1 for none.
        place: number of an image -> row of ``pictures``.
        size: (h, w).
    """

    relations: Relations
    is_root: Tensor
    label: Tensor
    label_share: Tensor
    classes: tuple[str, ...]
    partner: Tensor
    overlap: Tensor
    values: Tensor
    image: Tensor
    position: Tensor
    place: Mapping[int, int]
    size: tuple[int, int]
    pictures: PictureColumn

    @classmethod
    def of(cls, described: Described) -> Self:
        sums, relations, subject = described.sums, described.relations, described.subject
        values, tokens = unpack_tokens(sums.images)
        positions = subject.size[0] * subject.size[1]
        columns = len(described.classes) + 1
        of_class = SparseSums(sums.on_class.keys, sums.on_class.sums[:, 1].contiguous())
        label, mass = strongest_columns(of_class, subject.concepts, columns, _LABELS)
        row, _ = of_class.cells(columns)
        total = torch.zeros(subject.concepts, dtype=torch.float64).index_add_(0, row, of_class.sums)
        is_root = torch.zeros(subject.concepts, dtype=torch.bool)
        is_root[relations.parent] = True
        is_root[relations.child] = False
        return cls(
            relations, is_root, label, mass / total.clamp(min=1e-12)[:, None], described.classes,
            *_partners(described), values, torch.where(tokens < 0, -1, tokens // positions), tokens % positions,
            _places(described.at.child(PICTURES)), subject.size, PictureColumn(described.at.child(PICTURES), "jpeg"),
        )  # fmt: skip

    def num_examples(self, concept: int) -> int:
        """Images that show a concept, kept in the description."""
        return int((self.image[concept] >= 0).sum())

    def frequency(self, concept: int) -> float:
        """Share of the patches at which a concept is active."""
        return int(self.relations.frequency[concept]) / max(self.relations.positions, 1)

    def labels(self, concept: int) -> dict[str, float]:
        """Class of masks -> share of the activation on labelled patches, largest first."""
        pairs = zip(self.label[concept].tolist(), self.label_share[concept].tolist(), strict=True)
        return {"background" if k == 0 else self.classes[k - 1]: share for k, share in pairs if k >= 0}

    def partners(self, concept: int) -> list[tuple[int, float]]:
        """Concepts at the same patches, the largest overlap first."""
        pairs = zip(self.partner[concept].tolist(), self.overlap[concept].tolist(), strict=True)
        return [(k, share) for k, share in pairs if k >= 0]

    def relatives(self, concept: int) -> Relatives:
        """Parents, children and synonyms; those of the concept that stands for it."""
        relations = self.relations
        own = relations.same_as[concept]
        above, below = relations.child == own, relations.parent == own
        order = relations.weight[below].argsort(descending=True, stable=True)
        parents = dict(zip(relations.parent[above].tolist(), relations.weight[above].tolist(), strict=True))
        children = dict(
            zip(relations.child[below][order].tolist(), relations.weight[below][order].tolist(), strict=True)
        )
        counts = {k: int((relations.parent == relations.same_as[k]).sum()) for k in (*parents, *children)}
        return Relatives(parents, children, relations.synonyms(concept), counts)


def _places(pictures: Location) -> dict[int, int]:
    """Number of an image -> row of the table; the pictures themselves are not read."""
    with open_file(pictures) as source:
        try:
            rows = pq.read_table(source, columns=["row"])["row"]
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{pictures.uri} is damaged; delete its folder and describe the run again") from error
    return {row: place for place, row in enumerate(rows.to_pylist())}


def _partners(described: Described) -> tuple[Tensor, Tensor]:
    """(K, p) concepts at the same patches, and the share of the patches of either that are of both."""
    seen = described.sums.seen
    source, target, together, _ = seen.directed()
    either = seen.frequency[source] + seen.frequency[target] - together
    order = (source * seen.num_latents + target).argsort()
    table = SparseSums((source * seen.num_latents + target)[order], (together / either)[order])
    return strongest_columns(table, seen.num_latents, seen.num_latents, _PARTNERS)
