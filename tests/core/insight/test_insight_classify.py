"""Zero-shot scores against dense codes, and their contributions against the scores."""

from __future__ import annotations

import pytest
import torch
from small_encoder import label_vectors, random_images, small_model
from torch.nn import functional

from raytrain_xai.align.pooling import attention_scores
from raytrain_xai.errors import ConfigError
from raytrain_xai.insight.classify import classify
from raytrain_xai.insight.contributions import strongest_code


def test_contributions_sum_to_the_scores_and_scores_are_those_of_dense_codes() -> None:
    model, images, texts = small_model(), random_images(3, 32, 32), label_vectors(6)
    found = classify(model, images, texts, top=4)
    code, size = model.codes(images)
    dense = code.dense() @ model.sae.dictionary + model.sae.decoder_bias
    cosines = torch.einsum("bpd,cd->bcp", functional.normalize(dense, dim=2), texts).unflatten(2, size)
    torch.testing.assert_close(found.scores, attention_scores(cosines))
    assert torch.equal(found.top, found.scores.argsort(dim=1, descending=True)[:, :4])
    expected = found.scores.gather(1, found.top).flatten()
    torch.testing.assert_close(found.contributions.score, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found.maps[1, 2], cosines[1, found.top[1, 2]])
    torch.testing.assert_close(found.probabilities.sum(dim=1), torch.ones(3))


def test_without_sharpness_every_patch_counts_the_same() -> None:
    model, images, texts = small_model(), random_images(2, 32, 32), label_vectors(3)
    found = classify(model, images, texts, top=3, sharpness=0)
    means = found.maps.mean(dim=(2, 3))
    torch.testing.assert_close(found.scores.gather(1, found.top), means)
    torch.testing.assert_close(found.contributions.score, means.flatten(), atol=1e-5, rtol=0)


def test_a_picture_of_any_size_is_seen_as_a_square() -> None:
    model, texts = small_model(), label_vectors(3)
    assert classify(model, random_images(1, 50, 77), texts).maps.shape == (1, 1, 4, 4)


def test_impossible_settings_are_refused() -> None:
    model, images, texts = small_model(), random_images(1, 32, 32), label_vectors(3)
    with pytest.raises(ConfigError, match="sharpness"):
        classify(model, images, texts, sharpness=-1)


def test_strongest_code_is_the_maximum_of_the_dense_code() -> None:
    model, images = small_model(), random_images(3, 32, 32)
    model.sae.threshold.fill_(8)
    code, _ = model.codes(images)
    peak, patch = strongest_code(code)
    expected = code.dense().max(dim=1)
    assert torch.equal(peak, expected.values)
    assert torch.equal(code.dense().gather(1, patch[:, None])[:, 0], peak)
    assert (peak == 0).any() and (patch[peak == 0] == 0).all()
