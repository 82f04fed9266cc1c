"""The JSON of the API, version 1, about models, their concepts, and what is watched of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from serve.schemas import Answer, Body


class ConceptLayerInfo(Answer):
    layer: str
    concepts: int
    per_position: int | None
    """Concepts active at a position at most; null where it varies."""
    named: int
    catalogue: bool
    """Whether statistics and example images are there."""
    relations: bool = False
    """Whether it is known which concepts are more general than others."""


class VersionInfo(Answer):
    version: str
    weight: float
    """Share of the images that name no version, 0 to 1."""
    loaded: bool


class ModelSummary(Answer):
    name: str
    versions: list[VersionInfo]


class Models(Answer):
    models: list[ModelSummary]


class Health(Answer):
    status: str
    models: list[str] = []
    """Versions in memory, as NAME@VERSION."""


class ModelInfo(ModelSummary):
    version: str
    """That the rest is about."""
    classes: list[str]
    """Empty for an encoder, which takes words."""
    exclusive: bool
    """Probabilities are a softmax over the classes; otherwise each class has its own sigmoid."""
    architecture: str
    image_size: int
    preprocessing: str
    method: str
    layers: list[ConceptLayerInfo]
    """Concept layers in forward order; empty for models without concepts."""
    samples: int
    """Example images that GET .../samples/{number} shows."""
    operations: list[str]
    """predict, explain and, with concepts, trace and intervene; of an encoder segment and search."""
    ready: bool = True
    """It was loaded to tell all this; where clients of KServe's version 1 look."""


class NamedShare(Answer):
    name: str
    share: float


class ConceptSummary(Answer):
    layer: str
    id: int
    name: str
    named_by: Literal["user", "catalogue", "nobody"]
    images: int | None
    """Images of the catalogue that show it; null without a catalogue, as everything below."""
    frequency: float | None
    """Share of the images that show it; of the concept of an encoder, of the patches."""
    class_entropy: float | None
    spatial_size: float | None
    """Mean share of the pixels that hold 80 % of its map."""
    mean_contribution: float | None
    always_on: bool | None
    labels: list[NamedShare]
    """Labels of the images that show it."""
    classes: list[NamedShare]
    """Classes it contributes to most, with their signed shares of what it contributes to these."""
    thumbnail: str | None
    """Address of the image that shows it most."""
    thumbnail_map: str | None
    """Address of where it is in that image, as ``map`` of an example."""


class ConceptPage(Answer):
    model: str
    version: str
    layer: str
    total: int
    page: int
    pages: int
    concepts: list[ConceptSummary]


class ConceptExample(Answer):
    image: str
    """Address of a small JPEG."""
    map: str
    """Address of its map, a small grey PNG: black where nothing of the concept is, white where most of it is."""
    activation: float
    contribution: float | None
    labels: list[str]
    answer: str | None
    """The class the model saw in it."""


class Partner(Answer):
    id: int
    name: str
    overlap: float
    """Positions at which both are active, of the positions of either."""


class Relative(Answer):
    id: int
    name: str
    share: float
    """P_D: of the activation of the more specific one, what lies where the more general one is active too."""
    children: int
    """Concepts just below it."""


class Synonym(Answer):
    id: int
    name: str


class ConceptRelatives(Answer):
    """Concepts of an encoder by what they are active with."""

    parents: list[Relative]
    """More general ones, the surest first."""
    children: list[Relative]
    """More specific ones, the surest first."""
    synonyms: list[Synonym]
    """Each implies the other."""


class Renaming(Answer):
    time: float
    """Seconds since 1970."""
    before: str
    after: str


class ConceptDetail(ConceptSummary):
    model: str
    version: str
    examples: list[ConceptExample]
    partners: list[Partner]
    relatives: ConceptRelatives | None = None
    """null for concepts of a network, and for a run that was not described."""
    history: list[Renaming]


class Rename(Body):
    name: str = Field(max_length=80)
    """Empty takes a given name back."""


class ConceptDrift(Answer):
    id: int
    name: str
    psi: float
    """Population stability index of its activation against the training catalogue; above 0.2 is a shift."""
    expected_psi: float
    """Of that many images without any shift; a smaller psi is noise."""
    frequency_then: float
    frequency_now: float


class Drift(Answer):
    model: str
    version: str
    layer: str
    images: int
    """Served images that were traced, in the windows looked at."""
    since: float
    until: float
    shifted: int
    """Concepts with psi above 0.2 and above four times the expected one; to be trusted from 100 images on."""
    concepts: list[ConceptDrift]
    """Largest psi first."""
    windows: list[DriftWindow]


class DriftWindow(Answer):
    start: float
    end: float
    images: int
    mean_psi: float | None
    """Over all concepts; null where no image was traced."""
    expected_psi: float | None
    """What ``mean_psi`` is without any shift; short windows with few images have a large one."""
    salient_energy: float | None
    """Mean share of the explanation's energy on salient regions of the image; null where no maps were made."""


class Flagged(Answer):
    id: str
    """Of the record, to be quoted."""
