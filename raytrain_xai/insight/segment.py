"""Open-vocabulary segmentation: each pixel gets the text that is most like it, each segment the concepts behind it.

Scores are cosines of patches and texts, brought to pixels by an upsampler and averaged over the windows that show a
pixel. Classes compete by the softmax of the scores in each window, whose probabilities are averaged (Insight / CFM,
2026). Contributions are those to the mean score of a segment, before the softmax, and sum to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain_xai.data.transforms import resize_images
from raytrain_xai.errors import DataError
from raytrain_xai.insight.contributions import Contributions, PatchView, attribute, pool_code
from raytrain_xai.insight.model import InsightModel
from raytrain_xai.insight.upsample import Upsample, bilinear, transposed
from raytrain_xai.insight.views import See, see_concepts
from raytrain_xai.insight.windows import Area, Sliding, areas_of, reach


@dataclass(frozen=True)
class ConstantBackground:
    """Background has the same score everywhere: what is less like every text is background.

    Attributes:
        score: cosine.
    """

    score: float


@dataclass(frozen=True)
class WordBackground:
    """Background is what is most like one of some texts.

    Attributes:
        vectors: (M, D) float, unit text vectors.
    """

    vectors: Tensor


@dataclass(frozen=True)
class ForegroundMask:
    """Background is where the encoder finds no thing and no class is nearly certain (CLIP-DINOiser, ECCV 2024).

    Attributes:
        confidence: probability from which a class is kept anyway.
    """

    confidence: float = 0.99


Background = ConstantBackground | WordBackground | ForegroundMask


@dataclass(frozen=True)
class Segments:
    """The S segments of a batch: pixels of one image that got one text, connected or not.

    Attributes:
        image: (S,) int64, ascending.
        label: (S,) int64, row of the text vectors.
        pixels: (S,) int64, >= 1.
        score: (S,) float, mean over the pixels.
        contributions: to ``score``, R = S.
    """

    image: Tensor
    label: Tensor
    pixels: Tensor
    score: Tensor
    contributions: Contributions


@dataclass(frozen=True)
class Segmentation:
    """What :func:`segment` finds.

    Attributes:
        labels: (B, H, W) int64, 0 background, c + 1 for text c, as in the masks of data sets.
        scores: (B, C, H, W) float32, cosines in [-1, 1], means over the windows.
        segments: None where the patches are the encoder's own and not made of concepts.
    """

    labels: Tensor
    scores: Tensor
    segments: Segments | None


@dataclass(frozen=True)
class SegmentPlan:
    """How images are divided.

    Attributes:
        logit_scale: of cosines before the softmax; that of the encoder.
        image_size: side to which an image is brought where no windows slide, pixels.
        multiple: side of a patch, pixels.
        background: None: every pixel gets a text.
        sliding: None: the whole image at once.
        upsample: see :data:`~raytrain_xai.insight.upsample.Upsample`.
    """

    logit_scale: float
    image_size: int
    multiple: int
    background: Background | None = None
    sliding: Sliding | None = None
    upsample: Upsample = bilinear


@dataclass(frozen=True)
class _Seen:
    """A window: its area of the images, what the encoder saw of it, and the pixels its patches span."""

    area: Area
    images: Tensor
    view: PatchView
    canvas: tuple[int, int]


@torch.no_grad()
def segment(
    model: InsightModel, images: Tensor, label_vectors: Tensor, *, background: Background | None = None,
    sliding: Sliding | None = None, upsample: Upsample = bilinear,
) -> Segmentation:  # fmt: skip
    """Divide images among texts, by their concepts.

    Args:
        model: encoder and concepts.
        images: (B, 3, H, W) uint8 RGB.
        label_vectors: (C, D) float, unit text vectors (:func:`~raytrain_xai.language.prompts.embed_terms`).
        background, sliding, upsample: see :class:`SegmentPlan`.
    Raises:
        DataError: images or vectors of another shape, or no vectors.
        ConfigError: a foreground mask from an encoder that finds none.
    """
    encoder = model.encoder
    size = model.config.image_size or encoder.image_size
    plan = SegmentPlan(encoder.logit_scale, size, encoder.multiple, background, sliding, upsample)
    see = see_concepts(model, with_foreground=isinstance(background, ForegroundMask))
    return segment_views(see, images.to(encoder.device), label_vectors.to(encoder.device), plan, model=model)


@torch.no_grad()
def segment_views(
    see: See, images: Tensor, label_vectors: Tensor, plan: SegmentPlan, *, model: InsightModel | None = None
) -> Segmentation:
    """:func:`segment` of whatever sees patches.

    Args:
        see: (B, 3, H', W') uint8 -> patches, with foreground where ``plan`` needs it.
        model: whose concepts the patches are made of; None gives no segments.
    """
    _check(images, label_vectors)
    images = images.to(label_vectors.device)
    height, width = images.shape[-2:]
    num_labels = len(label_vectors)
    rivals = plan.background.vectors if isinstance(plan.background, WordBackground) else label_vectors[:0]
    texts = torch.cat([label_vectors, rivals.to(label_vectors)])
    num_rivals = len(rivals) + isinstance(plan.background, ConstantBackground)
    scores = label_vectors.new_zeros(len(images), num_labels, height, width)
    chance = label_vectors.new_zeros(len(images), num_labels + num_rivals, height, width)
    is_thing = label_vectors.new_zeros(len(images), 1, height, width)
    count = label_vectors.new_zeros(height, width)
    windows: list[_Seen] = []
    for area in areas_of(height, width, plan.sliding):
        seen = _look(see, images, area, plan)
        found = _to_pixels(seen, seen.view.cosines(texts).unflatten(2, seen.view.size), plan.upsample)
        area.of(scores).add_(found[:, :num_labels])
        area.of(chance).add_(_probabilities(found, plan))
        if seen.view.foreground is not None:
            area.of(is_thing).add_(
                _to_pixels(seen, seen.view.foreground.unflatten(1, seen.view.size)[:, None], plan.upsample)
            )
        area.of(count).add_(1)
        windows.append(seen)
    labels = _decide(chance / count, is_thing[:, 0] / count, num_labels, plan.background)
    scores /= count
    if model is None:
        return Segmentation(labels, scores, None)
    return Segmentation(labels, scores, _attribute(windows, labels, scores, count, label_vectors, plan, model))


def _look(see: See, images: Tensor, area: Area, plan: SegmentPlan) -> _Seen:
    part = area.of(images)
    shown = part if plan.sliding else resize_images(part, (plan.image_size, plan.image_size))
    view = see(shown)
    return _Seen(area, part, view, reach(shown.shape[-2:], view.size, plan.multiple, (area.height, area.width)))


def _to_pixels(seen: _Seen, maps: Tensor, upsample: Upsample, rows: Tensor | None = None) -> Tensor:
    """Maps (R, c, h, w) of a window, of some of its images -> (R, c, its height, its width)."""
    images = seen.images if rows is None else seen.images.index_select(0, rows)
    return upsample(images, maps, seen.canvas)[..., : seen.area.height, : seen.area.width]


def _probabilities(scores: Tensor, plan: SegmentPlan) -> Tensor:
    if isinstance(plan.background, ConstantBackground):
        scores = torch.cat([scores, torch.full_like(scores[:, :1], plan.background.score)], dim=1)
    return (plan.logit_scale * scores).softmax(dim=1)


def _decide(chance: Tensor, is_thing: Tensor, num_labels: int, background: Background | None) -> Tensor:
    """(B, C + rivals, H, W) probabilities and (B, H, W) foreground -> (B, H, W) int64, 0 background."""
    best, label = chance.max(dim=1)
    kept = label < num_labels
    if isinstance(background, ForegroundMask):
        kept &= (best >= background.confidence) | (is_thing > 0.5)
    return torch.where(kept, label + 1, 0)


def _attribute(
    windows: list[_Seen], labels: Tensor, scores: Tensor, count: Tensor, label_vectors: Tensor, plan: SegmentPlan,
    model: InsightModel,
) -> Segments:  # fmt: skip
    """Contributions to the mean scores of the segments: what pixels weigh is brought back to the patches."""
    num_images, num_labels = len(labels), len(label_vectors)
    cells = labels + torch.arange(num_images, device=labels.device)[:, None, None] * (num_labels + 1)
    sizes = torch.bincount(cells.flatten(), minlength=num_images * (num_labels + 1)).view(num_images, -1)[:, 1:]
    image, label = sizes.nonzero().unbind(dim=1)
    pixels = sizes[image, label]
    inside = labels[image] == (label + 1)[:, None, None]
    weights = inside / (count * pixels[:, None, None])  # (S, H, W)
    pooled, share = scores.new_zeros(len(image), model.sae.num_latents), scores.new_zeros(len(image))
    for seen in windows:
        shape = (len(image), 1, *seen.view.size)
        on_patches = transposed(
            lambda maps, seen=seen: _to_pixels(seen, maps, plan.upsample, image), shape, seen.area.of(weights)[:, None]
        )
        on_patches = on_patches.flatten(1) * seen.view.inverse_length[image]
        assert seen.view.code is not None  # ``model`` came with a ``see`` of its concepts
        pooled += pool_code(seen.view.code.rows(image), on_patches)
        share += on_patches.sum(dim=1)
    score = (scores[image, label] * inside).sum(dim=(1, 2)) / pixels
    texts = label_vectors[label]
    found = attribute(pooled, share, texts, dictionary=model.sae.dictionary, bias=model.sae.decoder_bias)
    return Segments(image, label, pixels, score, found)


def _check(images: Tensor, label_vectors: Tensor) -> None:
    if images.dim() != 4 or images.shape[1] != 3 or images.dtype != torch.uint8:
        raise DataError(f"images have shape {tuple(images.shape)} and type {images.dtype}; expected (B, 3, H, W) uint8")
    if label_vectors.dim() != 2 or not len(label_vectors):
        raise DataError(f"text vectors have shape {tuple(label_vectors.shape)}; expected (C, D) with one or more texts")
