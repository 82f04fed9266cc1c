"""Codes of the variants, and that every identity of a trace holds with each of them."""

from __future__ import annotations

import pytest
import torch
from plain_sae import topk_code

from raytrain_xai.concepts.code import SparseCode, stack_codes
from raytrain_xai.concepts.layer import ConceptLayer
from raytrain_xai.concepts.sae import BatchTopKSae, JumpReluSae, ReluSae, SparseAutoencoder, TopKSae
from raytrain_xai.concepts.trace import activations, concept_maps, concept_pass, contributions, residual
from raytrain_xai.errors import ConfigError
from raytrain_xai.models.zoo import build_network


def make(kind: str, dim: int, latents: int = 12) -> SparseAutoencoder:
    torch.manual_seed(0)
    sae: SparseAutoencoder
    match kind:
        case "topk":
            sae = TopKSae(dim, latents, 3)
        case "batch_topk":
            sae = BatchTopKSae(dim, latents, 3)
            sae.threshold.fill_(0.2)
        case "relu":
            sae = ReluSae(dim, latents)
        case _:
            sae = JumpReluSae(dim, latents, bandwidth=0.1, initial_threshold=0.2)
    return sae.double()


KINDS = ("topk", "batch_topk", "relu", "jumprelu")


def test_start_is_a_tied_unit_dictionary() -> None:
    sae = TopKSae(5, 9, 2)
    torch.testing.assert_close(sae.dictionary.norm(dim=1), torch.ones(9))
    assert torch.equal(sae.encoder, sae.dictionary)
    assert sae.encoder.data_ptr() != sae.dictionary.data_ptr()


def test_topk_equals_a_dense_formulation() -> None:
    sae, x = make("topk", 6), torch.randn(4, 5, 6, dtype=torch.float64)
    dense = topk_code((x @ sae.encoder.T).flatten(0, 1), 3).view(4, 5, 12)
    torch.testing.assert_close(sae.encode(x).dense(), dense, rtol=0, atol=0)
    torch.testing.assert_close(sae(x), dense @ sae.dictionary)


@pytest.mark.parametrize(
    ("kind", "scale", "expected"),
    [
        ("relu", 1.0, [[0.5, 0.1, 0.0], [0.0, 0.0, 3.0]]),
        ("batch_topk", 1.0, [[0.5, 0.0, 0.0], [0.0, 0.0, 3.0]]),
        ("jumprelu", 1.0, [[0.5, 0.0, 0.0], [0.0, 0.0, 3.0]]),
        ("batch_topk", 10.0, [[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]]),
        ("jumprelu", 10.0, [[0.0, 0.0, 0.0], [0.0, 0.0, 3.0]]),
    ],
)
def test_thresholds_by_hand(kind: str, scale: float, expected: list[list[float]]) -> None:
    """Threshold 0.2, in units of the scale."""
    sae = make(kind, 3, 3)
    if kind != "relu":
        dict(sae.named_buffers())["scale"].fill_(scale)
    products = torch.tensor([[0.5, 0.1, -2.0], [0.0, -1.0, 3.0]], dtype=torch.float64)
    code = sae.select(products)
    assert code.dense().tolist() == expected
    assert code.values.shape[1] == int((torch.tensor(expected) > 0).sum(dim=1).max())


@pytest.mark.parametrize("kind", KINDS)
def test_codes_do_not_depend_on_how_many_vectors_are_held(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sae, x = make(kind, 6), torch.randn(11, 6, dtype=torch.float64)
    whole = sae.encode(x)
    monkeypatch.setattr("raytrain_xai.concepts.sae.PRODUCTS_AT_ONCE", 48)
    parts = sae.encode(x)
    torch.testing.assert_close(parts.dense(), whole.dense(), rtol=1e-13, atol=1e-15)
    assert parts.values.shape == whole.values.shape


def test_no_vectors() -> None:
    for kind in KINDS:
        code = make(kind, 6).encode(torch.empty(0, 6, dtype=torch.float64))
        assert code.dense().shape == (0, 12)


def test_stacked_codes_keep_their_values() -> None:
    narrow = SparseCode(torch.tensor([[2.0]]), torch.tensor([[3]]), 4)
    wide = SparseCode(torch.tensor([[5.0, 1.0]]), torch.tensor([[0, 2]]), 4)
    assert stack_codes([narrow, wide]).dense().tolist() == [[0, 0, 0, 2], [5, 0, 1, 0]]


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: TopKSae(4, 3, 4), "k must be between 1 and the 3 latents, got 4"),
        (lambda: BatchTopKSae(4, 3, 0), "k must be between 1 and the 3 latents, got 0"),
        (lambda: ReluSae(0, 3), "got 3 x 0"),
        (lambda: JumpReluSae(4, 3, bandwidth=0.0, initial_threshold=1.0), "must be positive, got 0.0 and 1.0"),
    ],
)
def test_what_does_not_fit_is_refused(make_it: type, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_it()


@pytest.mark.parametrize("kind", KINDS)
def test_traces_are_exact_with_every_variant(kind: str) -> None:
    """Contributions sum to the logit minus its bias, pixels to the activation."""
    torch.manual_seed(0)
    network = build_network("bcos_resnet_tiny", 5, norm_statistics="frozen").double().eval()
    images = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        features = network.features(images, "Mid2")
        sae = make(kind, features.shape[1], 30)
        for name, buffer in sae.named_buffers():
            if name == "scale":
                buffer.fill_(features.square().sum(dim=1).mean().sqrt())
        passed = concept_pass(network, {"Mid2": ConceptLayer(sae)}, images)
        target = torch.tensor([1, 4])
        contribution = contributions(passed, "Mid2", target)
        assert contribution.abs().max() > 0
        assert residual(passed, contribution, target).max() < 1e-12 * passed.logits.abs().max()
        active = activations(passed.at("Mid2").code)
        concept = active.argmax(dim=1)
        total = concept_maps(passed, "Mid2", concept).sum(dim=(1, 2))
    torch.testing.assert_close(total, active.gather(1, concept[:, None]).squeeze(1), rtol=1e-10, atol=0)
