"""Catalogue states against a pass that looks at one image, position and concept at a time."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest
import torch
from torch import Tensor

from raytrain_xai.concepts.catalogue import CatalogueState, answers, observe, unpack_top
from raytrain_xai.concepts.layer import ConceptLayer
from raytrain_xai.concepts.sae import TopKSae
from raytrain_xai.concepts.statistics import concept_statistics, totals
from raytrain_xai.concepts.trace import concept_pass
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network

LATENTS, CLASSES, EXAMPLES, TAP = 20, 4, 3, "Mid2"


@pytest.fixture(scope="module")
def scene() -> tuple[Network, ConceptLayer, Tensor, Tensor]:
    torch.manual_seed(0)
    network = build_network("bcos_resnet_tiny", CLASSES).double().eval()
    images = (torch.rand(9, 3, 32, 32) * 255).to(torch.uint8)
    images[7] = images[2]  # equal activations: the earlier image comes first
    sae = TopKSae(network.features(images[:1], TAP).shape[1], LATENTS, 4).double()
    labels = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]] * 3).float()
    labels[4] = 0  # an image without a label
    return network, ConceptLayer(sae).eval(), images, labels


@torch.no_grad()
def state_of(scene: tuple[Network, ConceptLayer, Tensor, Tensor], rows: slice, *, several: bool) -> CatalogueState:
    network, layer, images, labels = scene
    passed = concept_pass(network, {TAP: layer}, images[rows])
    return observe(passed, TAP, labels[rows], torch.arange(9)[rows], several=several, examples=EXAMPLES)


@pytest.mark.parametrize("several", [False, True])
@torch.no_grad()
def test_a_state_equals_a_plain_pass(scene: tuple[Network, ConceptLayer, Tensor, Tensor], several: bool) -> None:
    network, layer, images, labels = scene
    state = state_of(scene, slice(None), several=several)
    count, positions, together = Counter[int](), Counter[int](), Counter[int]()
    mass, by_class, top = defaultdict[int, float](float), defaultdict[int, float](float), defaultdict[int, list](list)
    num_answers, contribution, contributing = 0, torch.zeros(LATENTS).double(), Counter[int]()
    for n in range(9):
        passed = concept_pass(network, {TAP: layer}, images[n : n + 1])
        dense = passed.at(TAP).code.dense()[0]  # (P, K)
        for position in dense:
            active = position.nonzero().flatten().tolist()
            positions.update(active)
            together.update(a * LATENTS + b for a in active for b in active if a < b)
        names = labels[n].nonzero().flatten().tolist()
        for k in dense.sum(0).nonzero().flatten().tolist():
            count[k] += 1
            top[k].append((-float(dense[:, k].sum()), n))
            for name in names:
                mass[k * CLASSES + name] += float(dense[:, k].sum()) / len(names)
        said = [c for c in range(CLASSES) if passed.logits[0, c] > 0] if several else []
        for c in sorted({*said, int(passed.logits.argmax())}):
            num_answers += 1
            gradient = passed.code_gradient_of_logit(TAP, torch.tensor([c]))[0]
            own = torch.zeros(LATENTS).double()
            for p in range(dense.shape[0]):
                for j, k in enumerate(passed.at(TAP).code.indices[0, p].tolist()):
                    own[k] += gradient[p, j] * passed.at(TAP).code.values[0, p, j]
            contribution += own
            contributing.update(own.nonzero().flatten().tolist())
            for k in range(LATENTS):
                by_class[k * CLASSES + c] += float(own[k])
    assert int(state.num_images) == 9
    assert int(state.num_answers) == num_answers
    assert state.images.tolist() == [count[k] for k in range(LATENTS)]
    assert state.positions.tolist() == [positions[k] for k in range(LATENTS)]
    assert state.contributing.tolist() == [contributing[k] for k in range(LATENTS)]
    assert int(state.active_concepts) == count.total()
    torch.testing.assert_close(state.contribution, contribution, rtol=1e-9, atol=1e-12)
    assert dict(zip(state.together.keys.tolist(), state.together.sums.tolist(), strict=True)) == together
    assert dict(zip(state.label_mass.keys.tolist(), state.label_mass.sums.tolist(), strict=True)) == pytest.approx(mass)
    found = dict(zip(state.class_contribution.keys.tolist(), state.class_contribution.sums.tolist(), strict=True))
    assert found == pytest.approx({key: value for key, value in by_class.items() if value})
    _, rows = unpack_top(state.top)
    for k in range(LATENTS):
        expected = [n for _, n in sorted((round(s, 9), n) for s, n in top[k])][:EXAMPLES]
        assert [row for row in rows[k].tolist() if row >= 0] == expected


def test_any_division_of_the_images_gives_the_same(scene: tuple[Network, ConceptLayer, Tensor, Tensor]) -> None:
    whole = state_of(scene, slice(None), several=True)
    parts = [state_of(scene, rows, several=True) for rows in (slice(5, 9), slice(0, 1), slice(1, 5))]
    stored = [CatalogueState.from_tensors(part.to_tensors()) for part in parts]
    merged = stored[0].merge(*stored[1:])
    for name, expected in whole.to_tensors().items():
        torch.testing.assert_close(merged.to_tensors()[name], expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(merged.top, whole.top)


def test_the_rows_of_examples_survive_packing(scene: tuple[Network, ConceptLayer, Tensor, Tensor]) -> None:
    """Activations in order, rows up to the largest that fits, and -1 for a concept that few images show."""
    activation, row = unpack_top(state_of(scene, slice(0, 2), several=False).top)
    assert ((row >= 0) == (activation > 0)).all()
    assert (row[:, 2] == -1).all()
    assert (activation.diff(dim=1) <= 0).all()
    _, layer, images, labels = scene
    passed = concept_pass(scene[0], {TAP: layer}, images[:1])
    last = observe(passed, TAP, labels[:1], torch.tensor([2**32 - 1]), several=False, examples=1)
    assert set(unpack_top(last.top)[1].flatten().tolist()) == {-1, 2**32 - 1}


def test_answers_of_competing_and_of_independent_classes() -> None:
    logits = torch.tensor([[-1.0, 2.0, 3.0], [-3.0, -1.0, -2.0]])
    assert [part.tolist() for part in answers(logits, several=False)] == [[0, 1], [2, 1]]
    assert [part.tolist() for part in answers(logits, several=True)] == [[0, 0, 1], [1, 2, 1]]


def test_statistics_of_a_state_by_hand(scene: tuple[Network, ConceptLayer, Tensor, Tensor]) -> None:
    state = state_of(scene, slice(None), several=False)
    statistics = concept_statistics(state, CLASSES)
    found = totals(state, statistics)
    assert found["images"] == found["answers"] == 9
    assert found["alive"] == int((state.contributing > 0).sum())
    assert found["concepts_per_image"] == pytest.approx(int(state.images.sum()) / 9)
    always = state.contributing > 0.85 * 9
    assert found["always_on"] == int(always.sum())
    assert found["always_on_share"] == pytest.approx(float(state.positive[always].sum() / state.positive.sum()))
    k = int(state.contributing.argmax())
    assert statistics.mean_contribution[k] == pytest.approx(float(state.contribution[k] / state.contributing[k]))
    assert statistics.frequency[k] == pytest.approx(int(state.images[k]) / 9)
    shares = statistics.label_shares.sum(dim=1)[state.images > 1]  # of all four classes; one image has no label
    torch.testing.assert_close(shares, torch.ones_like(shares))
