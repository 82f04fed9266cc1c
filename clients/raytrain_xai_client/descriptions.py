"""What the service says about its models and their concepts; its OpenAPI document says more of every field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Version:
    """A version of a model; ``weight``: share of the images that name none."""

    version: str
    weight: float
    loaded: bool


@dataclass(frozen=True)
class ModelSummary:
    """A model and its versions."""

    name: str
    versions: tuple[Version, ...]


@dataclass(frozen=True)
class ConceptLayer:
    """A concept layer; ``catalogue``: whether statistics and example images are there; ``relations``: parents."""

    layer: str
    concepts: int
    per_position: int | None
    named: int
    catalogue: bool
    relations: bool = False


@dataclass(frozen=True)
class Model(ModelSummary):
    """One version of a model."""

    version: str
    classes: tuple[str, ...]
    exclusive: bool
    architecture: str
    image_size: int
    preprocessing: str
    method: str
    layers: tuple[ConceptLayer, ...]
    samples: int
    operations: tuple[str, ...]
    ready: bool = True


@dataclass(frozen=True)
class NamedShare:
    """A class or label with its share."""

    name: str
    share: float


@dataclass(frozen=True)
class ConceptSummary:
    """A concept and its statistics; None without a catalogue."""

    layer: str
    id: int
    name: str
    named_by: Literal["user", "catalogue", "nobody"]
    images: int | None
    frequency: float | None
    class_entropy: float | None
    spatial_size: float | None
    mean_contribution: float | None
    always_on: bool | None
    labels: tuple[NamedShare, ...]
    classes: tuple[NamedShare, ...]
    thumbnail: str | None
    thumbnail_map: str | None


@dataclass(frozen=True)
class ConceptPage:
    """Some concepts of a layer."""

    model: str
    version: str
    layer: str
    total: int
    page: int
    pages: int
    concepts: tuple[ConceptSummary, ...]


@dataclass(frozen=True)
class ConceptExample:
    """An image that shows a concept; ``image`` and ``map`` are for :meth:`Client.fetch`."""

    image: str
    map: str
    activation: float
    contribution: float | None
    labels: tuple[str, ...]
    answer: str | None


@dataclass(frozen=True)
class Partner:
    """A concept that is active at the same places."""

    id: int
    name: str
    overlap: float


@dataclass(frozen=True)
class Relative:
    """A more general or more specific concept; ``share``: how surely the one implies the other."""

    id: int
    name: str
    share: float
    children: int


@dataclass(frozen=True)
class Synonym:
    """A concept that implies and is implied."""

    id: int
    name: str


@dataclass(frozen=True)
class ConceptRelatives:
    """Concepts of an encoder above, below and beside one."""

    parents: tuple[Relative, ...]
    children: tuple[Relative, ...]
    synonyms: tuple[Synonym, ...]


@dataclass(frozen=True)
class Renaming:
    """A change of a name, at ``time`` seconds since 1970."""

    time: float
    before: str
    after: str


@dataclass(frozen=True)
class ConceptDetail(ConceptSummary):
    """A concept with its example images, partners and names."""

    model: str
    version: str
    examples: tuple[ConceptExample, ...]
    partners: tuple[Partner, ...]
    history: tuple[Renaming, ...]
    relatives: ConceptRelatives | None = None
