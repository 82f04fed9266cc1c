"""Matryoshka autoencoders: the step against autograd of the plain formulation, groups, threshold and start."""

from __future__ import annotations

import pytest
import torch
from plain_sae import aux_loss, batch_topk_code
from threads import ThreadWorker, together
from torch import Tensor

from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.groups import group_sizes
from raytrain_xai.concepts.matryoshka import MatryoshkaSae
from raytrain_xai.concepts.matryoshka_step import geometric_median, matryoshka_step
from raytrain_xai.concepts.step import SaeStep, StepSettings
from raytrain_xai.concepts.update import apply_update, build_adam, project_gradients
from raytrain_xai.errors import ConfigError

DIM, LATENTS, K, VECTORS, GROUPS = 7, 19, 4, 24, (2, 5, 12)
SETTINGS = StepSettings(aux_weight=0.5, aux_latents=3)
DEAD = torch.tensor([0, 5, 6, 11, 18])
PUBLISHED = (0.008, 0.03, 0.06, 0.12, 0.24, 0.542)


def make_sae() -> MatryoshkaSae:
    """Float64, all parameters as after some training."""
    torch.manual_seed(0)
    sae = MatryoshkaSae(DIM, LATENTS, K, GROUPS).double()
    with torch.no_grad():
        sae.encoder.add_(0.1 * torch.randn_like(sae.encoder))
        sae.encoder_bias.add_(0.2 * torch.randn_like(sae.encoder_bias))
        sae.decoder_bias.add_(0.3 * torch.randn_like(sae.decoder_bias))
    return sae


def make_vectors() -> Tensor:
    lengths = torch.linspace(0.2, 2, VECTORS, dtype=torch.float64)[:, None]  # so that shares of the places differ
    generator = torch.Generator().manual_seed(1)
    return torch.randn(VECTORS, DIM, dtype=torch.float64, generator=generator) * lengths + 0.4


def plain_parts(sae: MatryoshkaSae, x: Tensor, dead: Tensor | None) -> dict[str, Tensor]:
    """The objective from its definition, dense, a prefix at a time."""
    centred = x - sae.decoder_bias
    code = batch_topk_code(centred @ sae.encoder.T + sae.encoder_bias, K)
    errors = []
    for stop in torch.tensor(GROUPS).cumsum(0).tolist():
        errors.append(x - (code[:, :stop] @ sae.dictionary[:stop] + sae.decoder_bias))
    variance = (x - x.mean(dim=0)).square().sum(dim=1).mean()
    main = torch.stack([error.square().sum(dim=1).mean() / variance for error in errors]).mean()
    aux = torch.zeros(())
    if dead is not None:  # a bias is a weight of a column of ones
        with_bias = torch.cat([sae.encoder, sae.encoder_bias[:, None]], dim=1)
        ones = torch.cat([centred, torch.ones(len(x), 1, dtype=x.dtype)], dim=1)
        aux = aux_loss(with_bias, sae.dictionary, ones, errors[-1], dead, SETTINGS.aux_latents)
    return {
        "loss": main + SETTINGS.aux_weight * aux, "aux": aux, "variance": variance,
        "squared_error": errors[-1].square().sum(dim=1).mean(), "active": (code > 0).sum(dim=1).double().mean(),
        "length": x.square().sum(dim=1).mean(), "rebuilt": (x - errors[-1]).square().sum(dim=1).mean(),
    }  # fmt: skip


