"""Interventions, measures of importance and deletion curves, on a network worked out by hand and on a trained one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.deletion import DeletionCurve, deletion_curve, deletion_grid
from raytrain_xai.concepts.importance import importance, sobol_total
from raytrain_xai.concepts.intervene import intervene, scale_code
from raytrain_xai.concepts.layer import ConceptLayer
from raytrain_xai.concepts.sae import TopKSae
from raytrain_xai.concepts.trace import ConceptPass, activations, concept_pass
from raytrain_xai.models.encoding import AddInverse
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network

TAP = "middle"


def by_hand() -> tuple[Network, ConceptPass]:
    """One pixel, features (1, 2, 3) as concepts 0 to 2, logits 3·u0 + u1 - u2 and u2; every value is exact."""
    body, head = nn.Conv2d(6, 3, 1, bias=False), nn.Conv2d(3, 2, 1, bias=False)
    body.weight.data.copy_(torch.diag(torch.tensor([1.0, 2.0, 3.0])).repeat(1, 2)[..., None, None])
    head.weight.data.copy_(torch.tensor([[3.0, 1.0, -1.0], [0.0, 0.0, 1.0]])[..., None, None])
    net = nn.Sequential(body, head, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = Network(
        net, encode=AddInverse(), stages=list(net), taps={"Input": 0, TAP: 1}, name="linear", num_classes=2,
        is_bcos=True, head="1",
    ).eval()  # fmt: skip
    sae = TopKSae(3, 4, k=4)  # concept 3 is never active
    rows = torch.cat([torch.eye(3), -torch.ones(1, 3)])
    sae.load_state_dict({"encoder": rows, "dictionary": rows})
    with torch.no_grad():
        return network, concept_pass(network, {TAP: ConceptLayer(sae)}, torch.rand(1, 3, 1, 1))  # [x, 1 - x] sum to 1


@pytest.fixture(scope="module")
def trained() -> tuple[Network, ConceptPass]:
    network = build_network("bcosified_squeezenet1_1", 18, weights="voc").double().eval()
    generator = torch.Generator().manual_seed(5)
    images = (torch.rand(2, 3, 8, 8, generator=generator) * 255).to(torch.uint8).repeat_interleave(10, 2)
    images = images.repeat_interleave(10, 3)
    layers: dict[str, ConceptLayer] = {}
    with torch.no_grad():
        for tap, latents in (("Mid2", 60), ("features.11", 30)):
            vectors = network.features(images, tap).movedim(1, -1).flatten(0, 2)
            rows = nn.functional.normalize(vectors[torch.randperm(len(vectors), generator=generator)[:latents]], dim=1)
            sae = TopKSae(rows.shape[1], latents, 4).double()
            sae.load_state_dict({"encoder": rows, "dictionary": rows})
            layers[tap] = ConceptLayer(sae).eval()
        return network, concept_pass(network, layers, images)


def test_scaling_a_code() -> None:
    code = SparseCode(torch.tensor([[[2.0, 1.0]]]), torch.tensor([[[3, 0]]]), 4)
    factors = torch.tensor([[0.5, 9.0, 9.0, 0.0], [1.0, 9.0, 9.0, 2.0]])
    assert scale_code(code.rows(torch.tensor([0, 0])), factors).values.tolist() == [[[0.0, 0.5]], [[4.0, 1.0]]]
    with pytest.raises(ValueError, match=r"must be \(1 or 1, 4\)"):
        scale_code(code, factors)


def test_interventions_by_hand() -> None:
    network, passed = by_hand()
    torch.testing.assert_close(passed.logits, torch.tensor([[2.0, 3.0]]))
    factors = torch.tensor([[1.0, 1.0, 0.0, 1.0], [2.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    answers = intervene(network, passed, TAP, factors, torch.tensor([0, 0, 0]))
    torch.testing.assert_close(answers, torch.tensor([[5.0, 0.0], [5.0, 3.0], [0.0, 0.0]]))


@pytest.mark.parametrize("tap", ["Mid2", "features.11"])
def test_deleting_everything_leaves_the_bias_and_nothing_changes_nothing(
    trained: tuple[Network, ConceptPass], tap: str
) -> None:
    network, passed = trained
    latents = passed.at(tap).code.num_latents
    with torch.no_grad():
        same = intervene(network, passed, tap, torch.ones(1, latents, dtype=torch.float64))
        none = intervene(network, passed, tap, torch.zeros(1, latents, dtype=torch.float64))
        unused = activations(passed.at(tap).code) > 0
        only_unused = intervene(network, passed, tap, unused.double())
    torch.testing.assert_close(same, passed.logits, rtol=1e-10, atol=0)
    torch.testing.assert_close(none, torch.full_like(none, passed.bias), rtol=0, atol=0)
    torch.testing.assert_close(only_unused, passed.logits, rtol=1e-10, atol=0)


def test_an_intervention_is_the_full_forward_with_a_changed_code(trained: tuple[Network, ConceptPass]) -> None:
    network, passed = trained
    early, late = passed.layers
    factors = torch.rand(2, 60, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = intervene(network, passed, "Mid2", factors)
        dense = early.code.dense() * factors[:, None]
        x = (dense @ early.layer.sae.dictionary).transpose(1, 2).unflatten(2, early.size)
        for stage in network.stages[network.depth("Mid2") : network.depth("features.11")]:
            x = stage(x)
        x = late.layer(x)
        for stage in network.stages[network.depth("features.11") :]:
            x = stage(x)
    torch.testing.assert_close(found, x, rtol=1e-10, atol=0)


def test_measures_of_importance_by_hand() -> None:
    network, passed = by_hand()
    target = torch.tensor([0])
    off = -torch.inf
    assert importance("contribution", network, passed, TAP, target).tolist() == [[3.0, 2.0, -3.0, off]]
    assert importance("saliency", network, passed, TAP, target).tolist() == [[3.0, 1.0, -1.0, off]]
    drawn = importance("random", network, passed, TAP, target, seed=1)
    assert drawn[0, 3] == off
    assert (drawn[0, :3] >= 0).all()
    assert torch.equal(drawn, importance("random", network, passed, TAP, target, seed=1))
    with pytest.raises(ValueError, match="must be one of contribution"):
        importance("shapley", network, passed, TAP, target)


def test_sobol_indices_of_a_sum_are_shares_of_its_variance() -> None:
    """Terms 3·a, 2·b, -3·c with independent factors: total indices 9/22, 4/22, 9/22."""
    network, passed = by_hand()
    with torch.no_grad():
        found = sobol_total(network, passed, TAP, torch.tensor([0]), designs=256, seed=0, rows_at_once=100)
    torch.testing.assert_close(found[0, :3], torch.tensor([9.0, 4.0, 9.0]) / 22, atol=0.05, rtol=0)
    assert found[0, 3] == 0


def test_deletion_curve_by_hand() -> None:
    network, passed = by_hand()
    target = torch.tensor([0])
    order = importance("contribution", network, passed, TAP, target)
    with torch.no_grad():
        curve = deletion_curve(network, passed, TAP, target, order, deletion_grid(3), rows_at_once=2)
        guarded = deletion_curve(
            network, passed, TAP, target, order, deletion_grid(3), protected=torch.tensor([True, False, False, False])
        )
    assert curve.deleted == (0, 1, 2, 3)
    assert curve.logit.tolist() == [2.0, -1.0, -3.0, 0.0]  # 3 goes first, then 2, then -3
    assert curve.kept.tolist() == [0.0, 0.0, 0.0, 1.0]  # the other logit is 3 throughout, at the end both are 0
    assert guarded.logit.tolist() == [2.0, 0.0, 3.0, 3.0]
    assert curve.area == pytest.approx((2 - 1 - 3) / 2 / 3)


def test_curves_of_batches_add_up(trained: tuple[Network, ConceptPass]) -> None:
    network, passed = trained
    target = passed.logits.argmax(1)
    order = importance("contribution", network, passed, "features.11", target)
    grid = deletion_grid(30)
    assert grid == (0, 1, 2, 4, 8, 16, 30)
    with torch.no_grad():
        whole = deletion_curve(network, passed, "features.11", target, order, grid)
    torch.testing.assert_close(whole.logit[0], (passed.logits.amax(1) - passed.bias).sum())
    assert whole.logit[-1].abs() < 1e-12
    assert whole.merge(whole).images == 4
    with pytest.raises(ValueError, match="different numbers"):
        whole.merge(DeletionCurve((0, 1), *torch.zeros(2, 2), 1))


def test_saliency_is_the_gradient_of_the_network(trained: tuple[Network, ConceptPass]) -> None:
    """Against a difference quotient: one active value moved a little, the dynamic scales moving with it."""
    network, passed = trained
    target = passed.logits.argmax(1)
    found = importance("saliency", network, passed, "features.11", target)
    code = passed.at("features.11").code
    concept = int(activations(code)[0].argmax())

    def answer(step: float) -> Tensor:
        from raytrain_xai.concepts.intervene import logits_of_code

        moved = code.values + step * ((code.indices == concept) & (code.values > 0))
        with torch.no_grad():
            logits = logits_of_code(network, passed, "features.11", SparseCode(moved, code.indices, code.num_latents))
        return logits[0, target[0]]

    step = 1e-5 * float(code.values.max())
    quotient = (answer(step) - answer(-step)) / (2 * step)
    torch.testing.assert_close(found[0, concept], quotient, rtol=1e-5, atol=0)
