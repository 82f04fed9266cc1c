"""Names for the concepts of a described run, from vocabularies, and where they are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raytrain_xai.concept_runs.names import propose
from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.naming import (
    NearestTerms,
    Variant,
    concept_vectors,
    mean_codes,
    nearest_terms,
    prefer_general,
)
from raytrain_xai.concepts.relations import FAMILY, implications
from raytrain_xai.errors import ConfigError
from raytrain_xai.insight.described import Described, description_of
from raytrain_xai.insight.model import InsightModel
from raytrain_xai.language.prompts import embed_terms, find_family
from raytrain_xai.language.text_cache import TextCache
from raytrain_xai.language.vocabulary import Vocabulary
from raytrain_xai.run_folder import write_json
from raytrain_xai.storage import Location

NAMING = "naming.json"  # in the folder of the description: all candidates with their scores
PER_VOCABULARY = 6  # terms kept for each concept; Insight / CFM, 2026
_COMPETING = 16  # terms of a vocabulary that may become the name


@dataclass(frozen=True)
class NamingRule:
    """How concepts get their names.

    Attributes:
        variant: see :mod:`raytrain_xai.concepts.naming`.
        families: template families, the best of which counts for each term. Insight / CFM, 2026 takes noun, adjective
            and verb; with the embedded encoder the seven plain templates name as well, for a quarter of the texts.
        closeness: a more general term is preferred when its score is at least this part of the best one; 1 takes the
            best score alone, as published.
    """

    variant: Variant = "whole"
    families: tuple[str, ...] = ("plain",)
    closeness: float = 0.9

    def __post_init__(self) -> None:
        for name in self.families:
            find_family(name)
        if not self.families or not 0 < self.closeness <= 1:
            raise ConfigError(
                f"naming needs one or more template families and a closeness in (0, 1], got {list(self.families)} and "
                f"{self.closeness:g}"
            )


@dataclass(frozen=True)
class Naming:
    """Terms of concepts; those that were never active have none.

    Attributes:
        rule: that they were found by.
        vocabularies: name -> SHA-256 of the terms.
        candidates: concept -> vocabulary -> up to six (term, cosine), the best first.
        names: concept -> the one name, with its cosine.
    """

    rule: NamingRule
    vocabularies: Mapping[str, str]
    candidates: Mapping[int, Mapping[str, Sequence[tuple[str, float]]]]
    names: Mapping[int, tuple[str, float]]


@torch.no_grad()
def name_concepts(
    model: InsightModel, described: Described, top: SparseCode, vocabularies: Sequence[Vocabulary], *,
    rule: NamingRule, cache: TextCache | None = None,
) -> Naming:  # fmt: skip
    """Name every concept that was ever active.

    Args:
        model: encoder and concepts.
        described: what is known of them from images.
        top: (K, T, k), codes of the strongest tokens of each.
        vocabularies: one or more; a term of several counts once for the name.
        rule: how.
        cache: of text vectors.
    Raises:
        ConfigError: no vocabulary, two of one name, or a description of another checkpoint.
    """
    if described.subject.fingerprint != model.fingerprint:
        raise ConfigError(
            f"{model.origin} was described with another checkpoint or encoder; describe it again, with the checkpoint "
            "that is to be named"
        )
    names = [vocabulary.name for vocabulary in vocabularies]
    if not vocabularies or len(set(names)) < len(names):
        raise ConfigError(f"expected one or more vocabularies of different names, got {names}; rename one of the files")
    sae = model.sae
    seen, device = described.sums.seen, model.encoder.device
    codes = mean_codes(SparseCode(top.values.to(device), top.indices.to(device), top.num_latents))
    family = implications(seen, FAMILY)
    vectors = concept_vectors(sae.dictionary, sae.decoder_bias, codes, family, variant=rule.variant)
    texts = {vocabulary.name: _texts(model, vocabulary, rule, cache) for vocabulary in vocabularies}
    found = [nearest_terms(vectors, texts[name], _COMPETING) for name in names]
    chosen = _choose([texts[name][0] for name in names], found, rule.closeness)
    terms = [term for vocabulary in vocabularies for term in vocabulary.terms]
    alive = (vectors != 0).any(dim=1).nonzero().flatten().tolist()
    best = zip(chosen.terms[:, 0].tolist(), chosen.scores[:, 0].tolist(), strict=True)
    named = [(terms[term], score) for term, score in best]
    return Naming(
        rule=rule,
        vocabularies={vocabulary.name: vocabulary.sha256 for vocabulary in vocabularies},
        candidates=_candidates(alive, vocabularies, found),
        names={concept: named[concept] for concept in alive},
    )


def write_naming(run: Location, naming: Naming) -> None:
    """Propose the names for the concepts of a run, and keep all candidates beside its description.

    Names that people gave stay.

    Args:
        run: folder of the concept run.
        naming: what was found.
    """
    content: dict[str, Any] = {
        "variant": naming.rule.variant, "templates": list(naming.rule.families), "closeness": naming.rule.closeness,
        "vocabularies": dict(naming.vocabularies),
        "concepts": {
            str(concept): {
                "name": name, "score": round(score, 4),
                "candidates": {
                    vocabulary: [[term, round(value, 4)] for term, value in terms]
                    for vocabulary, terms in naming.candidates[concept].items()
                },
            }
            for concept, (name, score) in naming.names.items()
        },
    }  # fmt: skip
    write_json(description_of(run).child(NAMING), content)
    propose(run, {concept: name for concept, (name, _) in naming.names.items()})


def _texts(model: InsightModel, vocabulary: Vocabulary, rule: NamingRule, cache: TextCache | None) -> list[Tensor]:
    return [embed_terms(model.encoder, vocabulary.terms, find_family(name), cache=cache) for name in rule.families]


def _choose(texts: Sequence[Tensor], found: Sequence[NearestTerms], closeness: float) -> NearestTerms:
    """Terms of all vocabularies, numbered through, the one that gives the name first."""
    starts = [0, *torch.tensor([len(part) for part in texts]).cumsum(0).tolist()]
    scores = torch.cat([nearest.scores for nearest in found], dim=1)
    terms = torch.cat([nearest.terms + start for nearest, start in zip(found, starts, strict=False)], dim=1)
    order = scores.argsort(dim=1, descending=True, stable=True)[:, :_COMPETING]
    return prefer_general(
        NearestTerms(scores.gather(1, order), terms.gather(1, order)), torch.cat(list(texts)), closeness
    )


def _candidates(
    alive: Sequence[int], vocabularies: Sequence[Vocabulary], found: Sequence[NearestTerms]
) -> dict[int, dict[str, list[tuple[str, float]]]]:
    tables = [
        (vocabulary, nearest.terms[:, :PER_VOCABULARY].tolist(), nearest.scores[:, :PER_VOCABULARY].tolist())
        for vocabulary, nearest in zip(vocabularies, found, strict=True)
    ]
    return {
        concept: {
            vocabulary.name: [
                (vocabulary.terms[term], score) for term, score in zip(terms[concept], scores[concept], strict=True)
            ]
            for vocabulary, terms, scores in tables
        }
        for concept in alive
    }
