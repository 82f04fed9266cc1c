"""Zero-shot classification: how much an image is like each of some texts, and by which concepts.

The score of an image for a text is the mean cosine of its patches with the text in which patches that match count more:
s = Σ_p a_p cos(x_p, t) with a = softmax(β cos). The weights a look at all concepts; given them, the score is the exact
sum of what every concept adds (:mod:`.contributions`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain_xai.align.pooling import TEMPERATURE, attention_scores
from raytrain_xai.data.transforms import resize_images
from raytrain_xai.errors import ConfigError
from raytrain_xai.insight.contributions import Contributions, PatchView, attribute, pool_code
from raytrain_xai.insight.model import InsightModel
from raytrain_xai.insight.views import see_concepts


@dataclass(frozen=True)
class Classification:
    """Scores of B images for C texts, and what n of them are made of.

    Attributes:
        scores: (B, C) float32 in [-1, 1].
        probabilities: (B, C) float32, softmax over the texts of the scores times the encoder's scale.
        top: (B, n) int64, the texts with the largest scores, largest first.
        contributions: to the scores of ``top``, R = B n, image by image.
        maps: (B, n, h, w) float32, cosines of the patches with the texts of ``top``.
    """

    scores: Tensor
    probabilities: Tensor
    top: Tensor
    contributions: Contributions
    maps: Tensor


@torch.no_grad()
def classify(
    model: InsightModel, images: Tensor, label_vectors: Tensor, *, top: int = 1, sharpness: float = TEMPERATURE
) -> Classification:
    """Compare images with texts, by their concepts.

    Args:
        model: encoder and concepts.
        images: (B, 3, H, W) uint8 RGB, brought to the square side that the model was trained on.
        label_vectors: (C, D) float, unit text vectors.
        top: texts of each image whose scores are taken apart, at most all.
        sharpness: β; 0 is the mean over patches, infinity would be the best patch.
    Raises:
        DataError: no such images, or text vectors of another encoder.
        ConfigError: a negative sharpness, or fewer than one text.
    """
    if sharpness < 0 or top < 1:
        raise ConfigError(f"sharpness must be 0 or more and top at least 1, got {sharpness} and {top}")
    encoder = model.encoder
    side = model.config.image_size or encoder.image_size
    view = see_concepts(model)(resize_images(images.to(encoder.device), (side, side)))
    texts = label_vectors.to(encoder.device)
    cosines = view.cosines(texts)
    scores = attention_scores(cosines.unflatten(2, view.size), sharpness)
    chosen = scores.topk(min(top, len(texts)), dim=1).indices
    own = cosines.gather(1, chosen[..., None].expand(-1, -1, cosines.shape[2]))
    return Classification(
        scores,
        (encoder.logit_scale * scores).softmax(dim=1),
        chosen,
        _attribute(model, view, own, texts[chosen], sharpness),
        own.unflatten(2, view.size),
    )


def _attribute(model: InsightModel, view: PatchView, own: Tensor, texts: Tensor, sharpness: float) -> Contributions:
    """Contributions to B n scores: cosines ``own`` (B, n, P) with texts (B, n, D)."""
    num_images, num_texts, _ = own.shape
    rows = torch.arange(num_images, device=own.device).repeat_interleave(num_texts)
    weights = (sharpness * own).softmax(dim=2).flatten(0, 1) * view.inverse_length[rows]
    assert view.code is not None  # of see_concepts
    pooled = pool_code(view.code.rows(rows), weights)
    sae = model.sae
    return attribute(pooled, weights.sum(dim=1), texts.flatten(0, 1), dictionary=sae.dictionary, bias=sae.decoder_bias)
