"""Captions from concepts, and which concepts speak for each word.

The vector of an image is the direction of the mean of its reconstructed patches, x̄ = b + Σ_k z̄_k v_k with z̄_k the mean
of concept k over the patches. A decoder writes a caption from x̄ / ‖x̄‖. Let ℓ(t) be the log-probability of a word where
all concepts act with the share t of their strength. Concept k contributes

    ∫₀¹ z̄_k ∂ℓ/∂z̄_k (t z̄) dt = ∫₀¹ z̄_k v_k·g(t) dt,    g = ∂ℓ/∂x̄,

so that all contributions sum to ℓ(1) - ℓ(0), what the concepts make of the word that the bias alone would say with
ℓ(0) (integrated gradients, Sundararajan et al., ICML 2017, arXiv 1703.01365). The integral is a sum over steps, and the
decoder is not linear: shares of concepts that speak for the same word depend on the path. The gradient at t = 1 alone
says next to nothing here, because a word that is certain has none. Our own design; Insight / CFM, 2026 has not released
its captioning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from raytrain_xai.captioning.reading import CaptionDecoder
from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.matryoshka import MatryoshkaSae
from raytrain_xai.data.transforms import resize_images
from raytrain_xai.errors import ConfigError
from raytrain_xai.insight.contributions import pool_code
from raytrain_xai.insight.model import InsightModel

NUM_STEPS = 128  # of the integral, whose error falls with their square


@dataclass(frozen=True)
class Share:
    """What one concept contributes to one word.

    Attributes:
        concept: its number.
        name: its name, or its number as a name.
        value: part of the natural logarithm of the word's probability, signed.
    """

    concept: int
    name: str
    value: float


@dataclass(frozen=True)
class Word:
    """One word of a caption.

    Attributes:
        text: the word.
        log_prob: natural logarithm of its probability given the image and the words before, <= 0.
        baseline: the same with no concept at all: what the contributions of all concepts start from.
        shares: of the concepts that contribute most, by size.
    """

    text: str
    log_prob: float
    baseline: float
    shares: tuple[Share, ...]


@dataclass(frozen=True)
class Caption:
    """Caption of one image.

    Attributes:
        text: in one line.
        words: with what speaks for each of them.
    """

    text: str
    words: tuple[Word, ...]


@dataclass(frozen=True)
class WordShares:
    """Contributions to the words of B captions of at most L words; see the head of this file.

    Attributes:
        log_probs: (B, L) float, <= 0; 0 beyond the end.
        baseline: (B, L) float, <= 0, the same where no concept acts.
        concept: (B, L, K) float, signed; 0 for a concept that does not act. Their sums and ``baseline`` add up to
            ``log_probs``, up to the error of the sum over steps.
    """

    log_probs: Tensor
    baseline: Tensor
    concept: Tensor


def caption_images(
    model: InsightModel, decoder: CaptionDecoder, images: Tensor, *, num_concepts: int = 5
) -> list[Caption]:
    """Captions of images with the concepts that contribute most to each word.

    Args:
        model: whose vectors the decoder reads.
        images: (B, 3, H, W) uint8 RGB, brought to the square side that the model was trained on.
        num_concepts: shares of a word, at most.
    Raises:
        ConfigError: the decoder reads vectors of another length.
        DataError: no such images.
    """
    check_dim(model, decoder)
    code = whole_code(model, images)
    captions = decoder.write(code_direction(model.sae, code))
    shares = word_shares(model.sae, decoder, code, captions)
    size = shares.concept.abs()
    top = size.topk(min(num_concepts, size.shape[2]), dim=2)
    values = shares.concept.gather(2, top.indices)
    numbers = zip(
        shares.log_probs.tolist(), shares.baseline.tolist(), top.indices.tolist(), values.tolist(), strict=True
    )
    return [
        Caption(decoder.text(words), _words(model, words, own)) for words, own in zip(captions, numbers, strict=True)
    ]


def whole_code(model: InsightModel, images: Tensor) -> SparseCode:
    """Code (B, P, k) of whole images (B, 3, H, W) uint8, brought to the square side that the model was trained on."""
    side = model.config.image_size or model.encoder.image_size
    return model.codes(resize_images(images.to(model.encoder.device), (side, side)))[0]


def check_dim(model: InsightModel, decoder: CaptionDecoder) -> None:
    """Make sure that a decoder can read the vectors of a model.

    Raises:
        ConfigError: their lengths differ.
    """
    if decoder.dim != model.sae.dim:
        raise ConfigError(
            f"the caption decoder reads vectors of {decoder.dim} dimensions, the concepts of {model.origin} have "
            f"{model.sae.dim}; train a decoder with `job: caption` and encoder: {model.config.encoder}"
        )


def code_direction(sae: MatryoshkaSae, code: SparseCode) -> Tensor:
    """Code (B, P, k) -> (B, D) of unit length: the direction of the mean of the patches it reconstructs."""
    return functional.normalize(_mean(sae, mean_strength(code)), dim=1)


def mean_strength(code: SparseCode) -> Tensor:
    """Code (B, P, k) -> (B, K), z̄: each concept's mean over patches."""
    num_images, num_patches = code.values.shape[:2]
    return pool_code(code, code.values.new_full((num_images, num_patches), 1 / num_patches))


