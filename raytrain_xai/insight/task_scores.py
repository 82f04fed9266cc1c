"""How much of what an encoder can do is left when its patches are said again by concepts: images ranked and segmented.

Both are measured in one pass over a labelled split: the encoder's own patches, and their reconstruction from concepts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain_xai.align.pooling import attention_scores
from raytrain_xai.data.dataset import open_dataset
from raytrain_xai.data.loader import evaluation_batches
from raytrain_xai.data.transforms import resize_images
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.insight.contributions import PatchView
from raytrain_xai.insight.model import InsightModel
from raytrain_xai.insight.segment import SegmentPlan, segment_views
from raytrain_xai.insight.segmentation_score import PixelCounts
from raytrain_xai.insight.views import see_patches
from raytrain_xai.language.prompts import embed_terms, find_family
from raytrain_xai.language.terms import terms_of
from raytrain_xai.ranking import average_precision
from raytrain_xai.types import Batch


@dataclass(frozen=True)
class ScorePlan:
    """What is measured on.

    Attributes:
        data: prepared data set.
        split: its split.
        terms: table that says what its classes are called, see :func:`~raytrain_xai.language.terms.terms_of`.
        rivals: texts that compete with the classes for pixels and are never right.
        templates: family of sentences.
        background: cosine below which a pixel is background, where background is a class. Choose it on other images.
        side_px: masks and segmentations are compared at this size, squares.
        min_images: classes with fewer images in the split are left out of all means.
        batch_size: images at a time.
        max_images: at even distances; None: all.
    """

    data: str
    split: str = "test"
    terms: str | None = None
    rivals: tuple[str, ...] = ()
    templates: str = "plain"
    background: float = 0.32
    side_px: int = 160
    min_images: int = 10
    batch_size: int = 16
    max_images: int | None = None

    def num_images(self) -> int:
        """Images that are measured.

        Raises:
            DataError: no such data or split, or no image in it.
        """
        splits = open_dataset(self.data).splits
        if not splits.get(self.split):
            raise DataError(f"{self.data} has no images in split {self.split!r}; it has {', '.join(splits)}")
        return splits[self.split] if self.max_images is None else min(self.max_images, splits[self.split])


@dataclass(frozen=True)
class TaskScore:
    """Measures of one kind of patches; shares in [0, 1], NaN where the data have no images or masks for it.

    Attributes:
        precision: (C,) float64, average precision of each class over images, by attention-pooled scores.
        iou: (C,) float64, of each class over pixels that have a class.
        iou_with_background: (C + 1,) float64, over all pixels that are not void, background first.
        accuracy: share of the pixels that have a class and get theirs.
    """

    precision: Tensor
    iou: Tensor
    iou_with_background: Tensor
    accuracy: float


@dataclass(frozen=True)
class TaskScores:
    """Both kinds of patches.

    Attributes:
        classes: names in the data set.
        is_counted: (C,) bool, classes with enough images.
        images: measured.
        masks: of them, with a mask.
        encoder, concepts: the encoder's own patches, and their reconstruction.
        variance_explained: 1 - Σ‖x - x̂‖² / Σ‖x - mean‖² over patches.
        active: mean number of active concepts at a patch.
    """

    classes: tuple[str, ...]
    is_counted: Tensor
    images: int
    masks: int
    encoder: TaskScore
    concepts: TaskScore
    variance_explained: float
    active: float

    def means(self, score: TaskScore) -> dict[str, float]:
        """``map``, ``miou`` over pixels with a class, ``miou_background`` over all, and ``accuracy``."""
        with_background = torch.cat([self.is_counted.new_ones(1), self.is_counted])
        return {
            "map": float(score.precision[self.is_counted].mean()),
            "miou": float(score.iou[self.is_counted].mean()),
            "miou_background": float(score.iou_with_background[with_background].mean()),
            "accuracy": score.accuracy,
        }

    def kept(self) -> dict[str, float]:
        """Share of each mean of the encoder that the concepts keep; NaN where the encoder's is 0."""
        whole, left = self.means(self.encoder), self.means(self.concepts)
        return {name: left[name] / whole[name] if whole[name] else float("nan") for name in whole}


