"""Sentences that a word is put into before it is encoded, and the one vector that a term gets from them.

A text encoder was trained on sentences, and a single word leaves open what is meant. So a term is the mean of its
vectors over a family of templates (Radford et al. 2021, arXiv 2103.00020). Insight / CFM, 2026 names concepts with
three families, one for each word class; the sentences here are our own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from raytrain_xai.errors import ConfigError
from raytrain_xai.language.text_cache import TextCache

TEXTS_AT_ONCE = 1024  # handed to the text encoder in one call

FAMILIES: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "plain": (
        "{}",
        "a photo of a {}",
        "a picture of a {}",
        "a close-up of a {}",
        "a {} in the scene",
        "a photo of the {}",
        "many {}",
    ),
    "noun": (
        "a photo of a {}",
        "a picture that shows a {}",
        "an image with a {} in it",
        "a close view of a {}",
        "part of a {}",
        "a {} seen from near",
        "a {} seen from far",
        "there is a {} here",
        "some {}",
        "the {} in this photo",
    ),
    "adjective": (
        "a photo of something {}",
        "a picture of a {} thing",
        "an image in which something is {}",
        "a close view of a {} surface",
        "the {} part of the picture",
        "something that looks {}",
        "everything here is {}",
        "a {} object",
        "a {} scene",
        "it is {}",
    ),
    "verb": (
        "a photo of {}",
        "a picture of someone who is {}",
        "an image of something that is {}",
        "a close view of {}",
        "a person {}",
        "an animal {}",
        "people {} together",
        "the act of {}",
        "a scene with {}",
        "it shows {}",
    ),
    "imagenet": (
        "a photo of a {}.",
        "a photo of the {}.",
        "a photo of one {}.",
        "a photo of many {}.",
        "a photo of a large {}.",
        "a photo of a small {}.",
        "a photo of a clean {}.",
        "a photo of a dirty {}.",
        "a photo of an old {}.",
        "a photo of a new {}.",
        "a good photo of a {}.",
        "a poor photo of a {}.",
        "a sharp photo of a {}.",
        "a blurred photo of a {}.",
        "a bright photo of a {}.",
        "a dark photo of a {}.",
        "a grainy photo of a {}.",
        "a photo of a {} in black and white.",
        "a close-up of a {}.",
        "a cut-out of the {}.",
        "a {} behind something else.",
        "a {} in the distance.",
        "a {} in the middle of the picture.",
        "a {} at the edge of the picture.",
        "a {} indoors.",
        "a {} outdoors.",
        "a drawing of a {}.",
        "a painting of a {}.",
        "a toy {}.",
        "a sculpture of a {}.",
    ),
})  # fmt: skip
"""Families of templates, each with one {}: name -> templates."""


class TextSide(Protocol):
    """What is needed of a :class:`raytrain_xai.language.encoder.LanguageEncoder` here."""

    @property
    def fingerprint(self) -> str: ...

    @property
    def text_mean(self) -> Tensor: ...

    def text(self, texts: Sequence[str]) -> Tensor: ...


def find_family(name: str) -> tuple[str, ...]:
    """Templates of a family.

    Raises:
        ConfigError: no family of this name; lists those there are.
    """
    if name not in FAMILIES:
        raise ConfigError(f"no template family {name!r}; there are: {', '.join(FAMILIES)}")
    return FAMILIES[name]


def embed_terms(
    encoder: TextSide, terms: Sequence[str], templates: Sequence[str], *, cache: TextCache | None = None
) -> Tensor:
    """One vector for each term: unit(unit(mean of the text vectors over the templates) - text_mean).

    Args:
        encoder: of D dims; its ``text`` sees every term in every template.
        terms: M words or phrases, repeats allowed.
        templates: sentences with one {} each, as in :data:`FAMILIES`.
        cache: where vectors are looked up first and new ones are kept; None encodes all.
    Returns:
        (M, D) float32 of length 1 on the device of the encoder, to be compared with patch vectors by cosine.
    Raises:
        ConfigError: no term, an empty one, no template, or one without a single {}.
    """
    _check(terms, templates)
    if cache is None:
        vectors = _encode(encoder, terms, templates)
    else:
        vectors = cache.vectors(
            terms, of=(encoder.fingerprint, *templates), encode=lambda new: _encode(encoder, new, templates)
        )
    mean = encoder.text_mean
    return functional.normalize(vectors.to(mean.device) - mean, dim=1)


def _encode(encoder: TextSide, terms: Sequence[str], templates: Sequence[str]) -> Tensor:
    """(M, D): unit mean of the unit text vectors of each term, ``text_mean`` not taken off."""
    step = max(1, TEXTS_AT_ONCE // len(templates))
    means = [
        encoder.text([template.replace("{}", term) for term in terms[start : start + step] for template in templates])
        .unflatten(0, (-1, len(templates)))
        .mean(dim=1)
        for start in range(0, len(terms), step)
    ]
    return functional.normalize(torch.cat(means).float(), dim=1)


def _check(terms: Sequence[str], templates: Sequence[str]) -> None:
    if isinstance(templates, str) or not templates or any(template.count("{}") != 1 for template in templates):
        raise ConfigError(f"templates are sentences with one {{}} each, got {templates!r}; see FAMILIES for examples")
    if isinstance(terms, str) or not terms or not all(term.strip() for term in terms):
        raise ConfigError(f"expected one or more terms of at least one letter, got {terms!r}; give the names to encode")
