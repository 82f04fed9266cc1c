"""Exact identities of concept traces, and a network small enough to trace by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.layer import ConceptLayer, with_concepts
from raytrain_xai.concepts.sae import TopKSae
from raytrain_xai.concepts.trace import (
    activations,
    concept_maps,
    concept_pass,
    contributions,
    cross_layer,
    places_of,
    residual,
)
from raytrain_xai.errors import ConfigError
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network

Traced = tuple[Network, dict[str, ConceptLayer], Tensor]
EXACT = 1e-10  # relative, float64


@pytest.fixture(scope="module")
def squeezenet() -> Traced:
    """A trained network with concept layers at an early and a late tap, whose latents are its own feature vectors."""
    network = build_network("bcosified_squeezenet1_1", 18, weights="voc").double().eval()
    images = pictures(3, 96)
    return network, layers_of(network, images, {"Mid2": (96, 6), "features.11": (64, 4)}), images


@pytest.fixture(scope="module", params=["bcos_resnet_tiny", "bcos_densenet121", "bcos_convnext_atto_bnu"])
def network_of_kind(request: pytest.FixtureRequest) -> Traced:
    """Other architectures with random weights: identities do not depend on training."""
    torch.manual_seed(1)
    network = build_network(request.param, 4).double().eval()
    images = pictures(2, 64)
    return network, layers_of(network, images, {"Mid2": (48, 5), "Final": (24, 3)}), images


def pictures(number: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    coarse = torch.rand(number, 3, 6, 6, generator=generator)
    return (nn.functional.interpolate(coarse, size=(side, side), mode="bilinear") * 255).to(torch.uint8)


def layers_of(network: Network, images: Tensor, sizes: dict[str, tuple[int, int]]) -> dict[str, ConceptLayer]:
    """Dictionaries made of feature vectors that occur, so that codes are far from empty."""
    layers: dict[str, ConceptLayer] = {}
    for tap, (latents, k) in sizes.items():
        with torch.no_grad():
            vectors = network.features(images, tap).movedim(1, -1).flatten(0, 2)
        generator = torch.Generator().manual_seed(3)
        chosen = vectors[torch.randint(len(vectors), (latents,), generator=generator)]
        noise = torch.randn(chosen.shape, generator=generator, dtype=chosen.dtype)
        rows = nn.functional.normalize(nn.functional.normalize(chosen, dim=1) + 0.3 * noise / chosen.shape[1] ** 0.5)
        sae = TopKSae(chosen.shape[1], latents, k).double()
        sae.load_state_dict({"encoder": rows, "dictionary": rows})
        layers[tap] = ConceptLayer(sae).eval()
    return layers


def test_contributions_of_concepts_sum_to_the_logit_minus_its_bias(squeezenet: Traced) -> None:
    network, layers, images = squeezenet
    rows, target = torch.tensor([0, 1, 1, 2, 2]), torch.tensor([3, 0, 9, 17, 9])
    with torch.no_grad():
        passed = concept_pass(network, layers, images)
        for tap in layers:
            found = contributions(passed, tap, target, rows)
            scale = (passed.logits[rows, target] - passed.bias).abs()
            assert found.shape == (5, layers[tap].sae.num_latents)
            assert (residual(passed, found, target, rows) / scale).max() < EXACT


def test_identities_hold_for_other_architectures(network_of_kind: Traced) -> None:
    network, layers, images = network_of_kind
    target = torch.tensor([0, 3])
    with torch.no_grad():
        passed = concept_pass(network, layers, images)
        scale = (passed.logits.gather(1, target[:, None]).squeeze(1) - passed.bias).abs()
        assert (scale > 0).all()
        for tap in layers:
            found = contributions(passed, tap, target)
            assert (residual_of(passed.logits - passed.bias, found, target) / scale).max() < 1e-6  # bias dwarfs them
            total = activations(passed.at(tap).code)
            concept = total.argmax(1)
            pixels = concept_maps(passed, tap, concept).sum(dim=(1, 2))
            torch.testing.assert_close(pixels, total.gather(1, concept[:, None]).squeeze(1), rtol=EXACT, atol=0)


def residual_of(logits: Tensor, found: Tensor, target: Tensor) -> Tensor:
    return (found.sum(1) - logits.gather(1, target[:, None]).squeeze(1)).abs()


@pytest.mark.parametrize("tap", ["Mid2", "features.11"])
def test_pixels_of_a_concept_sum_to_its_activation(squeezenet: Traced, tap: str) -> None:
    network, layers, images = squeezenet
    with torch.no_grad():
        passed = concept_pass(network, layers, images)
        total = activations(passed.at(tap).code)
        rows = torch.arange(3).repeat_interleave(4)
        concept = total.topk(4, dim=1).indices.flatten()
        maps = concept_maps(passed, tap, concept, rows)
        assert maps.shape == (12, 96, 96)
        torch.testing.assert_close(maps.sum(dim=(1, 2)), total[rows, concept], rtol=EXACT, atol=0)


def test_early_concepts_sum_to_a_late_activation(squeezenet: Traced) -> None:
    network, layers, images = squeezenet
    with torch.no_grad():
        passed = concept_pass(network, layers, images)
        total = activations(passed.at("features.11").code)
        rows = torch.tensor([2, 0, 0])
        concept = total[rows].argmax(dim=1)
        early = cross_layer(passed, "features.11", concept, "Mid2", rows)
        assert early.shape == (3, 96)
        torch.testing.assert_close(early.sum(dim=1), total[rows, concept], rtol=EXACT, atol=0)


def test_logits_are_those_of_the_network_with_its_layers(squeezenet: Traced) -> None:
    network, layers, images = squeezenet
    with torch.no_grad():
        passed = concept_pass(network, layers, images)
        torch.testing.assert_close(with_concepts(network, layers)(images), passed.logits, rtol=EXACT, atol=0)
        swapped = dict(reversed(layers.items()))
        assert [layer.tap for layer in concept_pass(network, swapped, images).layers] == ["Mid2", "features.11"]


def test_the_walk_is_the_gradient_with_constant_scales() -> None:
    """Independent check by autograd: a linear network has no scales, so there the gradient is the whole truth."""
    torch.manual_seed(0)
    body, head = nn.Conv2d(6, 5, 3, padding=1, bias=False).double(), nn.Conv2d(5, 3, 1, bias=False).double()
    network = linear_network(body, head)
    layers = {"middle": ConceptLayer(TopKSae(5, 12, 3).double())}
    images = torch.rand(2, 3, 5, 4, dtype=torch.float64)
    with torch.no_grad():
        passed = concept_pass(network, layers, images)
        found = contributions(passed, "middle", torch.tensor([2, 0]))
        maps = concept_maps(passed, "middle", torch.tensor([4, 7]))
    sae = layers["middle"].sae
    x = network.encode(images).requires_grad_()
    dense = (body(x).movedim(1, -1) @ sae.encoder.T).relu()
    dense = dense * (dense >= dense.topk(3, dim=-1).values[..., -1:])
    logits = head((dense @ sae.dictionary).movedim(-1, 1)).mean(dim=(2, 3))
    (g,) = torch.autograd.grad(logits[0, 2] + logits[1, 0], dense, retain_graph=True)
    torch.testing.assert_close(found, (g * dense).sum(dim=(1, 2)))
    (w,) = torch.autograd.grad(dense[0, ..., 4].sum() + dense[1, ..., 7].sum(), x)
    torch.testing.assert_close(maps, (w * x).sum(dim=1))


def linear_network(body: nn.Module, head: nn.Module) -> Network:
    """Convolution, concepts, 1x1 convolution, mean: logits without bias."""
    from raytrain_xai.models.encoding import AddInverse

    pool, flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
    net = nn.Sequential(body, head, pool, flat)
    taps = {"Input": 0, "middle": 1}
    return Network(
        net, encode=AddInverse(), stages=list(net), taps=taps, name="linear", num_classes=3, is_bcos=True, head="1"
    ).eval()


def test_a_trace_worked_out_by_hand() -> None:
    """Two pixels, two features, two concepts: concept 0 is the first feature, concept 1 the second."""
    body, head = nn.Conv2d(6, 2, 1, bias=False), nn.Conv2d(2, 3, 1, bias=False)
    body.weight.data.zero_()
    body.weight.data[0, 0] = 1.0  # feature 0: red
    body.weight.data[1, 1] = 2.0  # feature 1: twice green
    head.weight.data.copy_(torch.tensor([[4.0, 1.0], [-2.0, 0.0], [0.0, 6.0]])[..., None, None])
    network = linear_network(body, head)
    sae = TopKSae(2, 2, k=1)
    sae.load_state_dict({"encoder": torch.eye(2), "dictionary": torch.eye(2)})
    images = torch.tensor([[[[1.0, 0.5]], [[0.25, 0.5]], [[0.0, 0.0]]]])  # pixel 0: red wins (1 > .5), pixel 1: green
    with torch.no_grad():
        passed = concept_pass(network, {"middle": ConceptLayer(sae)}, images)
        code = passed.at("middle").code
        torch.testing.assert_close(code.dense(), torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]))
        rows, target = torch.tensor([0, 0]), torch.tensor([0, 2])
        # the mean over two pixels halves everything: class 0 gets 4 · 1 / 2 from red, 1 · 1 / 2 from green
        torch.testing.assert_close(
            contributions(passed, "middle", target, rows), torch.tensor([[2.0, 0.5], [0.0, 3.0]])
        )
        torch.testing.assert_close(passed.logits, torch.tensor([[2.5, -1.0, 3.0]]))
        maps = concept_maps(passed, "middle", torch.tensor([1]))
        torch.testing.assert_close(maps, torch.tensor([[[0.0, 1.0]]]))


def test_unused_places_pass_nothing_on() -> None:
    code = SparseCode(torch.tensor([[[2.0, 0.0]]]), torch.tensor([[[1, 1]]]), 3)
    assert places_of(code, torch.tensor([1])).tolist() == [[[1.0, 0.0]]]
    assert code.dense().tolist() == [[[0.0, 2.0, 0.0]]]


def test_transformer_logits_are_exact_and_pixels_lack_the_position_code() -> None:
    torch.manual_seed(0)
    network = build_network("bcos_simple_vit_ti_patch16_224", 3).double().eval()
    images = pictures(1, 64)
    layers = layers_of(network, images, {"Final": (16, 3)})
    with torch.no_grad():
        passed = concept_pass(network, layers, images)
        target = passed.logits.argmax(1)
        found = contributions(passed, "Final", target)
        evidence = (passed.logits.max() - passed.bias).abs()
        assert (residual_of(passed.logits - passed.bias, found, target) / evidence).max() < 1e-6
        total = activations(passed.at("Final").code)
        concept = total.argmax(1)
        missing = total[0, concept] - concept_maps(passed, "Final", concept).sum(dim=(1, 2))
        assert missing.abs() > 1e-3 * total[0, concept]


def test_refusals(squeezenet: Traced) -> None:
    network, layers, images = squeezenet
    with torch.no_grad():
        passed = concept_pass(network, layers, images)
    with pytest.raises(ConfigError, match="there are concept layers at Mid2, features.11"):
        contributions(passed, "Final", torch.tensor([0, 0, 0]))
    with pytest.raises(ConfigError, match="does not lie below"):
        cross_layer(passed, "Mid2", torch.tensor([0, 0, 0]), "features.11")
    with pytest.raises(ConfigError, match="no concept layer given"):
        concept_pass(network, {}, images)
    with pytest.raises(ConfigError, match="its layers are Input"):
        concept_pass(network, {"Middle": layers["Mid2"]}, images)
    with pytest.raises(ConfigError, match="no B-cos network"):
        concept_pass(build_network("squeezenet1_1", 3), layers, images)


@pytest.mark.parametrize("order", [lambda taps: taps, lambda taps: list(reversed(taps))])
def test_taps_keep_their_values(squeezenet: Traced, order: Callable[[list[str]], list[str]]) -> None:
    network, layers, images = squeezenet
    plugged = with_concepts(network, {tap: layers[tap] for tap in order(list(layers))})
    with torch.no_grad():
        torch.testing.assert_close(plugged.features(images, "Mid2"), network.features(images, "Mid2"))
        behind = plugged.features(images, "features.11")
        passed = concept_pass(network, {"Mid2": layers["Mid2"]}, images)
        assert not torch.equal(behind, network.features(images, "features.11"))  # it sees early reconstructions
        rebuilt = layers["Mid2"].decode(passed.at("Mid2").code, passed.at("Mid2").size)
        depth, late = network.depth("Mid2"), network.depth("features.11")
        for stage in network.stages[depth:late]:
            rebuilt = stage(rebuilt)
        torch.testing.assert_close(behind, rebuilt, rtol=1e-9, atol=0)
