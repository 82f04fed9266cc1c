"""Losses and gradients of the training step: by hand, against autograd, and against another library."""

from __future__ import annotations

import pytest
import torch
from overcomplete_sae import import_overcomplete_sae
from plain_sae import JumpRelu, Step, aux_loss, batch_topk_code, topk_code
from torch import Tensor

from raytrain_xai.concepts.sae import BatchTopKSae, JumpReluSae, ReluSae, SparseAutoencoder, TopKSae
from raytrain_xai.concepts.step import SaeStep, StepSettings, sae_step

DIM, LATENTS, K, VECTORS = 7, 19, 4, 23
L1 = StepSettings(aux_weight=0.5, aux_latents=3, sparsity_weight=0.07)
DEAD = torch.tensor([0, 5, 6, 11, 18])


def make_sae(kind: str, seed: int = 0) -> SparseAutoencoder:
    """Float64, encoder and dictionary different, as after some training."""
    torch.manual_seed(seed)
    sae: SparseAutoencoder
    match kind:
        case "topk":
            sae = TopKSae(DIM, LATENTS, K)
        case "batch_topk":
            sae = BatchTopKSae(DIM, LATENTS, K)
        case "relu":
            sae = ReluSae(DIM, LATENTS)
        case _:
            sae = JumpReluSae(DIM, LATENTS, bandwidth=0.4, initial_threshold=0.3)
    sae = sae.double()
    with torch.no_grad():
        sae.encoder.add_(0.1 * torch.randn_like(sae.encoder))
    return sae


