"""What a dictionary keeps, as sums: against the definitions on dense codes, and merged from parts."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from raytrain_xai.concepts.matryoshka import MatryoshkaSae
from raytrain_xai.concepts.reconstruction import (
    ReconstructionSums,
    reconstruction_sums,
    summarise_reconstruction,
)

GROUPS, DIM = (3, 5, 12), 6


def make_sae() -> MatryoshkaSae:
    torch.manual_seed(0)
    sae = MatryoshkaSae(DIM, sum(GROUPS), 4, GROUPS).requires_grad_(False)
    sae.decoder_bias.normal_()
    sae.encoder_bias.normal_(std=0.2)
    sae.encoder_bias[7] = -100  # never active
    sae.encoder_bias[0] = 100  # always
    sae.threshold.fill_(0.5)
    return sae


def test_metrics_are_those_of_dense_codes() -> None:
    sae = make_sae()
    vectors = torch.randn(4, 9, DIM) + 1
    found = summarise_reconstruction(reconstruction_sums(sae, vectors))
    x = vectors.flatten(0, 1)
    products = (x - sae.decoder_bias) @ sae.encoder.T + sae.encoder_bias
    code = torch.where(products > 0.5, products, 0)
    variance = (x - x.mean(dim=0)).square().sum()
    for name, stop in (("variance_explained_1", 3), ("variance_explained_2", 8), ("variance_explained", 20)):
        rebuilt = code[:, :stop] @ sae.dictionary[:stop] + sae.decoder_bias
        assert found[name] == pytest.approx(float(1 - (x - rebuilt).square().sum() / variance), rel=1e-4)
    cosine = functional.cosine_similarity(x, code @ sae.dictionary + sae.decoder_bias).mean()
    assert found["cosine"] == pytest.approx(float(cosine), rel=1e-5)
    assert found["l0"] == pytest.approx(float((code > 0).sum() / 36), rel=1e-6)
    assert found["image_l0"] == pytest.approx(float((code.view(4, 9, 20) > 0).any(dim=1).sum() / 4), rel=1e-6)
    assert found["dead"] == float((code > 0).sum(dim=0).eq(0).sum()) >= 1
    assert found["always_on"] == float(((code > 0).float().mean(dim=0) > 0.6).sum()) >= 1


def test_parts_merge_to_the_whole() -> None:
    sae, vectors = make_sae(), torch.randn(5, 4, DIM)
    whole = reconstruction_sums(sae, vectors)
    parts = [reconstruction_sums(sae, part) for part in vectors.split([1, 3, 1])]
    merged = ReconstructionSums.from_tensors(ReconstructionSums.empty(sae).merge(*parts).to_tensors())
    assert summarise_reconstruction(merged) == pytest.approx(summarise_reconstruction(whole), rel=1e-5)
    assert torch.equal(merged.fired, whole.fired)
