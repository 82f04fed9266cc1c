"""The deletion study of a concept run: which order of concepts makes the explained logit fall fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain_xai.concept_runs.model import ConceptModel
from raytrain_xai.concepts.deletion import DeletionCurve, deletion_curve, deletion_grid
from raytrain_xai.concepts.importance import MEASURES, importance
from raytrain_xai.concepts.trace import activations, concept_pass
from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.data.loader import load_samples
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.evaluation import check_classes

IMAGES_AT_ONCE = 16


@dataclass(frozen=True)
class DeletionStudy:
    """Curves of several orders over the same concepts of the same images.

    Attributes:
        tap: of the concept layer.
        data, split: where the images come from.
        images: how many.
        curves: measure -> curve.
        protected: concepts that were never deleted.
    """

    tap: str
    data: str
    split: str
    images: int
    curves: dict[str, DeletionCurve]
    protected: tuple[int, ...]


@dataclass(frozen=True)
class DeletionPlan:
    """What is studied.

    Attributes:
        split: of the data set.
        num_images: drawn at random from it, all where there are fewer.
        measures: among ``MEASURES``.
        protect: concepts active in more than this share of the images stay; None deletes all.
        seed: of the images, the random order and the Sobol designs.
        data: prepared data set; None: the one the concepts were trained on.
    """

    split: str
    num_images: int
    measures: Sequence[str]
    protect: float | None = None
    seed: int = 0
    data: str | None = None


@torch.no_grad()
def study_deletion(model: ConceptModel, plan: DeletionPlan, show: Callable[[int], object]) -> DeletionStudy:
    """Delete concepts of each image in the order of every measure; the explained class is the predicted one.

    Args:
        model: with one concept layer.
        plan: images and measures.
        show: called with the number of images finished.
    Raises:
        ConfigError: unknown measure, or several concept layers.
        DataError: no such data or split, or of other classes.
    """
    unknown = [measure for measure in plan.measures if measure not in MEASURES]
    if unknown or not plan.measures:
        raise ConfigError(f"unknown measure {', '.join(unknown) or '(none)'}; there are {', '.join(MEASURES)}")
    if len(model.layers) != 1:
        raise ConfigError(f"deletion needs one concept layer, got {', '.join(model.layers)}; give one run")
    [tap] = model.layers
    data = plan.data or model.data
    rows = _draw_rows(model, data, plan)
    survey = _survey(model, tap, data, plan.split, rows)
    grid = deletion_grid(survey.most_active)
    protected = None if plan.protect is None else survey.presence > plan.protect * len(rows)
    curves: dict[str, DeletionCurve] = {}
    for part in _parts(rows):
        images = _images(model, data, plan.split, part)
        passed = concept_pass(model.network, model.layers, images)
        target = passed.logits.argmax(dim=1)
        for measure in plan.measures:
            values = importance(measure, model.network, passed, tap, target, seed=plan.seed + part[0])
            curve = deletion_curve(model.network, passed, tap, target, values, grid, protected=protected)
            curves[measure] = curve if measure not in curves else curves[measure].merge(curve)
        show(len(part))
    kept = () if protected is None else tuple(protected.nonzero().squeeze(1).tolist())
    return DeletionStudy(tap, data, plan.split, len(rows), curves, kept)


def _draw_rows(model: ConceptModel, data: str, plan: DeletionPlan) -> list[int]:
    stored = StoredSplit(data, plan.split)
    check_classes("the concept run", model.explainer.classes, data, stored.info.classes)
    if len(stored) == 0:
        raise DataError(f"{data} has no images in split {plan.split}; choose another")
    order = torch.randperm(len(stored), generator=torch.Generator().manual_seed(plan.seed))
    return sorted(order[: plan.num_images].tolist())


@dataclass(frozen=True)
class _Survey:
    """Codes of all images: (K,) in how many a concept is active, and the most that are active in one."""

    presence: Tensor
    most_active: int


def _survey(model: ConceptModel, tap: str, data: str, split: str, rows: Sequence[int]) -> _Survey:
    presence = torch.zeros(model.layers[tap].sae.num_latents, device=model.explainer.device)
    most_active = 1
    for part in _parts(rows):
        features = model.network.features(_images(model, data, split, part), tap)
        is_active = activations(model.layers[tap].encode(features)) > 0
        presence += is_active.sum(dim=0)
        most_active = max(most_active, int(is_active.sum(dim=1).max()))
    return _Survey(presence, most_active)


def _parts(rows: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(rows), IMAGES_AT_ONCE):
        yield rows[start : start + IMAGES_AT_ONCE]


def _images(model: ConceptModel, data: str, split: str, rows: Sequence[int]) -> Tensor:
    explainer = model.explainer
    batch, _ = load_samples(data, split, list(rows), explainer.image_size, shorter=explainer.shorter)
    return batch.images.to(explainer.device)
