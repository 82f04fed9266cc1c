"""Sets of concepts at a tap: activations and the maps they come from, against traces, scikit-learn and scipy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from scipy.optimize import nnls
from sklearn.decomposition import PCA
from torch import Tensor
from torch.nn.functional import interpolate

from raytrain_xai.concept_runs.sources import Channels, LayerConcepts, TapView, fit_factors, view_at
from raytrain_xai.concepts.layer import ConceptLayer, to_vectors
from raytrain_xai.concepts.sae import TopKSae
from raytrain_xai.concepts.trace import activations, concept_maps, concept_pass
from raytrain_xai.errors import ConfigError
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network

TAP = "Mid2"


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def network() -> Network:
    torch.manual_seed(0)
    return build_network("bcos_resnet_tiny", 3).double().eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(0, 256, (4, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def view(network: Network, images: Tensor) -> TapView:
    return view_at(network, TAP, images)


def test_a_concept_layer_is_seen_as_it_is_traced(network: Network, images: Tensor, view: TapView) -> None:
    torch.manual_seed(0)
    layer = ConceptLayer(TopKSae(view.features.shape[1], 24, 3)).double()
    traced = concept_pass(network, {TAP: layer}, images)
    source = LayerConcepts(layer)
    seen = source(view)
    assert source.num_concepts == 24
    torch.testing.assert_close(seen.activation, activations(traced.at(TAP).code))
    rows, concept = (seen.activation > 0).nonzero(as_tuple=True)
    expected = concept_maps(traced, TAP, concept, rows).clamp(min=0)
    torch.testing.assert_close(seen.maps(concept, rows), expected)


def test_channels_are_explained_completely(network: Network, images: Tensor, view: TapView) -> None:
    """Pixel contributions of a channel and of its negative sum to its activation."""
    channels = Channels(view.features.shape[1])
    seen = channels(view)
    torch.testing.assert_close(seen.activation, network.features(images, TAP).sum(dim=(2, 3)))
    rows, concept = torch.tensor([0, 3, 3]), torch.tensor([5, 1, 7])
    negated = TapView(view.encoded, -view.features, lambda g, r: -view.walk(g, r))
    signed = seen.maps(concept, rows) - channels(negated).maps(concept, rows)
    torch.testing.assert_close(signed.sum(dim=(1, 2)), seen.activation[rows, concept])
    assert float(seen.maps(concept, rows).min()) == 0


def test_principal_directions_are_those_of_scikit_learn(view: TapView) -> None:
    """Both sides of a direction are concepts; their difference is the projection."""
    vectors = to_vectors(view.features).flatten(0, 1)
    factors = fit_factors("pca", vectors, 4)
    peer = PCA(4).fit(vectors.numpy())
    agreement = np.abs((factors.directions.numpy() * peer.components_).sum(axis=1))
    assert agreement == pytest.approx(np.ones(4), abs=1e-5)
    found = factors.coefficients(vectors)
    assert factors.num_concepts == found.shape[1] == 8
    assert float(found.min()) == 0
    signs = np.sign((factors.directions.numpy() * peer.components_).sum(axis=1))
    np.testing.assert_allclose(found[:, :4] - found[:, 4:], peer.transform(vectors.numpy()) * signs, atol=1e-4)


def test_non_negative_coefficients_are_least_squares() -> None:
    """At fixed factors the coefficients solve the non-negative least squares problem that scipy solves."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.rand(60, 3, generator=generator) @ torch.rand(3, 12, generator=generator)
    factors = fit_factors("nmf", vectors, 3)
    found = factors.coefficients(vectors[:5])
    expected = np.stack(
        [nnls(factors.directions.numpy().T.astype(float), v.numpy().astype(float))[0] for v in vectors[:5]]
    )
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-3 * expected.max())
    assert factors.num_concepts == 3
    assert float(factors.directions.min()) >= 0


def test_coefficient_maps_are_brought_to_the_image(view: TapView) -> None:
    factors = fit_factors("pca", to_vectors(view.features).flatten(0, 1), 2)
    seen = factors(view)
    grid = factors.coefficients(to_vectors(view.features).flatten(0, 1)).view(4, *view.features.shape[2:], 4)
    grid = grid.permute(0, 3, 1, 2)
    torch.testing.assert_close(seen.activation, grid.sum(dim=(2, 3)))
    expected = interpolate(grid[2, 3][None, None], size=(40, 40), mode="bilinear")[0]
    torch.testing.assert_close(seen.maps(torch.tensor([3]), torch.tensor([2])), expected)


@pytest.mark.parametrize("number", [0, 6])
def test_as_many_components_as_there_are(number: int) -> None:
    with pytest.raises(ConfigError, match="1 to 5 components"):
        fit_factors("pca", torch.randn(20, 5), number)


def test_nmf_of_features_without_positive_values() -> None:
    with pytest.raises(ConfigError, match="needs positive features"):
        fit_factors("nmf", -torch.rand(20, 5), 2)