@pytest.mark.parametrize("dead", [None, DEAD, DEAD[:2], DEAD[:0]], ids=["off", "more than taken", "fewer", "none"])
def test_step_equals_autograd(dead: Tensor | None) -> None:
    sae, x = make_sae(), make_vectors()
    expected = plain_parts(sae, x, dead if dead is not None and len(dead) else None)
    expected["loss"].backward()
    step = matryoshka_step(sae, x, dead=dead, settings=SETTINGS)
    for name, value in expected.items():
        assert float(step.sums[name] / step.sums["vectors"]) == pytest.approx(float(value.detach()), rel=1e-12), name
    assert list(step.gradients) == [name for name, _ in sae.named_parameters()]
    for name, parameter in sae.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 1e-3, "the case says nothing about this parameter"
        torch.testing.assert_close(step.gradients[name], parameter.grad, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("dead", [DEAD, DEAD[:0]], ids=["some dead", "none dead"])
def test_vectors_shared_out_among_workers(dead: Tensor) -> None:
    alone, x = make_sae(), make_vectors()
    expected = matryoshka_step(alone, x, dead=dead, settings=SETTINGS)
    copies = [make_sae() for _ in range(3)]

    def work(worker: ThreadWorker) -> tuple[SaeStep, MatryoshkaSae]:
        sae, own = copies[worker.rank], x.chunk(3)[worker.rank]
        return matryoshka_step(sae, own, dead=dead, settings=SETTINGS, workers=worker), sae

    for step, sae in together(3, work):
        for name, gradient in expected.gradients.items():
            torch.testing.assert_close(step.gradients[name], gradient, rtol=1e-11, atol=1e-14)
        for name, value in expected.sums.items():
            torch.testing.assert_close(step.sums[name], value, rtol=1e-11, atol=1e-13)
        assert torch.equal(step.fired, expected.fired)
        assert float(sae.threshold) == pytest.approx(float(alone.threshold), rel=1e-12)


def test_loss_by_hand() -> None:
    """Two vectors (3, 1) and (-3, -1), b = 0, W = V = 1, k·N = 2 of the products 3, 1, -3, -1: those of the first one.

    Groups {0}, {1}: the errors of the prefixes are (0, -1), (0, 0) for the first vector, (3, 1) twice for the second;
    squared 1 + 0 + 10 + 10. The variance is 10 a vector, so L = (21 / 2 vectors / 2 prefixes) / 10 = .525.
    """
    sae = MatryoshkaSae(2, 2, 1, (1, 1)).double()
    with torch.no_grad():
        sae.encoder.copy_(torch.eye(2))
        sae.dictionary.copy_(torch.eye(2))
    x = torch.tensor([[3.0, 1.0], [-3.0, -1.0]], dtype=torch.float64)
    step = matryoshka_step(sae, x, dead=None, settings=SETTINGS)
    assert float(step.sums["loss"] / 2) == pytest.approx(0.525, rel=1e-12)
    assert step.fired.tolist() == [1, 1]
    assert float(sae.threshold) == 1
    # dL/db = 2 · (sum of the errors) / 40; through the products nothing: where a value acts, its error is 0
    assert step.gradients["encoder_bias"].tolist() == [0, 0]
    torch.testing.assert_close(step.gradients["decoder_bias"], torch.tensor([12.0, 2.0], dtype=torch.float64) / 40)


def test_keeps_exactly_as_many_as_it_should() -> None:
    sae, x = make_sae(), make_vectors()
    step = matryoshka_step(sae, x, dead=None, settings=SETTINGS)
    assert int(step.sums["active"]) == K * VECTORS == int(step.fired.sum())


def test_the_loss_does_not_see_the_unit_of_the_vectors() -> None:
    """Vectors, biases and threshold in a unit 1000 times smaller: the same loss, gradients of V 1000 times larger."""
    sae, scaled, x = make_sae(), make_sae(), make_vectors()
    with torch.no_grad():
        scaled.encoder_bias.mul_(1000)
        scaled.decoder_bias.mul_(1000)
    step = matryoshka_step(sae, x, dead=DEAD, settings=SETTINGS)
    same = matryoshka_step(scaled, 1000 * x, dead=DEAD, settings=SETTINGS)
    torch.testing.assert_close(same.sums["loss"], step.sums["loss"], rtol=1e-10, atol=0)
    torch.testing.assert_close(same.gradients["dictionary"], step.gradients["dictionary"], rtol=1e-9, atol=1e-13)
    torch.testing.assert_close(same.gradients["decoder_bias"] * 1000, step.gradients["decoder_bias"])
    torch.testing.assert_close(scaled.threshold, 1000 * sae.threshold)


def test_vectors_that_are_all_one_teach_nothing() -> None:
    sae = make_sae()
    step = matryoshka_step(sae, torch.ones(5, DIM, dtype=torch.float64), dead=None, settings=SETTINGS)
    assert float(step.sums["loss"]) == 0
    assert all(float(gradient.abs().max()) == 0 for gradient in step.gradients.values())


def test_published_groups() -> None:
    assert group_sizes(8192, PUBLISHED) == (65, 245, 491, 983, 1966, 4442)
    assert group_sizes(10, (1.0,)) == (10,)
    with pytest.raises(ConfigError, match="leave one empty"):
        group_sizes(100, PUBLISHED)
    with pytest.raises(ConfigError, match="do not make up"):
        MatryoshkaSae(4, 10, 2, (3, 6))


def test_codes_are_what_exceeds_the_threshold_whatever_else_is_in_the_batch() -> None:
    sae, x = make_sae(), make_vectors()
    sae.threshold.fill_(0.3)
    products = (x - sae.decoder_bias) @ sae.encoder.T + sae.encoder_bias
    expected = torch.where(products > 0.3, products, 0.0)
    assert 0 < int((expected > 0).sum()) < expected.numel()
    torch.testing.assert_close(sae.encode(x).dense(), expected)
    torch.testing.assert_close(sae.encode(x[3:4]).dense(), expected[3:4])
    torch.testing.assert_close(sae.encode(x.view(2, 12, DIM)).dense(), expected.view(2, 12, LATENTS))
    torch.testing.assert_close(sae(x), expected @ sae.dictionary + sae.decoder_bias)


def test_unit_inputs_are_codes_of_directions() -> None:
    plain, unit = make_sae(), make_sae()
    plain.threshold.fill_(0.1)
    unit.threshold.fill_(0.1)
    unit.unit_inputs = True
    x = make_vectors().view(2, 12, DIM)
    directions = x / x.square().sum(dim=-1, keepdim=True).sqrt()
    torch.testing.assert_close(unit.encode(x).dense(), plain.encode(directions).dense())
    torch.testing.assert_close(unit.encode(1e-3 * x).dense(), unit.encode(x).dense())
    assert not torch.equal(plain.encode(1e-3 * x).dense(), plain.encode(x).dense())
    torch.testing.assert_close(unit(x), plain(directions))
    nothing = torch.zeros(1, DIM, dtype=torch.float64)
    assert torch.equal(unit.inputs(nothing), nothing) and torch.equal(plain.inputs(x), x)


def test_prefixes_of_a_code() -> None:
    sae = make_sae()
    assert sae.groups_of(torch.arange(LATENTS)).tolist() == [0] * 2 + [1] * 5 + [2] * 12
    code = SparseCode(torch.tensor([[3.0, 2.0, 1.0]]).double(), torch.tensor([[1, 6, 18]]), LATENTS)
    assert sae.prefix(code, 1).values.tolist() == [[3, 0, 0]]
    assert sae.prefix(code, 2).values.tolist() == [[3, 2, 0]]
    assert sae.prefix(code, 3).values.tolist() == [[3, 2, 1]]
    empty = SparseCode(torch.zeros(1, 3).double(), torch.tensor([[1, 6, 18]]), LATENTS)
    torch.testing.assert_close(sae.decode(empty), sae.decoder_bias.detach()[None])


def test_training_reconstructs_and_the_threshold_gives_the_average_number() -> None:
    """Vectors made of 3 of 12 directions around a shifted origin: earlier prefixes explain less, all of them most."""
    torch.manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(12, 16), dim=1)

    def draw(count: int) -> Tensor:
        chosen = torch.rand(count, 12).argsort(dim=1)[:, :3]
        return 5 + torch.zeros(count, 12).scatter(1, chosen, 1 + torch.rand(count, 3)) @ rows

    sae = MatryoshkaSae(16, 24, 3, (6, 18))
    optimizer = build_adam(sae)
    for number in range(200):
        x = draw(128)
        if number == 0:
            sae.decoder_bias.data.copy_(geometric_median(x))
        step = matryoshka_step(sae, x, dead=None, settings=SETTINGS)
        norm = project_gradients(sae, step.gradients)
        apply_update(sae, step.gradients, norm, optimizer, lr=2e-2, clip_norm=1.0)
    x = draw(2048)
    with torch.no_grad():
        code = sae.encode(x)
        rebuilt = torch.stack([sae.decode(sae.prefix(code, count)) for count in (1, 2)])
    assert float((code.values > 0).sum(dim=1).float().mean()) == pytest.approx(3, rel=0.15)
    explained = 1 - (rebuilt - x).square().sum(dim=(1, 2)) / (x - x.mean(dim=0)).square().sum()
    assert 0.2 < explained[0] < explained[1] - 0.1
    assert explained[1] > 0.85
    torch.testing.assert_close(sae.dictionary.norm(dim=1), torch.ones(24))


def test_geometric_median_by_hand() -> None:
    """On a line it is the median; four corners of a convex quadrilateral: where its diagonals cross."""
    line = torch.tensor([[0.0], [1.0], [2.0], [3.0], [100.0]], dtype=torch.float64)
    assert float(geometric_median(line)) == pytest.approx(2, abs=1e-3)
    corners = torch.tensor([[0.0, 0.0], [4.0, 4.0], [0.0, 2.0], [2.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(geometric_median(corners), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-6)
    assert geometric_median(torch.full((3, 2), 7.0)).tolist() == [7, 7]


def test_geometric_median_of_vectors_shared_out() -> None:
    x = make_vectors()
    expected = geometric_median(x)
    distances = torch.stack([(x - expected - shift).norm(dim=1).sum() for shift in 1e-3 * torch.eye(DIM)])
    assert (distances > (x - expected).norm(dim=1).sum()).all()
    for found in together(2, lambda worker: geometric_median(x.chunk(2)[worker.rank], worker)):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
