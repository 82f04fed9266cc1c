"""What a concept layer keeps of a network, against definitions written out on a small net."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raytrain_xai.concepts.fidelity import (
    FidelitySums,
    fidelity_sums,
    frequency_histogram,
    summarise_fidelity,
)
from raytrain_xai.concepts.layer import ConceptLayer
from raytrain_xai.concepts.sae import TopKSae
from raytrain_xai.concepts.trace import concept_pass
from raytrain_xai.models.bcos_layers import logit_bias
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network

TAP, K, ACTIVE = "Mid3", 24, 3


@pytest.fixture(scope="module")
def subject() -> tuple[Network, ConceptLayer, Tensor]:
    torch.manual_seed(0)
    network = build_network("bcos_resnet_tiny", 4, weights=None).double().eval()
    images = torch.rand(5, 3, 32, 32, dtype=torch.float64)
    dim = network.features(images, TAP).shape[1]
    sae = TopKSae(dim, K, ACTIVE).double()
    with torch.no_grad():
        sae.encoder[:4] = 0  # latents that never fire
    return network, ConceptLayer(sae), images


def test_sums_are_those_of_the_definitions(subject: tuple[Network, ConceptLayer, Tensor]) -> None:
    network, layer, images = subject
    found = summarise_fidelity(fidelity_sums(network, layer, TAP, images))
    with torch.no_grad():
        features = network.features(images, TAP)
    vectors = features.movedim(1, -1).flatten(0, 2)  # (N, D)
    dense = torch.zeros(len(vectors), K, dtype=torch.float64)
    for row, vector in enumerate(vectors):
        products = (layer.sae.encoder.detach() @ vector).clamp(min=0)
        kept = products.sort(descending=True).indices[:ACTIVE]
        dense[row, kept] = products[kept]
    error = (dense @ layer.sae.dictionary.detach() - vectors).square().sum()
    spread = (vectors - vectors.mean(dim=0)).square().sum()
    active = dense > 0
    per_image = active.view(len(images), -1, K).any(dim=1).sum(dim=1).double()
    expected = {
        "variance_explained": 1 - float(error / spread),
        "l0": float(active.sum() / len(vectors)),
        "image_l0": float(per_image.mean()),
        "dead": float((~active.any(dim=0)).sum()),
        "always_on": float((active.double().mean(dim=0) > 0.6).sum()),
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-12)
    assert expected["dead"] >= 4


def test_carriers_by_adding_up_contributions_one_by_one(subject: tuple[Network, ConceptLayer, Tensor]) -> None:
    network, layer, images = subject
    found = summarise_fidelity(fidelity_sums(network, layer, TAP, images))
    with torch.no_grad():
        passed = concept_pass(network, {TAP: layer}, images)
        target = passed.logits.argmax(dim=1)
        gradient = passed.code_gradient_of_logit(TAP, target)
    code, counts = passed.at(TAP).code, []
    for b in range(len(images)):
        contribution = [0.0] * K
        for place in range(code.values.shape[1]):
            for j in range(ACTIVE):
                contribution[int(code.indices[b, place, j])] += float(gradient[b, place, j] * code.values[b, place, j])
        assert sum(contribution) + logit_bias(network.net) == pytest.approx(float(passed.logits[b, target[b]]))
        positive = sorted((value for value in contribution if value > 0), reverse=True)
        counts.append(next(n for n in range(1, K) if sum(positive[:n]) >= 0.8 * sum(positive)))
    assert found["carriers"] == pytest.approx(sum(counts) / len(counts))
    assert len(set(counts)) > 1, "else a constant would do"
    assert found["residual"] < 1e-12


def test_any_division_of_the_images_gives_the_same_numbers(subject: tuple[Network, ConceptLayer, Tensor]) -> None:
    network, layer, images = subject
    together = fidelity_sums(network, layer, TAP, images)
    empty = FidelitySums.empty(layer.sae.dim, K, torch.device("cpu"))
    parts = [fidelity_sums(network, layer, TAP, part) for part in images.split([1, 3, 1])]
    merged = FidelitySums.from_tensors(empty.merge(*parts).to_tensors())
    assert summarise_fidelity(merged) == pytest.approx(summarise_fidelity(together), rel=1e-9, abs=1e-12)


def test_histogram_by_hand() -> None:
    """1000 positions; latents at shares 1, .5, .1, .001 and one that is never active. Two bins: [.01, .1], (.1, 1]."""
    found = frequency_histogram(torch.tensor([1000, 500, 100, 1, 0]), 1000, bins_per_decade=1, decades=2)
    assert found["edges"] == pytest.approx([0.01, 0.1, 1.0])
    assert found["counts"] == [2.0, 2.0]  # .1 belongs to the lower bin, .001 is below all
