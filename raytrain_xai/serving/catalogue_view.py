"""The concepts of a run for people who look through them: search, statistics, examples, partners, names.

Columns of numbers are read once and stay in memory; pictures and maps are read when they are shown. Neither the network
nor the dictionary is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from raytrain_xai.concept_runs.catalogue_files import INDEX, read_catalogue
from raytrain_xai.concept_runs.names import NameChange, rename
from raytrain_xai.config import parse_concept_config
from raytrain_xai.errors import ConfigError, NotFoundError
from raytrain_xai.run_folder import open_run, read_config
from raytrain_xai.serving.catalogue_columns import STATISTICS, CatalogueColumns
from raytrain_xai.serving.concept_view import (
    UNRELATED,
    ConceptQuery,
    ConceptRow,
    ConceptView,
    ExampleRow,
    Relatives,
    by_name,
    fitting,
    named_by,
)
from raytrain_xai.serving.insight_view import InsightView
from raytrain_xai.serving.live_names import LiveNames
from raytrain_xai.storage import Location, exists


class CatalogueView:
    """The concepts of a layer of a network; a :class:`~raytrain_xai.serving.concept_view.ConceptView`.

    Args:
        at: folder of the run.
    Raises:
        ConfigError: not a concept run of a network.
        CheckpointError, DataError: names or catalogue are damaged or cannot be read.
    """

    def __init__(self, at: Location) -> None:
        config = parse_concept_config(read_config(at), source=at.child("config.yaml").uri)
        self.layer = config.layer
        self.num_concepts = config.sae.latents
        self.per_position = config.sae.k if config.sae.kind == "topk" else None
        self.names = LiveNames(at)
        self._at = at
        folder = at.child("catalogue")
        self._columns = CatalogueColumns(read_catalogue(folder)) if exists(folder.child(INDEX)) else None

    @property
    def has_catalogue(self) -> bool:
        """Whether there are statistics and example images."""
        return self._columns is not None

    @property
    def has_relations(self) -> bool:
        """Never: contributions to classes order these concepts."""
        return False

    @property
    def num_images(self) -> int:
        """Different images that examples show; 0 without a catalogue."""
        return 0 if self._columns is None else self._columns.images.num_rows

    def find(self, query: ConceptQuery) -> list[int]:
        """All concepts that fit, in order.

        Raises:
            ConfigError: no such class, or without a catalogue what only that knows.
        """
        columns = self._columns
        if query.parent is not None or query.roots:
            raise ConfigError(
                f"{self.layer} has concepts of a network, none is above another; leave parent and roots out"
            )
        if columns is None and (query.class_name is not None or query.sort not in (None, "name", "id")):
            raise ConfigError(
                f"{self.layer} has no catalogue: its concepts have no classes and sort by name or id only"
            )
        names = self.names.book().names
        found = fitting(names, self.num_concepts, query.text)
        sums: Mapping[int, float] = {}
        if columns is not None and query.class_name is not None:
            sums = columns.class_sums(query.class_name)
            found = [k for k in found if k in sums]
        sort = query.sort or ("id" if columns is None else "contribution")
        if sort == "name":
            return by_name(found, names)
        if columns is None or sort == "id":
            return found
        chosen = np.array(found, dtype=np.int64)
        by_class = sort == "contribution" and query.class_name is not None
        keys = np.array([-sums[k] for k in found]) if by_class else columns.sort_keys(sort)[chosen]
        return chosen[np.argsort(keys, kind="stable")].tolist()  # NaN is last

    def rows(self, concepts: Sequence[int]) -> list[ConceptRow]:
        """Name and statistics of some concepts.

        Raises:
            NotFoundError: one does not exist.
        """
        for concept in concepts:
            self._check(concept)
        stored: Sequence[Mapping[str, Any]] = [{}] * len(concepts)
        if self._columns is not None:
            stored = self._columns.concepts.take(pa.array(concepts, type=pa.int64())).to_pylist()
        return [self._row(concept, own) for concept, own in zip(concepts, stored, strict=True)]

    def _row(self, concept: int, stored: Mapping[str, Any]) -> ConceptRow:
        book, columns = self.names.book(), self._columns
        labels: Mapping[str, float] = {}
        classes: Mapping[str, float] = {}
        if columns is not None:
            total = sum(map(abs, stored["class_contributions"])) or 1.0
            labels = columns.named(stored["labels"], stored["label_shares"])
            classes = columns.named(stored["classes"], [value / total for value in stored["class_contributions"]])
        return ConceptRow(
            id=concept, name=self.name(concept), named_by=named_by(book, concept), labels=labels, classes=classes,
            examples=0 if columns is None else len(columns.examples_of(concept)),
            statistics={name: stored[name] for name in STATISTICS if stored},
        )  # fmt: skip

    def name(self, concept: int) -> str:
        """Name of a concept, ``concept 12`` where it has none."""
        return self.names.get(concept, f"concept {concept}")

    def examples(self, concept: int) -> list[ExampleRow]:
        """Images that show a concept, the one with the largest S first; none without a catalogue.

        Raises:
            NotFoundError: no such concept.
        """
        self._check(concept)
        columns = self._columns
        if columns is None:
            return []
        rows: list[ExampleRow] = []
        for row in columns.examples_of(concept):
            image = columns.image_of(row)
            answer = columns.images["answer"][image].as_py()
            rows.append(
                ExampleRow(
                    activation=columns.examples["activation"][row].as_py(),
                    contribution=columns.examples["contribution"][row].as_py(),
                    labels=tuple(columns.classes[k] for k in columns.images["labels"][image].as_py()),
                    answer=None if answer is None else columns.classes[answer],
                )
            )
        return rows

    def partners(self, concept: int) -> list[tuple[int, float]]:
        """Concepts that are active at the same places, with the share of the positions of either that are of both.

        Raises:
            NotFoundError: no such concept.
        """
        self._check(concept)
        columns = self._columns
        if columns is None:
            return []
        own = columns.partners_of(concept)
        part = columns.partners.slice(own.start, len(own))
        return list(zip(part["partner"].to_pylist(), part["overlap"].to_pylist(), strict=True))

    def relatives(self, concept: int) -> Relatives:
        """None; these concepts are not ordered.

        Raises:
            NotFoundError: no such concept.
        """
        self._check(concept)
        return UNRELATED

    def history(self, concept: int) -> list[NameChange]:
        """What became of the given names of a concept, oldest first."""
        return [change for change in self.names.book().history if change.concept == concept]

    def photograph(self, concept: int, rank: int) -> bytes:
        """JPEG of an example, 112 pixels at most.

        Raises:
            NotFoundError: no such concept or example.
            DataError: it cannot be read.
        """
        columns, row = self._example(concept, rank)
        return columns.photographs.read(columns.image_of(row))

    def map(self, concept: int, rank: int) -> bytes:
        """Where a concept is in an example: grey PNG of 28 x 28 pixels, 255 where its contribution is largest.

        Raises:
            NotFoundError: no such concept or example.
            DataError: it cannot be read.
        """
        columns, row = self._example(concept, rank)
        return columns.maps.read(row)

    def image(self, number: int) -> bytes:
        """JPEG of one of the ``num_images`` images of the examples, 112 pixels at most.

        Raises:
            NotFoundError: no such image.
            DataError: it cannot be read.
        """
        if self._columns is None or not 0 <= number < self.num_images:
            raise NotFoundError(f"no example image {number}; this model has {self.num_images}")
        return self._columns.photographs.read(number)

    def rename(self, concept: int, name: str) -> None:
        """Name a concept, or take a given name back with an empty one.

        Raises:
            NotFoundError: no such concept.
            ConfigError: the name is too long or has control characters.
            DataError: it cannot be stored.
        """
        self._check(concept)
        rename(self._at, {concept: name}, self.num_concepts)
        self.names.refresh()

    def _example(self, concept: int, rank: int) -> tuple[CatalogueColumns, int]:
        self._check(concept)
        own = range(0) if self._columns is None else self._columns.examples_of(concept)
        if self._columns is None or not 0 <= rank < len(own):
            raise NotFoundError(f"no example {rank} of concept {concept}; it has {len(own)}")
        return self._columns, own[rank]

    def _check(self, concept: int) -> None:
        if not 0 <= concept < self.num_concepts:
            raise NotFoundError(f"no concept {concept}; {self.layer} has concepts 0 to {self.num_concepts - 1}")


def open_views(runs: Sequence[str]) -> dict[str, ConceptView]:
    """Concept layer -> its concepts, of the runs that are concept runs, in their order.

    Raises:
        ConfigError: no run at one of the addresses.
        CheckpointError, DataError: what is stored is damaged or cannot be read.
    """
    views: list[ConceptView] = []
    for at in map(open_run, runs):
        config = read_config(at)
        if config.get("job") == "concepts":
            views.append(InsightView(at) if "encoder" in config else CatalogueView(at))
    return {view.layer: view for view in views}
