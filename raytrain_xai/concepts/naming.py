"""What a concept of a language-aligned encoder is called: the term whose text vector lies nearest to it.

The vector of a concept is what the decoder makes of a code. Which code is the variant; all but the first are those of
Insight / CFM, 2026:

============  =========================================================================================================
``whole``     the mean code of the concept's strongest tokens, as it is: the mean of their reconstructions. Ours: with
              the embedded encoder, k 20, it names 69 % of the concepts that point at one class so, ``weighted`` 38 %
``weighted``  the mean code of the concept's strongest tokens, of which its family is kept: the concept itself and each
              concept j that it implies, weighted by P(j|i), which is above 0.75 in a family; see
              :mod:`raytrain_xai.concepts.relations`
``family``    the same without the weights
``own``       of that code the concept alone
``row``       no code: the row of the dictionary, without the decoder bias
============  =========================================================================================================

K concepts, D dims of the vectors, V terms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.relations import Implications
from raytrain_xai.errors import ConfigError

Variant = Literal["whole", "weighted", "family", "own", "row"]
GAIN = 1.33  # length of a code over the mean length of the mean codes, so that the decoder bias counts for less
SCORES_AT_ONCE = 2**24  # cosines held at a time: 64 MiB of float32


@dataclass(frozen=True)
class NearestTerms:
    """The terms that lie nearest to each concept, best first.

    Attributes:
        scores: (K, n) float32, cosines; of the best template family of the term where there are several.
        terms: (K, n) int64, in [0, V).
    """

    scores: Tensor
    terms: Tensor


def mean_codes(top: SparseCode) -> SparseCode:
    """Mean code of the strongest tokens of each concept.

    Args:
        top: (K, T, k), codes of T tokens for each concept; a token without any active latent is none and does not
            count, so concepts may have fewer.
    Returns:
        (K, T·k) with each latent of a row in one place; the code of a concept without tokens is empty.
    """
    num_concepts = top.values.shape[0]
    count = (top.values > 0).any(dim=-1).sum(dim=1).clamp(min=1)  # (K,)
    order = top.indices.flatten(1).sort(dim=1, stable=True)
    values = top.values.flatten(1).gather(1, order.indices) / count[:, None]
    is_first = functional.pad(order.values[:, 1:] != order.values[:, :-1], (1, 0), value=True)
    place = is_first.cumsum(dim=1) - 1
    sums = torch.zeros_like(values).scatter_add_(1, place, values)
    latents = torch.zeros_like(order.values).scatter_(1, place, order.values)
    return SparseCode(sums, latents.view(num_concepts, -1), top.num_latents)


def concept_vectors(
    dictionary: Tensor, bias: Tensor, codes: SparseCode, family: Implications, *, variant: Variant
) -> Tensor:
    """Unit vectors of the concepts in the space of the texts.

    q_i = w_i ⊙ mean code of i, scaled to 1.33 times the mean length of the mean codes (not scaled as a ``whole``); the
    vector is unit(b + q_i V).
    That mean is taken over the concepts that have tokens; the published one counts dead concepts as 0, so that it
    depends on how many there are.

    Args:
        dictionary: (K, D).
        bias: (D,), of the decoder.
        codes: of :func:`mean_codes`, (K, m).
        family: the concepts j that each concept i implies, without itself.
        variant: see the table above.
    Returns:
        (K, D) float32; 0 for a concept without tokens, whatever the variant: what was never active has no name.
    Raises:
        ConfigError: a code of a dictionary of another size, or an unknown variant.
    """
    num_concepts = dictionary.shape[0]
    if codes.num_latents != num_concepts or codes.values.shape[0] != num_concepts:
        raise ConfigError(
            f"the strongest tokens are of a dictionary of {codes.num_latents} concepts, this one has {num_concepts}; "
            "describe the run anew"
        )
    is_alive = (codes.values > 0).any(dim=1)
    if variant == "row":
        return functional.normalize(dictionary.float(), dim=1) * is_alive[:, None]
    q = codes.values
    if variant != "whole":
        length = GAIN * codes.values.norm(dim=1).sum() / is_alive.sum().clamp(min=1)
        q = functional.normalize(q * _family_weights(codes, family, variant), dim=1) * length
    decoded = functional.embedding_bag(codes.indices, dictionary, per_sample_weights=q.to(dictionary.dtype), mode="sum")
    return functional.normalize(decoded.float() + bias, dim=1) * is_alive[:, None]


def nearest_terms(vectors: Tensor, texts: Sequence[Tensor], count: int) -> NearestTerms:
    """The best terms of every concept by cosine, over part of the terms at a time.

    Args:
        vectors: (K, D), unit length or 0.
        texts: for each template family (V, D) of unit length; the best family of a term counts.
        count: n >= 1; at most V come back.
    Returns:
        Cosines and terms, equal ones in any order.
    Raises:
        ConfigError: texts of another width.
    """
    _check_width(vectors, texts)
    scores, terms = vectors.new_empty(len(vectors), 0), torch.empty(len(vectors), 0, dtype=torch.int64)
    terms = terms.to(vectors.device)
    for start, block in _score_blocks(vectors, texts):
        found = torch.arange(start, start + block.shape[1], device=vectors.device).expand(len(vectors), -1)
        scores, terms = torch.cat([scores, block], dim=1), torch.cat([terms, found], dim=1)
        kept = scores.topk(min(count, scores.shape[1]), dim=1)
        scores, terms = kept.values, terms.gather(1, kept.indices)
    return NearestTerms(scores, terms)


def prefer_general(nearest: NearestTerms, texts: Tensor, closeness: float) -> NearestTerms:
    """Put the most general of the terms first that score about as well as the best and mean much the same.

    A term competes when its score is at least ``closeness`` times the best one, and its text vector is nearer to that
    of the best term than to the concept: "cat" may take over from "Siamese cat", an unrelated word that happens to
    score as much may not. (The text vectors of CLIP are all near to each other, so that there the scores alone decide.)
    Of those that compete, the one with the largest :func:`generality` comes first.

    Ours: the published name is the best score alone, and where names of breeds and of dogs are in one vocabulary, a
    breed wins nearly always, often the wrong one.

    Args:
        nearest: best first.
        texts: (V, D) of unit length, of one template family.
        closeness: in (0, 1]; 1 changes nothing but the order of ties. A best score below 0 stays.
    Returns:
        The same terms; those that compete by generality, then the others as they were.
    """
    found, place = nearest.terms.unique(return_inverse=True)
    rank = generality(texts[found], texts)[place].double() + 1
    likeness = torch.cat(
        [
            torch.einsum("knd,kd->kn", texts[terms], texts[terms[:, 0]])
            for terms in nearest.terms.split(max(1, SCORES_AT_ONCE // max(1, texts.shape[1] * nearest.terms.shape[1])))
        ]
    )
    is_close = nearest.scores >= nearest.scores[:, :1] * closeness
    order = torch.where(is_close & (likeness >= nearest.scores), rank, 0).argsort(dim=1, descending=True, stable=True)
    return NearestTerms(nearest.scores.gather(1, order), nearest.terms.gather(1, order))


def generality(terms: Tensor, texts: Tensor) -> Tensor:
    """How many words mean something like a term: mean of max(0, cosine)³ over the vocabulary, (m,) in [0, 1].

    "dog" lies near to all breeds, "Saluki" to few; the third power leaves little but such neighbours.

    Args:
        terms: (m, D) of unit length.
        texts: (V, D) of unit length.
    """
    total = terms.new_zeros(len(terms))
    for _, block in _score_blocks(terms, [texts]):
        total += block.clamp(min=0).pow(3).sum(dim=1)
    return total / len(texts)


def _score_blocks(vectors: Tensor, texts: Sequence[Tensor]) -> Iterator[tuple[int, Tensor]]:
    """Number of the first term of a block, and the cosines (K, terms of the block) of the best family."""
    step = max(1, SCORES_AT_ONCE // max(1, len(vectors)))
    for start in range(0, len(texts[0]), step):
        block = vectors @ texts[0][start : start + step].T
        for family in texts[1:]:
            block = torch.maximum(block, vectors @ family[start : start + step].T)
        yield start, block


def _check_width(vectors: Tensor, texts: Sequence[Tensor]) -> None:
    for family in texts:
        if family.shape[1] != vectors.shape[1]:
            raise ConfigError(
                f"the terms are vectors of {family.shape[1]} dims, the concepts of {vectors.shape[1]}; encode the "
                "vocabulary with the encoder that the concepts were trained on"
            )


def _family_weights(codes: SparseCode, family: Implications, variant: Variant) -> Tensor:
    """w_i of every place of the codes, (K, m) in [0, 1]."""
    num_concepts = codes.num_latents
    concept = torch.arange(num_concepts, device=codes.indices.device)[:, None]
    is_self = (codes.indices == concept).to(codes.values.dtype)
    match variant:
        case "own":
            return is_self
        case "family" | "weighted":
            share = _shares_at(codes.indices + concept * num_concepts, family).to(codes.values.dtype)
            return torch.maximum(is_self, share if variant == "weighted" else (share > 0).to(share.dtype))
        case _:
            raise ConfigError(f"no variant {variant!r} of naming; there are whole, weighted, family, own and row")


def _shares_at(keys: Tensor, family: Implications) -> Tensor:
    """P(j|i) at keys i·K + j, 0 where i does not imply j."""
    if not len(family.source):
        return torch.zeros(keys.shape, device=keys.device)
    known = (family.source * family.num_latents + family.target).to(keys.device)
    place = torch.searchsorted(known, keys).clamp(max=len(known) - 1)
    return torch.where(known[place] == keys, family.weight.to(keys.device)[place], 0)
