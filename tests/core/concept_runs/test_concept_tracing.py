"""Traces: numbers worked out by hand, and sums that must hold on a network with two concept layers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import pytest
import torch
from torch import Tensor, nn

from raytrain_xai.concept_runs.model import ConceptModel
from raytrain_xai.concept_runs.traces import ClassTrace, TracedConcept
from raytrain_xai.concept_runs.tracing import BRANCHES, ConceptTracer
from raytrain_xai.concepts.layer import ConceptLayer
from raytrain_xai.concepts.sae import TopKSae
from raytrain_xai.concepts.trace import activations, concept_pass, contributions, cross_layer, places_of
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.explain import Explainer
from raytrain_xai.models.bcos_vit import PositionCode
from raytrain_xai.models.encoding import AddInverse
from raytrain_xai.models.linearise import linearise_chain
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network

CLASSES = ("cat", "dog", "horse")
SIZE = 32
EARLY, LATE = "Mid1", "Mid3"


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.no_grad():
        yield


def tracer_of(
    network: Network, layers: Mapping[str, ConceptLayer], size: int, classes: tuple[str, ...]
) -> ConceptTracer:
    explainer = Explainer(network, classes=classes, image_size=size, method="bcos", layer="Input")
    names = {tap: {} for tap in layers} | {next(iter(layers)): {1: "eye"}}
    return ConceptTracer(ConceptModel(explainer, layers, names, {}, {tap: f"runs/{tap}" for tap in layers}, "data"))


def layer_of(rows: Tensor, k: int) -> ConceptLayer:
    sae = TopKSae(rows.shape[1], len(rows), k).to(rows.dtype)
    sae.load_state_dict({"encoder": rows, "dictionary": rows})
    return ConceptLayer(sae).eval()


def point_wise(weight: list[list[float]]) -> nn.Conv2d:
    rows = torch.tensor(weight)
    convolution = nn.Conv2d(rows.shape[1], rows.shape[0], 1, bias=False)
    convolution.weight.data.copy_(rows[..., None, None])
    return convolution


def by_hand() -> ConceptTracer:
    """One pixel: early concepts (1, 2, 3), late (e0 + e1, 2·e1 - e2) = (3, 1), logits 2·l0 + 5·l1 and 4·l0 - l1."""
    net = nn.Sequential(
        point_wise([[1, 0, 0] * 2, [0, 2, 0] * 2, [0, 0, 3] * 2]),
        point_wise([[1, 1, 0], [0, 2, -1]]),
        point_wise([[2, 5], [4, -1]]),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    network = Network(
        net, encode=AddInverse(), stages=list(net), taps={"Input": 0, "early": 1, "late": 2}, name="linear",
        num_classes=2, is_bcos=True, head="2",
    ).eval()  # fmt: skip
    late = torch.cat([torch.eye(2), -torch.ones(1, 2)])  # concept 2 never acts
    return tracer_of(network, {"early": layer_of(torch.eye(3), 3), "late": layer_of(late, 3)}, 1, ("cat", "dog"))


def test_a_trace_by_hand() -> None:
    (trace,) = by_hand()(torch.randint(0, 256, (1, 3, 1, 1), dtype=torch.uint8), names=["dog"], classes=0)
    assert trace.logits.tolist() == [11.0, 11.0]
    assert trace.active == {"early": 3, "late": 2}
    (dog,) = trace.classes
    assert (dog.name, dog.logit_without_concepts) == ("dog", 11.0)
    assert (dog.logit, dog.bias, dog.residual, dog.positive) == (11.0, 0.0, 0.0, 12.0)
    assert dog.probability == pytest.approx(1 / (1 + math.exp(-11)))
    first, second = dog.concepts
    assert (first.concept.id, first.contribution, first.percent, first.concept.activation) == (0, 12.0, 100.0, 3.0)
    assert (second.concept.id, second.contribution, second.percent) == (1, -1.0, pytest.approx(-100 / 12))
    assert (dog.rest.count, dog.rest.contribution, dog.concepts_for_80_percent) == (0, 0.0, 1)
    origins = second.concept.origins
    assert origins is not None
    assert [(share.concept.id, share.contribution) for share in origins.concepts] == [(1, 4.0), (2, -3.0)]
    assert [share.percent for share in origins.concepts] == [100.0, -75.0]
    assert [share.concept.name for share in origins.concepts] == ["eye", "concept 2"]
    assert origins.concepts[1].concept.activation == 3.0
    assert origins.concepts[1].concept.origins is None


def test_what_is_not_shown_is_one_sum_with_both_signs() -> None:
    (trace,) = by_hand()(torch.zeros(1, 3, 1, 1, dtype=torch.uint8), names=["dog"], classes=0, top=1)
    (dog,) = trace.classes
    assert [share.concept.id for share in dog.concepts] == [0]
    rest = dog.rest
    assert (rest.count, rest.contribution, rest.positive, rest.negative) == (1, -1.0, 0.0, -1.0)
    assert rest.percent == pytest.approx(-100 / 12)
    assert float(dog.rest_pixels.map.sum()) == -1.0


@pytest.fixture(scope="module")
def deep() -> ConceptTracer:
    torch.manual_seed(0)
    network = build_network("bcos_resnet_tiny", len(CLASSES), weights=None, norm_statistics="frozen").double().eval()
    images, layers = pictures(), {}
    with torch.no_grad():
        for tap in (EARLY, LATE):
            vectors = network.features(images, tap).movedim(1, -1).flatten(0, 2)
            rows = nn.functional.normalize(vectors[torch.randperm(len(vectors))[:20]], dim=1)
            layers[tap] = layer_of(rows, 4)
    return tracer_of(network, layers, SIZE, CLASSES)


def pictures() -> Tensor:
    return torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_everything_sums_up(deep: ConceptTracer) -> None:
    """Contributions to the logit, pixels to everything traced, shown maps and the map of the rest to the whole."""
    for trace in deep(pictures(), classes=len(CLASSES), top=3):
        assert len(trace.classes) == len(CLASSES)
        for explained in trace.classes:
            shown = sum(share.contribution for share in explained.concepts)
            assert shown + explained.rest.contribution + explained.bias == pytest.approx(explained.logit, rel=1e-12)
            assert explained.residual < 1e-12
            percent = sum(share.percent for share in explained.concepts) + explained.rest.percent
            assert percent == pytest.approx(100 * (explained.logit - explained.bias) / explained.positive)
            assert explained.rest.positive + explained.rest.negative == pytest.approx(explained.rest.contribution)
            parts = [trace.map for trace in explained.weighted] + [explained.rest_pixels.map]
            torch.testing.assert_close(torch.stack(parts).sum(0), explained.pixels.map, atol=1e-6, rtol=1e-5)
            for share, weighted in zip(explained.concepts, explained.weighted, strict=True):
                assert float(weighted.map.double().sum()) == pytest.approx(share.contribution, rel=1e-4, abs=1e-6)
                check_concept(share.concept)


def check_concept(concept: TracedConcept) -> None:
    assert concept.activation > 0
    assert abs(concept.pixels.missing) < 1e-12 * concept.activation
    assert float(concept.pixels.map.double().sum()) == pytest.approx(concept.activation, rel=1e-5)
    if concept.layer == EARLY:
        assert concept.origins is None
        return
    origins = concept.origins
    assert origins is not None
    assert origins.residual < 1e-12 * concept.activation
    assert len(origins.concepts) == BRANCHES
    sum_of_parts = sum(share.contribution for share in origins.concepts) + origins.rest.contribution
    assert sum_of_parts == pytest.approx(concept.activation, rel=1e-12)
    for share in origins.concepts:
        check_concept(share.concept)


def test_numbers_are_those_of_the_single_traces(deep: ConceptTracer) -> None:
    model, images = deep.model, pictures()
    passed = concept_pass(model.network, model.layers, images)
    for row, trace in enumerate(deep(images, top=5)):
        (explained,) = trace.classes
        assert explained.index == int(passed.logits[row].argmax())
        assert explained.logit_without_concepts == pytest.approx(float(model.network(images)[row, explained.index]))
        target, at = torch.tensor([explained.index]), torch.tensor([row])
        expected = contributions(passed, LATE, target, at)[0]
        assert [s.concept.id for s in explained.concepts] == expected.argsort(descending=True)[:5].tolist()
        for share in explained.concepts:
            assert share.contribution == pytest.approx(float(expected[share.concept.id]))
            made = cross_layer(passed, LATE, torch.tensor([share.concept.id]), EARLY, at)[0]
            assert share.concept.origins is not None
            best = share.concept.origins.concepts[0]
            assert (best.concept.id, best.contribution) == (int(made.argmax()), pytest.approx(float(made.max())))
        for tap in (EARLY, LATE):
            assert trace.active[tap] == int((activations(passed.at(tap).code)[row] > 0).sum())


def test_a_batch_is_its_images(deep: ConceptTracer) -> None:
    together, (alone,) = deep(pictures()), deep(pictures()[1:])
    assert summary(together[1].classes[0]) == pytest.approx(summary(alone.classes[0]), rel=1e-9)
    torch.testing.assert_close(together[1].classes[0].pixels.map, alone.classes[0].pixels.map)
    assert torch.equal(
        together[1].classes[0].concepts[0].concept.pixels.rgba, alone.classes[0].concepts[0].concept.pixels.rgba
    )


def summary(explained: ClassTrace) -> list[float]:
    return [explained.logit, explained.rest.contribution, *(share.contribution for share in explained.concepts)]


def test_transformers_say_what_belongs_to_no_pixel() -> None:
    """What the pixels miss of an activation is what its linear map takes from the position code."""
    torch.manual_seed(0)
    network = build_network("bcos_simple_vit_ti_patch16_224", len(CLASSES), weights=None).double().eval()
    images = pictures()
    vectors = network.features(images, "Mid1").movedim(1, -1).flatten(0, 2)
    layer = layer_of(nn.functional.normalize(vectors, dim=1), 3)
    (first, _) = tracer_of(network, {"Mid1": layer}, SIZE, CLASSES)(images, top=2)
    (explained,) = first.classes
    assert explained.residual < 1e-9  # concepts still sum to the logit
    concept = explained.concepts[0].concept
    position = next(i for i, stage in enumerate(network.stages) if isinstance(stage, PositionCode))
    x, _ = linearise_chain(network.stages[:position], network.encode(images))
    code = network.stages[position](x) - x.permute(0, 3, 1, 2)
    features, walk = linearise_chain(network.stages[position + 1 : network.depth("Mid1")], network.stages[position](x))
    own = layer.encode(features)
    places = places_of(own, torch.full((len(images),), concept.id))
    share = (walk(layer.features_gradient(places, own, (2, 2)), None) * code).sum(dim=(1, 2, 3))[0]
    assert concept.pixels.missing == pytest.approx(float(share))
    assert abs(concept.pixels.missing) > 0.01 * concept.activation


def test_bad_requests(deep: ConceptTracer) -> None:
    with pytest.raises(ConfigError, match=r"unknown class 'fish'; the classes of this network are cat, dog, horse"):
        deep(pictures(), names=["fish"])
    with pytest.raises(ConfigError, match="nothing to explain"):
        deep(pictures(), classes=0)


def test_a_broken_network_is_not_explained() -> None:
    tracer = by_hand()
    tracer.model.network.net[2].weight.data[0] = torch.nan
    with pytest.raises(CheckpointError, match="non-finite logits"):
        tracer(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))


def test_runs_are_loaded_in_any_order(concept_runs: dict[str, str]) -> None:
    tracer = ConceptTracer.load([concept_runs["Final"], concept_runs["Mid2"]])
    assert list(tracer.model.layers) == ["Mid2", "Final"]
    (trace,) = tracer(torch.randint(0, 256, (1, 3, 48, 48), dtype=torch.uint8), top=2)
    for share in trace.classes[0].concepts:
        assert share.concept.layer == "Final"
        assert share.concept.origins is not None
        assert share.concept.origins.layer == "Mid2"
