"""Vectors of concepts, their nearest terms, and the preference for general ones."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from raytrain_xai.concepts import naming
from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.naming import (
    GAIN,
    Variant,
    concept_vectors,
    generality,
    mean_codes,
    nearest_terms,
    prefer_general,
)
from raytrain_xai.concepts.relations import Implications
from raytrain_xai.errors import ConfigError


def random_problem(seed: int) -> tuple[Tensor, Tensor, SparseCode, Tensor]:
    """Dictionary (20, 6), bias (6,), codes (20, 4, 3) with the concept itself active, shares (20, 20)."""
    draw = torch.Generator().manual_seed(seed)
    dictionary = functional.normalize(torch.randn(20, 6, generator=draw), dim=1)
    bias = 0.3 * torch.randn(6, generator=draw)
    order = torch.rand(20, 4, 20, generator=draw)
    order[torch.arange(20), :, torch.arange(20)] = 2  # the concept itself is among the active ones
    indices = order.argsort(dim=-1, descending=True)[..., :3]
    values = torch.rand(20, 4, 3, generator=draw) + 0.1
    values[7] = 0  # a concept that was never active
    values[3, 2:] = 0  # one that was active at two tokens
    values[5, 1, 2] = 0  # an unused place
    shares = torch.rand(20, 20, generator=draw)
    return dictionary, bias, SparseCode(values, indices, 20), shares.fill_diagonal_(1)


def family_of(shares: Tensor) -> Implications:
    """All pairs of different concepts above .75."""
    source, target = (shares.clone().fill_diagonal_(0) > 0.75).nonzero().T
    return Implications(source, target, shares[source, target].double(), len(shares))


def plain_vectors(dictionary: Tensor, bias: Tensor, top: SparseCode, shares: Tensor, variant: str) -> Tensor:
    """One concept after the other, with dense codes."""
    means = []
    for tokens in top.dense():
        active = [token for token in tokens if token.sum() > 0]
        means.append(sum(active) / len(active) if active else torch.zeros(20))
    typical = sum(float(mean.norm()) for mean in means) / sum(bool(mean.sum() > 0) for mean in means)
    vectors = torch.zeros(20, 6)
    for i, mean in enumerate(means):
        if mean.sum() == 0:
            continue
        q = torch.zeros(20)
        for j in range(20):
            if i == j:
                q[j] = mean[j]
            elif variant == "weighted" and shares[i, j] > 0.75:
                q[j] = mean[j] * shares[i, j]
            elif variant == "family" and shares[i, j] > 0.75:
                q[j] = mean[j]
        if variant == "whole":
            vector = bias + mean @ dictionary
        else:
            vector = dictionary[i] if variant == "row" else bias + (q / q.norm() * typical * 1.33) @ dictionary
        vectors[i] = vector / vector.norm()
    return vectors


def test_the_mean_code_counts_tokens_that_are_there() -> None:
    values = torch.tensor([[[2.0, 1.0], [4.0, 0.0], [0.0, 0.0]], [[0.0, 0.0]] * 3])
    indices = torch.tensor([[[0, 1], [0, 0], [1, 1]], [[0, 0]] * 3])
    means = mean_codes(SparseCode(values, indices, 2))
    assert torch.equal(means.dense(), torch.tensor([[3.0, 0.5], [0.0, 0.0]]))
    used = means.values[0] > 0
    assert sorted(means.indices[0][used].tolist()) == [0, 1]  # each latent in one place


@pytest.mark.parametrize("variant", ["whole", "weighted", "family", "own", "row"])
@pytest.mark.parametrize("seed", [0, 1])
def test_vectors_equal_the_plain_formulation(variant: Variant, seed: int) -> None:
    dictionary, bias, top, shares = random_problem(seed)
    found = concept_vectors(dictionary, bias, mean_codes(top), family_of(shares), variant=variant)
    torch.testing.assert_close(found, plain_vectors(dictionary, bias, top, shares, variant), atol=1e-6, rtol=0)


def test_weights_of_a_family_by_hand() -> None:
    """Two orthogonal rows, no bias: the angle of the vector shows the weight of the other concept."""
    values, indices = torch.tensor([[[3.0, 4.0]], [[0.0, 1.0]]]), torch.tensor([[[0, 1]], [[0, 1]]])
    codes = mean_codes(SparseCode(values, indices, 2))
    args = (torch.eye(2), torch.zeros(2), codes)
    close, none = family_of(torch.tensor([[1, 0.8], [0, 1]])), family_of(torch.eye(2))
    tangent = [
        concept_vectors(*args, family, variant=variant)[0]
        for variant, family in (("weighted", close), ("family", close), ("weighted", none), ("own", close))
    ]
    assert [float(v[1] / v[0]) for v in tangent] == pytest.approx([3.2 / 3, 4 / 3, 0, 0])


def test_the_bias_counts_against_the_typical_length() -> None:
    """Both codes have length 2, so q = 2.66 e_i; with a bias of 2.66 along the other row the vector lies between."""
    codes = mean_codes(SparseCode(torch.full((2, 1, 1), 2.0), torch.tensor([[[0]], [[1]]]), 2))
    bias = torch.tensor([0.0, 2 * GAIN])
    found = concept_vectors(torch.eye(2), bias, codes, family_of(torch.eye(2)), variant="own")
    torch.testing.assert_close(found, torch.tensor([[math.sqrt(0.5), math.sqrt(0.5)], [0.0, 1.0]]))


def test_codes_of_another_dictionary_are_refused() -> None:
    _, _, top, shares = random_problem(0)
    with pytest.raises(ConfigError, match="dictionary of 20 concepts, this one has 19"):
        concept_vectors(torch.eye(19), torch.zeros(19), mean_codes(top), family_of(shares), variant="own")


@pytest.mark.parametrize("at_once", [1, 90, 2**24])
def test_nearest_terms_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    draw = torch.Generator().manual_seed(3)
    vectors, nouns, verbs = (functional.normalize(torch.randn(n, 5, generator=draw), dim=1) for n in (9, 31, 31))
    monkeypatch.setattr(naming, "SCORES_AT_ONCE", at_once)
    found = nearest_terms(vectors, [nouns, verbs], 4)
    scores = [[max(float(v @ nouns[t]), float(v @ verbs[t])) for t in range(31)] for v in vectors]
    assert found.terms.tolist() == [sorted(range(31), key=lambda t, row=row: -row[t])[:4] for row in scores]
    torch.testing.assert_close(found.scores, torch.tensor([sorted(row, reverse=True)[:4] for row in scores]))
    wide = generality(nouns[:4], nouns)
    expected = [sum(max(0.0, float(a @ b)) ** 3 for b in nouns) / 31 for a in nouns[:4]]
    torch.testing.assert_close(wide, torch.tensor(expected))


def test_fewer_terms_than_asked_for() -> None:
    found = nearest_terms(torch.eye(2), [torch.eye(2)], 6)
    assert found.terms.tolist() == [[0, 1], [1, 0]]


def test_terms_of_another_encoder_are_refused() -> None:
    with pytest.raises(ConfigError, match="vectors of 3 dims, the concepts of 2; encode the vocabulary with"):
        nearest_terms(torch.eye(2), [torch.eye(3)], 1)


def test_general_terms_take_over_from_what_they_are_like() -> None:
    """On a plane: a breed at 10 degrees, "dog" at 20, "puppy" at 30 and "animal" at 40; the concept lies at 0."""
    angles = torch.tensor([10.0, 20.0, 30.0, 40.0, 90.0]).deg2rad()
    texts = torch.stack([angles.cos(), angles.sin()], dim=1)
    nearest = nearest_terms(torch.tensor([[1.0, 0.0]]), [texts], 5)
    assert nearest.terms.tolist() == [[0, 1, 2, 3, 4]]
    # mean cube of the cosines to all: .69, .76, .77 and .74 of the first four
    assert prefer_general(nearest, texts, 0.96).terms.tolist() == [[0, 1, 2, 3, 4]]  # .94 of the best is too little
    assert prefer_general(nearest, texts, 0.95).terms.tolist() == [[1, 0, 2, 3, 4]]
    assert prefer_general(nearest, texts, 0.85).terms.tolist() == [[2, 1, 0, 3, 4]]
    found = prefer_general(nearest, texts, 0.75)
    assert found.terms.tolist() == [[2, 1, 3, 0, 4]]
    torch.testing.assert_close(found.scores, nearest.scores[:, [2, 1, 3, 0, 4]])


def test_unrelated_terms_do_not_take_over() -> None:
    """Both score alike, one on either side of the concept, and are further from each other than from it."""
    texts = functional.normalize(torch.tensor([[1.0, 0.9], [1.0, -1.0], [1.0, -1.1], [1.0, -1.2]]), dim=1)
    nearest = nearest_terms(torch.tensor([[1.0, 0.0]]), [texts], 4)
    assert prefer_general(nearest, texts, 0.5).terms[0, 0] == 0
    assert generality(texts, texts).argmax() != 0


def test_scores_below_zero_stay_as_they_are() -> None:
    texts = torch.eye(3)
    nearest = nearest_terms(functional.normalize(torch.tensor([[-1.0, -2.0, -3.0]]), dim=1), [texts], 3)
    assert prefer_general(nearest, texts, 0.5).terms.tolist() == [[0, 1, 2]]
