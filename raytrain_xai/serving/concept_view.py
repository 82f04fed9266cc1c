"""What a service shows of the concepts of a run, whatever they are concepts of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from raytrain_xai.concept_runs.names import NameBook, NameChange
from raytrain_xai.serving.catalogue_columns import CatalogueSort
from raytrain_xai.serving.live_names import LiveNames

Sort = CatalogueSort | Literal["name", "id"]
NamedBy = Literal["user", "catalogue", "nobody"]


@dataclass(frozen=True)
class ConceptQuery:
    """Which concepts are wanted, in which order.

    Attributes:
        text: part of the name or number, upper and lower case alike; empty for all.
        class_name: only concepts that this class is among the most of; with ``contribution``, ordered by their sum of
            contributions to it.
        sort: ``contribution``: sum over the answers of the catalogue, largest first; ``frequency``: share of images
            (of patches, for concepts of an encoder), largest first; ``entropy``: most specific first; ``size``:
            smallest first; ``name``: alphabetical, those without last; ``id``. None: contribution, or frequency for
            concepts of an encoder, or id where nothing is known of them.
        parent: only concepts just below this one.
        roots: only concepts that have others below them and none above: where trees begin.
    """

    text: str = ""
    class_name: str | None = None
    sort: Sort | None = None
    parent: int | None = None
    roots: bool = False


@dataclass(frozen=True)
class ConceptRow:
    """A concept; see :data:`raytrain_xai.concept_runs.catalogue_columns.SCHEMAS` for the statistics.

    Attributes:
        labels: of the images that show it -> share of its activation, largest first.
        classes: that it contributes most to -> signed share of what it contributes to these.
        examples: images that show it, kept in the catalogue.
        statistics: ``images``, ``frequency``, ``class_entropy``, ``spatial_size``, ``mean_contribution``,
            ``always_on``; None where unknown, empty without a catalogue.
    """

    id: int
    name: str
    named_by: NamedBy
    labels: Mapping[str, float]
    classes: Mapping[str, float]
    examples: int
    statistics: Mapping[str, Any]


@dataclass(frozen=True)
class ExampleRow:
    """An image that shows a concept: S, contribution to the class the model saw in it, its labels, that class.

    Of the concept of an encoder: its largest value in the image; None, none and None.
    """

    activation: float
    contribution: float | None
    labels: tuple[str, ...]
    answer: str | None


@dataclass(frozen=True)
class Relatives:
    """Concepts that are more general, more specific, and the same.

    Attributes:
        parents, children: concept -> P_D(parent|child), the surest first.
        synonyms: in order of their numbers.
        num_children: concept -> number of its children, of all concepts in ``parents`` and ``children``.
    """

    parents: Mapping[int, float]
    children: Mapping[int, float]
    synonyms: tuple[int, ...]
    num_children: Mapping[int, int]


UNRELATED = Relatives({}, {}, (), {})


class ConceptView(Protocol):
    """The concepts of one concept run; safe for threads.

    Attributes:
        layer: name of the layer they are of.
        num_concepts: size of the dictionary.
        per_position: how many are active at a position at most; None where it varies.
        names: given and proposed.
    """

    layer: str
    num_concepts: int
    per_position: int | None
    names: LiveNames

    @property
    def has_catalogue(self) -> bool:
        """Whether there are statistics and example images."""
        ...

    @property
    def has_relations(self) -> bool:
        """Whether it is known which concepts are more general than others."""
        ...

    @property
    def num_images(self) -> int:
        """Different images that examples show."""
        ...

    def find(self, query: ConceptQuery) -> list[int]:
        """All concepts that fit, in order.

        Raises:
            ConfigError: no such class, or what is not known of these concepts.
            NotFoundError: no such parent.
        """
        ...

    def rows(self, concepts: Sequence[int]) -> list[ConceptRow]:
        """Name and statistics of some concepts.

        Raises:
            NotFoundError: one does not exist.
        """
        ...

    def name(self, concept: int) -> str:
        """Name of a concept, ``concept 12`` where it has none."""
        ...

    def examples(self, concept: int) -> list[ExampleRow]:
        """Images that show a concept, the strongest first.

        Raises:
            NotFoundError: no such concept.
        """
        ...

    def partners(self, concept: int) -> list[tuple[int, float]]:
        """Concepts that are active at the same places, with the share of the positions of either that are of both.

        Raises:
            NotFoundError: no such concept.
        """
        ...

    def relatives(self, concept: int) -> Relatives:
        """Concepts above, below and beside one.

        Raises:
            NotFoundError: no such concept.
        """
        ...

    def history(self, concept: int) -> list[NameChange]:
        """What became of the given names of a concept, oldest first."""
        ...

    def photograph(self, concept: int, rank: int) -> bytes:
        """JPEG of an example.

        Raises:
            NotFoundError: no such concept or example.
            DataError: it cannot be read.
        """
        ...

    def map(self, concept: int, rank: int) -> bytes:
        """Where a concept is in an example: a small grey PNG, 255 where it is strongest.

        Raises:
            NotFoundError: no such concept or example.
            DataError: it cannot be read.
        """
        ...

    def image(self, number: int) -> bytes:
        """JPEG of one of the ``num_images`` images.

        Raises:
            NotFoundError: no such image.
            DataError: it cannot be read.
        """
        ...

    def rename(self, concept: int, name: str) -> None:
        """Name a concept, or take a given name back with an empty one.

        Raises:
            NotFoundError: no such concept.
            ConfigError: the name is too long or has control characters.
            DataError: it cannot be stored.
        """
        ...


def named_by(book: NameBook, concept: int) -> NamedBy:
    """Who a name is from."""
    return "user" if concept in book.given else "catalogue" if concept in book.proposed else "nobody"


def fitting(names: Mapping[int, str], num_concepts: int, text: str) -> list[int]:
    """Concepts with ``text`` in their name or number, upper and lower case alike, by number."""
    wanted = text.casefold()
    return [k for k in range(num_concepts) if not wanted or wanted in f"{names.get(k, '')} {k}".casefold()]


def by_name(found: Sequence[int], names: Mapping[int, str]) -> list[int]:
    """Alphabetical, those without a name last."""
    return sorted(found, key=lambda k: (k not in names, names.get(k, "").casefold(), k))
