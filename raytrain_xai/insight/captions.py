"""Captions from concepts, and which concepts speak for each word.

The vector of an image is the direction of the mean of its reconstructed patches, x̄ = b + Σ_k z̄_k v_k with z̄_k the mean
of concept k over the patches. A decoder writes a caption from x̄ / ‖x̄‖. What concept k contributes to a word with
log-probability ℓ is

    z̄_k ∂ℓ/∂z̄_k = z̄_k v_k·g,    g = ∂ℓ/∂x̄,

the change of ℓ for a relative change of the concept everywhere in the image: exact for small changes (1 % more of the
concept changes ℓ by .01 of it), an approximation for leaving it out, since the decoder is not linear. As the decoder
reads a direction only, the contributions of all concepts and that of the bias, b·g, add up to 0, not to ℓ: what speaks
for a word speaks against the rest of the vector. Our own design; Insight / CFM, 2026 has not released its captioning.
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
from raytrain_xai.errors import ConfigError
from raytrain_xai.insight.contributions import pool_code
from raytrain_xai.insight.model import InsightModel
from raytrain_xai.insight.windows import resized


@dataclass(frozen=True)
class Share:
    """What one concept contributes to one word.

    Attributes:
        concept: its number.
        name: its name, or its number as a name.
        value: natural logarithm of a probability for a change by the factor e, signed.
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
        shares: of the concepts that contribute most, by size.
    """

    text: str
    log_prob: float
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
        concept: (B, L, K) float, signed; 0 for a concept that does not act.
        bias: (B, L) float, that of the decoder bias of the autoencoder.
    """

    log_probs: Tensor
    concept: Tensor
    bias: Tensor


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
    rows = zip(captions, shares.log_probs.tolist(), top.indices.tolist(), values.tolist(), strict=True)
    return [
        Caption(decoder.text(words), _words(model, words, log_probs, indices, contributions))
        for words, log_probs, indices, contributions in rows
    ]


def whole_code(model: InsightModel, images: Tensor) -> SparseCode:
    """Code (B, P, k) of whole images (B, 3, H, W) uint8, brought to the square side that the model was trained on."""
    side = model.config.image_size or model.encoder.image_size
    return model.codes(resized(images.to(model.encoder.device), (side, side)))[0]


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
    sae: MatryoshkaSae, decoder: CaptionDecoder, code: SparseCode, captions: Sequence[Sequence[str]]
) -> WordShares:
    """What concepts contribute to the words of captions.

    One pass back for all words: the vector of an image is repeated for each of its words, which then has a gradient of
    its own.

    Args:
        sae: of the code.
        code: (B, P, k).
        captions: words of B captions; they need not be those that the decoder would write.
    """
    strength = mean_strength(code)
    mean = _mean(sae, strength)
    length = max(map(len, captions), default=0)
    if length == 0:
        none = mean.new_zeros(len(mean), 0)
        return WordShares(none, none[..., None].expand(-1, -1, sae.num_latents), none)
    with torch.enable_grad():
        means = mean.repeat_interleave(length, dim=0).requires_grad_()
        repeated = [words for words in captions for _ in range(length)]
        log_probs = decoder.log_probs(functional.normalize(means, dim=1), repeated).unflatten(0, (-1, length))
        own = log_probs.diagonal(dim1=1, dim2=2)  # (B, L): word l of the copy that is there for it
        (gradient,) = torch.autograd.grad(own.sum(), means)
    gradient = gradient.unflatten(0, (-1, length))
    concept = (gradient @ sae.dictionary.detach().T) * strength[:, None]
    return WordShares(own.detach(), concept, gradient @ sae.decoder_bias.detach())


def _words(
    model: InsightModel, words: Sequence[str], log_probs: Sequence[float], indices: Sequence[Sequence[int]],
    values: Sequence[Sequence[float]],
) -> tuple[Word, ...]:  # fmt: skip
    """Values in Python; those of concepts that do not act are left out."""
    return tuple(
        Word(
            text, log_prob,
            tuple(Share(k, model.name(k), value) for k, value in zip(own, parts, strict=True) if value != 0),
        )
        for text, log_prob, own, parts in zip(words, log_probs, indices, values, strict=False)  # others are padding
    )  # fmt: skip