def make_vectors(seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(VECTORS, DIM, dtype=torch.float64, generator=generator)


def plain_code(sae: SparseAutoencoder, x: Tensor) -> tuple[Tensor, Tensor]:
    """Dense code and mean penalty."""
    products = x @ sae.encoder.T
    match sae:
        case TopKSae():
            return topk_code(products, sae.k), torch.zeros(())
        case BatchTopKSae():
            return batch_topk_code(products, sae.k), torch.zeros(())
        case JumpReluSae():
            thresholds = sae.log_threshold.exp()
            active = Step.apply(products, thresholds, sae.bandwidth)
            return JumpRelu.apply(products, thresholds, sae.bandwidth), active.sum(dim=1).mean()
        case _:
            return products.relu(), products.relu().sum(dim=1).mean()


def plain_parts(sae: SparseAutoencoder, x: Tensor, dead: Tensor | None, settings: StepSettings) -> dict[str, Tensor]:
    code, penalty = plain_code(sae, x)
    residual = x - code @ sae.dictionary
    parts = {"squared_error": residual.square().sum(dim=1).mean(), "sparsity": penalty, "aux": torch.zeros(())}
    if dead is not None:
        parts["aux"] = aux_loss(sae.encoder, sae.dictionary, x, residual, dead, settings.aux_latents)
    weighted = settings.aux_weight * parts["aux"] + settings.sparsity_weight * parts["sparsity"]
    lengths = {"length": x.square().sum(dim=1).mean(), "rebuilt": (code @ sae.dictionary).square().sum(dim=1).mean()}
    return (
        parts | lengths | {"loss": parts["squared_error"] + weighted, "active": (code > 0).sum(dim=1).double().mean()}
    )


KINDS = ("topk", "batch_topk", "relu", "jumprelu")


@pytest.mark.parametrize("dead", [None, DEAD, DEAD[:2]], ids=["none dead", "more dead than taken", "fewer"])
@pytest.mark.parametrize("kind", KINDS)
def test_step_equals_autograd(kind: str, dead: Tensor | None) -> None:
    sae, x = make_sae(kind), make_vectors()
    expected = plain_parts(sae, x, dead, L1)
    expected["loss"].backward()
    step = sae_step(sae, x, dead=dead, settings=L1)
    for name, value in expected.items():
        assert float(step.sums[name] / step.sums["vectors"]) == pytest.approx(float(value.detach()), rel=1e-12), name
    for name, parameter in sae.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 1e-3, "the case says nothing about this parameter"
        torch.testing.assert_close(step.gradients[name], parameter.grad, rtol=1e-11, atol=1e-13)
    code, _ = plain_code(sae, x)
    assert torch.equal(step.fired, (code > 0).sum(dim=0))
    variance = (x - x.mean(dim=0)).square().sum()
    assert float(step.sums["variance"]) == pytest.approx(float(variance), rel=1e-12)


@pytest.mark.parametrize("kind", ["topk", "relu", "jumprelu"])
def test_part_of_the_vectors_at_a_time_gives_the_same(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sae, x = make_sae(kind), make_vectors()
    whole = sae_step(sae, x, dead=DEAD, settings=L1)
    monkeypatch.setattr("raytrain_xai.concepts.sae.PRODUCTS_AT_ONCE", 5 * LATENTS)
    assert sae.rows_at_once == 5
    assert_equal_steps(sae_step(sae, x, dead=DEAD, settings=L1), whole)


def assert_equal_steps(actual: SaeStep, expected: SaeStep) -> None:
    for name, gradient in expected.gradients.items():
        torch.testing.assert_close(actual.gradients[name], gradient, rtol=1e-11, atol=1e-14)
    for name, value in expected.sums.items():
        torch.testing.assert_close(actual.sums[name], value, rtol=1e-11, atol=1e-13)
    assert torch.equal(actual.fired, expected.fired)


def test_by_hand() -> None:
    """x = (3, 1): products 3 and 1, k = 1, so x' = (3, 0), the error (0, -1), and only the first row of V moves.

    d/dV = u · 2 · error = 3 · 2 · (0, -1); d/dW = <V_0, 2 · error> x = 0.
    """
    sae = TopKSae(2, 2, 1).double()
    with torch.no_grad():
        sae.encoder.copy_(torch.eye(2))
        sae.dictionary.copy_(torch.eye(2))
    step = sae_step(sae, torch.tensor([[3.0, 1.0]], dtype=torch.float64), dead=None, settings=StepSettings())
    assert step.sums["squared_error"] == 1
    assert step.gradients["dictionary"].tolist() == [[0, -6], [0, 0]]
    assert step.gradients["encoder"].abs().max() == 0
    assert step.fired.tolist() == [1, 0]


def test_places_without_a_positive_product_neither_fire_nor_learn() -> None:
    """k = 2, but only one product is positive; the second place is 0 and its latent is left alone."""
    sae = TopKSae(2, 2, 2).double()
    with torch.no_grad():
        sae.encoder.copy_(torch.eye(2))
        sae.dictionary.copy_(torch.eye(2))
    step = sae_step(sae, torch.tensor([[3.0, -1.0]], dtype=torch.float64), dead=None, settings=StepSettings())
    assert step.fired.tolist() == [1, 0]
    assert step.sums["active"] == 1
    assert step.gradients["encoder"][1].abs().max() == 0
    assert step.gradients["dictionary"][1].abs().max() == 0


def test_revival_is_zero_without_spread() -> None:
    """One vector: its error has no variance, the quotient is undefined, and no latent is pulled anywhere."""
    sae, x = make_sae("topk"), make_vectors()[:1]
    without = sae_step(sae, x, dead=None, settings=L1)
    assert without.sums["squared_error"] > 0.1
    assert_equal_steps(sae_step(sae, x, dead=DEAD, settings=L1), without)


@pytest.mark.parametrize("most", [1, 2, 5, 9])
def test_dense_and_sparse_revival_are_one(most: int) -> None:
    """Five dead latents: with one taking part the step reads single rows, with more it multiplies matrices."""
    sae, x, settings = make_sae("topk"), make_vectors(), StepSettings(aux_weight=1.0, aux_latents=most)
    plain_parts(sae, x, DEAD, settings)["loss"].backward()
    step = sae_step(sae, x, dead=DEAD, settings=settings)
    for name, parameter in sae.named_parameters():
        torch.testing.assert_close(step.gradients[name], parameter.grad, rtol=1e-11, atol=1e-13)


def test_revival_does_not_move_the_living() -> None:
    sae, x = make_sae("topk"), make_vectors()
    with_it, without = (sae_step(sae, x, dead=dead, settings=L1) for dead in (DEAD, None))
    moved = (with_it.gradients["dictionary"] - without.gradients["dictionary"]).abs().sum(dim=1) > 0
    assert set(moved.nonzero().flatten().tolist()) <= set(DEAD.tolist())
    assert moved.any()


@pytest.mark.parametrize("most", [1, 2, 5])
def test_batch_topk_keeps_exactly_as_many_as_it_should(most: int) -> None:
    torch.manual_seed(0)
    sae = BatchTopKSae(DIM, LATENTS, most).double()
    x = make_vectors() * torch.linspace(0.1, 3, VECTORS, dtype=torch.float64)[:, None]  # few vectors take most places
    step = sae_step(sae, x, dead=None, settings=StepSettings())
    dense = batch_topk_code(x @ sae.encoder.T, most)
    assert int(step.sums["active"]) == most * VECTORS == int((dense > 0).sum())
    assert torch.equal(step.fired, (dense > 0).sum(dim=0))
    assert (dense > 0).sum(dim=1).max() > 2 * most or most == 5
    assert float(sae.threshold) == pytest.approx(float(dense[dense > 0].min().detach()))


def test_batch_topk_with_fewer_positive_products_than_places() -> None:
    sae = BatchTopKSae(2, 2, 2).double()
    with torch.no_grad():
        sae.encoder.copy_(torch.eye(2))
    step = sae_step(sae, -torch.ones(3, 2, dtype=torch.float64), dead=None, settings=StepSettings())
    assert step.sums["active"] == 0
    assert step.sums["squared_error"] == 6
    assert sae.threshold == 0


def test_threshold_follows_as_a_running_mean() -> None:
    """First 2, then .99 · 2 + .01 · 4."""
    sae = BatchTopKSae(2, 2, 1).double()
    for smallest in (2.0, 4.0):
        sae.follow(torch.tensor(smallest, dtype=torch.float64))
    assert float(sae.threshold) == pytest.approx(2.02, rel=1e-12)
    sae.follow(torch.tensor(torch.inf, dtype=torch.float64))
    assert float(sae.threshold) == pytest.approx(2.02, rel=1e-12)


def test_threshold_reproduces_the_average_number() -> None:
    torch.manual_seed(0)
    sae = BatchTopKSae(16, 64, 6)
    for _ in range(60):
        sae_step(sae, torch.randn(256, 16), dead=None, settings=StepSettings())
    code = sae.encode(torch.randn(4096, 16))
    assert float((code.values > 0).sum(dim=1).float().mean()) == pytest.approx(6, rel=0.05)


def test_equals_overcomplete() -> None:
    """Code, reconstruction and gradients of overcomplete's TopK autoencoder with the same weights."""
    sae, x = make_sae("topk"), make_vectors()
    fixed = {"normalization": "identity"}  # its own adds 1e-8 to every length
    make_peer = import_overcomplete_sae().TopKSAE
    peer = make_peer(DIM, LATENTS, top_k=K, encoder_module=LinearEncoder(sae.encoder), dictionary_params=fixed).double()
    with torch.no_grad():
        peer.dictionary._weights.copy_(sae.dictionary)
    _, code, reconstruction = peer(x)
    torch.testing.assert_close(sae.encode(x).dense(), code, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(sae(x), reconstruction, rtol=1e-12, atol=1e-14)
    (reconstruction - x).square().sum(dim=1).mean().backward()
    step = sae_step(sae, x, dead=None, settings=StepSettings())
    torch.testing.assert_close(step.gradients["encoder"], peer.encoder.weight.grad, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(step.gradients["dictionary"], peer.dictionary._weights.grad, rtol=1e-11, atol=1e-13)


class LinearEncoder(torch.nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight.detach().clone())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        products = x @ self.weight.T
        return products, products.relu()
