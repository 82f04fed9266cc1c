"""Scores of a described run: how well its hierarchy agrees with super-categories, and how much is absorbed."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import isnan, nan
from statistics import fmean

from raytrain_xai.errors import ConfigError
from raytrain_xai.insight.absorption import class_concepts
from raytrain_xai.insight.described import Described, description_of, read_described
from raytrain_xai.insight.hierarchy_score import HierarchyScore, score_hierarchy
from raytrain_xai.insight.image_rows import ImageRows
from raytrain_xai.insight.model import InsightModel
from raytrain_xai.insight.observing import InsightSource
from raytrain_xai.storage import Location, write_bytes

FORMAT_VERSION = 1
SCORE = "tree_score.json"


@dataclass(frozen=True)
class ClassAbsorption:
    """How a class is told.

    Attributes:
        name: of the class.
        main: the concept that detects it best.
        f1: how well, in [0, 1].
        absorbed: share in [0, 1] of the evidence for the class that other concepts give where that one is silent.
    """

    name: str
    main: int
    f1: float
    absorbed: float


@dataclass(frozen=True)
class TreeScore:
    """Scores of relations and of the dictionary; ``images`` are those that absorption was measured on."""

    hierarchy: HierarchyScore
    classes: tuple[ClassAbsorption, ...]
    images: int

    @property
    def absorbed(self) -> float:
        """Mean over the classes; NaN without any."""
        return fmean(one.absorbed for one in self.classes) if self.classes else nan


def score_tree(run: Location, model: InsightModel, *, max_images: int) -> TreeScore:
    """Score the description of a run, and write ``tree_score.json`` beside it.

    Args:
        run: its folder.
        model: of the run, with the checkpoint that was described.
        max_images: images with masks for the measure of absorption, at even distances; at most.
    Raises:
        ConfigError: the run is not described, or with another checkpoint.
        DataError: the images have no masks of known classes, or cannot be read.
    """
    described = read_described(run)
    subject = described.subject
    if subject.fingerprint != model.fingerprint:
        raise ConfigError(f"{run.uri} was described with another checkpoint or encoder; describe it again")
    hierarchy = score_hierarchy(described.sums, described.relations, described.groups, described.classes)
    images = ImageRows(subject.data, subject.split, subject.image_size, shorter=subject.shorter)
    labelled = images.with_masks
    step = max(1, -(-len(labelled) // max_images))
    chosen = labelled[::step]
    classes = _absorption(described, model, InsightSource(model, images, subject.size), chosen)
    score = TreeScore(hierarchy, classes, len(chosen))
    content = {
        "format_version": FORMAT_VERSION, "hierarchy": _known(asdict(hierarchy)),
        **_known({"absorbed": score.absorbed}),
        "classes": [asdict(one) for one in classes], "images": len(chosen),
    }  # fmt: skip
    write_bytes(description_of(run).child(SCORE), (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
    return score


def _known(numbers: Mapping[str, float]) -> dict[str, float | None]:
    """NaN, a share of nothing, as null: JSON has no other word for it."""
    return {name: None if isnan(value) else value for name, value in numbers.items()}


def _absorption(
    described: Described, model: InsightModel, source: InsightSource, rows: Sequence[int]
) -> tuple[ClassAbsorption, ...]:
    concepts = class_concepts(described.sums, model.sae.dictionary.detach().cpu())
    found = source.absorption(rows, concepts.to(model.encoder.device))
    share, main, f1 = found.share.tolist(), concepts.main.tolist(), concepts.f1.tolist()
    return tuple(
        ClassAbsorption(name, main[k], f1[k], share[k])
        for k, name in enumerate(described.classes)
        if main[k] >= 0 and found.total[k] > 0
    )