@torch.no_grad()
def score_tasks(model: InsightModel, plan: ScorePlan, done: Callable[[int], None] = lambda _: None) -> TaskScores:
    """Measure a model on a labelled split.

    Args:
        done: told the number of images after each batch.
    Raises:
        DataError: no such data or split, no images in it, or no class with enough images.
        ConfigError: unknown terms or templates.
    """
    plan.num_images()
    info = open_dataset(plan.data)
    if plan.side_px < 1 or plan.batch_size < 1:
        raise ConfigError(f"sides and batches are 1 or more, got {plan.side_px} and {plan.batch_size}")
    texts = embed_terms(model.encoder, _texts(info.classes, plan), find_family(plan.templates))
    own, said = (_Running(len(info.classes), texts, plan, model) for _ in range(2))
    spread = _Spread(texts.new_zeros(texts.shape[1], dtype=torch.float64))
    labels: list[Tensor] = []
    for batch in _batches(model, plan):
        view = see_patches(model.encoder)(batch.images)
        code = model.sae.encode(view.vectors)
        again = PatchView(model.sae.decode(code), view.size, code)
        spread.add(model.sae.inputs(view.vectors), again.vectors, code.values)
        own.add(view, batch)
        said.add(again, batch)
        labels.append(batch.labels)
        done(len(batch.images))
    truth = torch.cat(labels)
    is_counted = truth.sum(dim=0) >= plan.min_images
    if not bool(is_counted.any()):
        raise DataError(f"no class has {plan.min_images} images in split {plan.split} of {plan.data}; ask for fewer")
    return TaskScores(
        info.classes, is_counted.cpu(), len(truth), own.masks, own.score(truth), said.score(truth),
        spread.explained(), spread.active(),
    )  # fmt: skip


class _Running:
    """Scores of images and counts of pixels so far."""

    def __init__(self, num_classes: int, texts: Tensor, plan: ScorePlan, model: InsightModel) -> None:
        self._texts = texts
        self._num_classes = num_classes
        self._plan = plan
        size = model.config.image_size or model.encoder.image_size
        self._segments = SegmentPlan(model.encoder.logit_scale, size, model.encoder.multiple)
        self._scores: list[Tensor] = []
        self._plain, self._background = (PixelCounts.empty(num_classes, len(texts), texts.device) for _ in range(2))
        self.masks = 0

    def add(self, view: PatchView, batch: Batch) -> None:
        cosines = view.cosines(self._texts[: self._num_classes]).unflatten(2, view.size)
        self._scores.append(attention_scores(cosines))
        if batch.masks is None:
            return
        rows = batch.has_mask.nonzero().flatten()
        if not len(rows):
            return
        self.masks += len(rows)
        side = (self._plan.side_px, self._plan.side_px)
        images = resize_images(batch.images[rows], side)
        masks = torch.nn.functional.interpolate(batch.masks[rows][:, None], size=side, mode="nearest-exact")[:, 0]
        part = PatchView(view.vectors[rows], view.size)
        found = segment_views(lambda _: part, images, self._texts, self._segments)
        self._plain.add(found.labels, masks)
        is_thing = found.scores.amax(dim=1) > self._plan.background
        self._background.add(torch.where(is_thing, found.labels, 0), masks)

    def score(self, labels: Tensor) -> TaskScore:
        return TaskScore(
            average_precision(torch.cat(self._scores), labels).cpu(),
            self._plain.iou(with_background=False).cpu(),
            self._background.iou(with_background=True).cpu(),
            self._plain.accuracy(with_background=False),
        )


class _Spread:
    """Sums of squares over patches, float64 on the device."""

    def __init__(self, zeros: Tensor) -> None:
        self._total = zeros.clone()
        self._square, self._missed, self._active = (zeros.new_zeros(()) for _ in range(3))
        self._count = 0

    def add(self, vectors: Tensor, again: Tensor, values: Tensor) -> None:
        flat = vectors.flatten(0, 1).double()
        self._total += flat.sum(dim=0)
        self._square += flat.square().sum()
        self._missed += (flat - again.flatten(0, 1)).square().sum()
        self._active += values.count_nonzero()
        self._count += len(flat)

    def explained(self) -> float:
        spread = self._square - self._total.square().sum() / self._count
        return float(1 - self._missed / spread)

    def active(self) -> float:
        return float(self._active / self._count)


def _texts(classes: Sequence[str], plan: ScorePlan) -> tuple[str, ...]:
    return (*terms_of(classes, plan.terms), *plan.rivals)


def _batches(model: InsightModel, plan: ScorePlan) -> Iterator[Batch]:
    config, encoder = model.config, model.encoder
    size = config.image_size or encoder.image_size
    batches = evaluation_batches(
        plan.data, plan.split, size, plan.batch_size, shorter=config.eval_resize, max_images=plan.max_images
    )
    for batch in batches:
        yield batch.to(encoder.device)
