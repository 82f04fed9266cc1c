"""Concepts turned up, down or added, and what a caption makes of it.

Adding moves the vector of an image, v' = unit(v + α d) with d the direction of the concept in the dictionary. Scaling
changes the code, z_i := β z_i at all patches or at chosen ones, and everything after it: β = 0 takes the concept out,
and where it does not act nothing changes. Insight / CFM, 2026 names both; the report over a sweep is our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from raytrain_xai.captioning.corpus import text_vectors
from raytrain_xai.captioning.reading import CaptionDecoder
from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.errors import ConfigError
from raytrain_xai.insight.captions import check_dim, code_direction, whole_code
from raytrain_xai.insight.model import InsightModel


@dataclass(frozen=True)
class Steered:
    """What a caption says at one strength.

    Attributes:
        strength: α or β.
        text: the caption.
        gained: words that the caption without steering has not, in order.
        lost: words of the caption without steering that are gone, in order.
        image_score: cosine of the caption and the image as it is, in [-1, 1]: what the caption keeps of it.
        concept_score: cosine of the caption and the direction of the concept: what it says of that.
    """

    strength: float
    text: str
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    image_score: float
    concept_score: float


def find_concept(model: InsightModel, text: str) -> int:
    """A concept by its number or its name, letter case aside.

    Raises:
        ConfigError: none or several have it; lists those that come near.
    """
    if text.strip().isdecimal():
        _check_concept(int(text), model.sae.num_latents)
        return int(text)
    wanted = text.strip().casefold()
    same = [concept for concept, name in model.names.items() if name.casefold() == wanted]
    if len(same) == 1:
        return same[0]
    near = same or [concept for concept, name in model.names.items() if wanted and wanted in name.casefold()]
    found = ", ".join(f"{concept} ({model.names[concept]})" for concept in sorted(near)[:10]) or "none with such a name"
    raise ConfigError(
        f"{'several concepts are' if same else 'no concept is'} named {text!r}; give the number of one: {found}"
    )


def added(vectors: Tensor, direction: Tensor, strengths: Tensor) -> Tensor:
    """unit(v + α d): vectors (B, D) and direction (D,) of unit length, strengths α (A,) -> (A, B, D)."""
    return functional.normalize(vectors + strengths[:, None, None] * direction, dim=-1)


def scaled(code: SparseCode, concept: int, factor: float, where: Tensor | None = None) -> SparseCode:
    """The code with z_i := β z_i.

    Args:
        code: (B, P, k).
        concept: i.
        factor: β, >= 0.
        where: (B, P) bool, patches to change; None: all.
    Raises:
        ConfigError: no such concept, or a negative factor.
    """
    _check_concept(concept, code.num_latents)
    if factor < 0:
        raise ConfigError(f"a concept cannot be scaled by {factor}: strengths of concepts are not negative; take 0")
    is_changed = code.indices == concept
    if where is not None:
        is_changed = is_changed & where[..., None]
    return SparseCode(torch.where(is_changed, code.values * factor, code.values), code.indices, code.num_latents)


@torch.no_grad()
def sweep_added(
    model: InsightModel, decoder: CaptionDecoder, images: Tensor, concept: int, strengths: Sequence[float]
) -> list[list[Steered]]:
    """Captions of images with a concept added at several strengths.

    Args:
        images: (B, 3, H, W) uint8 RGB, of any size.
        concept: number in [0, K).
        strengths: α; negative ones take the direction away.
    Returns:
        For each image a list over strengths.
    Raises:
        ConfigError: no such concept, or the decoder of another space.
        DataError: no such images.
    """
    check_dim(model, decoder)
    _check_concept(concept, model.sae.num_latents)
    vectors = code_direction(model.sae, whole_code(model, images))
    direction = _direction(model, concept)
    moved = added(vectors, direction, vectors.new_tensor(strengths))
    return _report(model, decoder, vectors, moved, direction, strengths)


@torch.no_grad()
def sweep_scaled(
    model: InsightModel, decoder: CaptionDecoder, images: Tensor, concept: int, strengths: Sequence[float],
    *, where: Tensor | None = None,
) -> list[list[Steered]]:  # fmt: skip
    """Captions of images with a concept scaled by several factors β; see :func:`scaled` and :func:`sweep_added`."""
    check_dim(model, decoder)
    code = whole_code(model, images)
    moved = torch.stack([code_direction(model.sae, scaled(code, concept, beta, where)) for beta in strengths])
    vectors = code_direction(model.sae, code)
    return _report(model, decoder, vectors, moved, _direction(model, concept), strengths)


def _report(
    model: InsightModel, decoder: CaptionDecoder, vectors: Tensor, moved: Tensor, direction: Tensor,
    strengths: Sequence[float],
) -> list[list[Steered]]:  # fmt: skip
    """Captions of moved (A, B, D) against those of vectors (B, D); all are written and encoded in one pass."""
    num_images = len(vectors)
    every = torch.cat([vectors[None], moved]).flatten(0, 1)
    captions = decoder.write(every)
    texts = text_vectors(model.encoder, [decoder.text(words) for words in captions]).unflatten(0, (-1, num_images))
    image_scores, concept_scores = (texts * vectors).sum(dim=2).tolist(), (texts @ direction).tolist()
    steered: list[list[Steered]] = []
    for image in range(num_images):
        plain = captions[image]
        own = captions[num_images + image :: num_images]
        steered.append([
            Steered(
                strength, decoder.text(words), _missing(words, plain), _missing(plain, words),
                image_scores[step][image], concept_scores[step][image],
            )
            for step, (strength, words) in enumerate(zip(strengths, own, strict=True), start=1)
        ])  # fmt: skip
    return steered


def _missing(words: Sequence[str], others: Sequence[str]) -> tuple[str, ...]:
    """Words that are not among others, once each and without commas."""
    return tuple(dict.fromkeys(word for word in words if word not in others and word != ","))


def _direction(model: InsightModel, concept: int) -> Tensor:
    return functional.normalize(model.sae.dictionary[concept].detach(), dim=0)


def _check_concept(concept: int, num_concepts: int) -> None:
    if not 0 <= concept < num_concepts:
        raise ConfigError(f"no concept {concept}; they are numbered from 0 to {num_concepts - 1}")