def _mean(sae: MatryoshkaSae, strength: Tensor) -> Tensor:
    """x̄ = b + Σ_k z̄_k v_k: (B, K) -> (B, D)."""
    return torch.addmm(sae.decoder_bias, strength, sae.dictionary).detach()


def word_shares(
    sae: MatryoshkaSae, decoder: CaptionDecoder, code: SparseCode, captions: Sequence[Sequence[str]],
    *, steps: int = NUM_STEPS,
) -> WordShares:  # fmt: skip
    """What concepts contribute to the words of captions.

    One pass back for all words of a step: the vector of an image is repeated for each of its words, which then has a
    gradient of its own.

    Args:
        sae: of the code.
        code: (B, P, k).
        captions: words of B captions; they need not be those that the decoder would write.
        steps: of the integral, by the midpoint rule.
    """
    strength = mean_strength(code)
    mean, bias = _mean(sae, strength), sae.decoder_bias.detach()
    length = max(map(len, captions), default=0)
    if length == 0:
        none = mean.new_zeros(len(mean), 0)
        return WordShares(none, none, none[..., None].expand(-1, -1, sae.num_latents))
    gradient = mean.new_zeros(len(mean), length, sae.dim)
    for step in range(steps):
        gradient += _word_gradients(decoder, torch.lerp(bias, mean, (step + 0.5) / steps), captions, length)
    concept = (gradient / steps @ sae.dictionary.detach().T) * strength[:, None]
    with torch.no_grad():
        own, none = (decoder.log_probs(functional.normalize(x, dim=1), captions) for x in (mean, bias.expand_as(mean)))
    return WordShares(own, none, concept)


def _word_gradients(decoder: CaptionDecoder, means: Tensor, captions: Sequence[Sequence[str]], length: int) -> Tensor:
    """Gradient of the log-probability of every word: means (B, D) -> (B, L, D)."""
    with torch.enable_grad():
        copies = means.repeat_interleave(length, dim=0).requires_grad_()
        repeated = [words for words in captions for _ in range(length)]
        log_probs = decoder.log_probs(functional.normalize(copies, dim=1), repeated).unflatten(0, (-1, length))
        own = log_probs.diagonal(dim1=1, dim2=2)  # (B, L): word l of the copy that is there for it
        (gradient,) = torch.autograd.grad(own.sum(), copies)
    return gradient.unflatten(0, (-1, length))


def _words(
    model: InsightModel, words: Sequence[str],
    numbers: tuple[Sequence[float], Sequence[float], Sequence[Sequence[int]], Sequence[Sequence[float]]],
) -> tuple[Word, ...]:  # fmt: skip
    """Words with their log-probabilities, baselines, and concepts with their shares, without those that do not act."""
    return tuple(
        Word(
            text, log_prob, baseline,
            tuple(Share(k, model.name(k), value) for k, value in zip(own, parts, strict=True) if value != 0),
        )
        for text, log_prob, baseline, own, parts in zip(words, *numbers, strict=False)  # others are padding
    )  # fmt: skip
