"""Segmentation against its definition pixel by pixel; contributions against the scores they must sum to."""

from __future__ import annotations

import pytest
import torch
from small_encoder import DIM, ForegroundEncoder, label_vectors, random_images, small_model
from torch import Tensor
from torch.nn import functional

from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.insight.contributions import PatchView
from raytrain_xai.insight.model import InsightModel
from raytrain_xai.insight.segment import (
    ConstantBackground,
    ForegroundMask,
    SegmentPlan,
    WordBackground,
    segment,
    segment_views,
)
from raytrain_xai.insight.windows import Area, Sliding, areas_of


def reconstruction(model: InsightModel, images: Tensor) -> Tensor:
    """(B, D, h, w) from dense codes."""
    patches = model.encoder.patches(images).permute(0, 2, 3, 1)
    products = (patches - model.sae.decoder_bias) @ model.sae.encoder.T + model.sae.encoder_bias
    dense = torch.where(products > model.sae.threshold, products, 0.0)
    return (dense @ model.sae.dictionary + model.sae.decoder_bias).permute(0, 3, 1, 2)


def scores_by_definition(model: InsightModel, images: Tensor, texts: Tensor) -> Tensor:
    """Cosines of the reconstruction, interpolated to the pixels of images whose side is that of the encoder."""
    cosines = torch.einsum("bdhw,cd->bchw", functional.normalize(reconstruction(model, images), dim=1), texts)
    return functional.interpolate(cosines, size=images.shape[-2:], mode="bilinear", align_corners=False)


@pytest.mark.parametrize("size", [(32, 32), (45, 61)])
def test_contributions_sum_to_the_score_of_every_segment(size: tuple[int, int]) -> None:
    model, images, texts = small_model(), random_images(3, *size), label_vectors(5)
    found = segment(model, images, texts)
    assert found.segments is not None
    assert len(found.segments.image) > 6  # several segments in an image
    torch.testing.assert_close(found.segments.contributions.score, found.segments.score, atol=1e-5, rtol=0)
    assert found.segments.pixels.sum() == found.labels.numel()


def test_contributions_of_sliding_windows_sum_to_the_mean_score() -> None:
    model, images, texts = small_model(), random_images(2, 52, 71), label_vectors(4)
    found = segment(model, images, texts, sliding=Sliding(32, 20), background=ConstantBackground(0.1))
    assert found.segments is not None
    torch.testing.assert_close(found.segments.contributions.score, found.segments.score, atol=1e-5, rtol=0)
    row = int(found.segments.pixels.argmax())
    image, label = int(found.segments.image[row]), int(found.segments.label[row])
    inside = found.labels[image] == label + 1
    torch.testing.assert_close(found.segments.score[row], found.scores[image, label][inside].mean())


def test_scores_are_cosines_of_the_reconstruction() -> None:
    model, images, texts = small_model(), random_images(3, 32, 32), label_vectors(5)
    found = segment(model, images, texts)
    expected = scores_by_definition(model, images, texts)
    torch.testing.assert_close(found.scores, expected)
    assert torch.equal(found.labels, expected.argmax(dim=1) + 1)


def test_a_single_concept_owns_its_share() -> None:
    """One active concept: its share of the score is z v·t / |b + z v|, by hand for every patch of the segment."""
    model, images = small_model(), random_images(1, 32, 32)
    model.sae.encoder_bias.data.fill_(-1000)
    model.sae.encoder_bias.data[3] = 2.0
    texts = label_vectors(1)
    found = segment(model, images, texts)
    assert found.segments is not None
    patches = model.encoder.patches(images)[0].flatten(1).T
    z = (patches - model.sae.decoder_bias) @ model.sae.encoder[3] + 2
    z = torch.where(z > 0.2, z, 0.0)
    x = model.sae.decoder_bias + z[:, None] * model.sae.dictionary[3]
    own = functional.interpolate((z / x.norm(dim=1)).view(1, 1, 4, 4), size=(32, 32), mode="bilinear").mean()
    contribution = found.segments.contributions.concept[0]
    torch.testing.assert_close(contribution[3], own * (model.sae.dictionary[3] @ texts[0]))
    assert contribution.count_nonzero() == 1


def test_windows_cover_everything_and_end_with_the_image() -> None:
    areas = areas_of(10, 7, Sliding(4, 3))
    assert [(a.top, a.left) for a in areas] == [(t, left) for t in (0, 3, 6) for left in (0, 3)]
    assert areas_of(9, 3, Sliding(4, 3)) == [Area(0, 0, 4, 3), Area(3, 0, 4, 3), Area(5, 0, 4, 3)]
    count = torch.zeros(10, 7)
    for area in areas:
        area.of(count).add_(1)
    assert count.min() == 1
    with pytest.raises(ConfigError, match="stride"):
        Sliding(4, 5)


def test_one_window_over_the_image_changes_nothing() -> None:
    model, images, texts = small_model(), random_images(2, 32, 32), label_vectors(4)
    whole, slid = segment(model, images, texts), segment(model, images, texts, sliding=Sliding(64, 32))
    assert torch.equal(whole.labels, slid.labels)
    torch.testing.assert_close(whole.scores, slid.scores)


def test_what_fills_up_the_last_patch_is_cut_off() -> None:
    """28 of 32 columns are the image: its scores are the first 28 columns of those of the padded image."""
    model, images, texts = small_model(), random_images(2, 32, 28), label_vectors(4)
    padded = functional.pad(images, (0, 4))
    found = segment(model, images, texts, sliding=Sliding(32, 32))
    torch.testing.assert_close(found.scores, scores_by_definition(model, padded, texts)[..., :28])


def test_constant_background_takes_what_no_text_is_like() -> None:
    model, images, texts = small_model(), random_images(2, 32, 32), label_vectors(4)
    found = segment(model, images, texts, background=ConstantBackground(0.3))
    best, label = found.scores.max(dim=1)
    assert torch.equal(found.labels, torch.where(best > 0.3, label + 1, 0))
    assert 0 < (found.labels == 0).float().mean() < 1


def test_background_words_compete_with_the_labels() -> None:
    model, images, texts = small_model(), random_images(2, 32, 32), label_vectors(6)
    found = segment(model, images, texts[:4], background=WordBackground(texts[4:]))
    label = scores_by_definition(model, images, texts).argmax(dim=1)
    assert torch.equal(found.labels, torch.where(label < 4, label + 1, 0))
    assert found.scores.shape[1] == 4


def test_a_foreground_mask_keeps_things_and_certain_classes() -> None:
    model, images, texts = small_model(ForegroundEncoder()), random_images(2, 32, 32), label_vectors(4)
    found = segment(model, images, texts, background=ForegroundMask(0.6))
    best, label = (20 * found.scores).softmax(dim=1).max(dim=1)
    is_left = torch.arange(32) < 16
    assert torch.equal(found.labels, torch.where((best >= 0.6) | is_left, label + 1, 0))
    assert (found.labels[..., 16:] == 0).any() and (found.labels[..., 16:] > 0).any()
    with pytest.raises(ConfigError, match="dinoclip"):
        segment(small_model(), images, texts, background=ForegroundMask())


def test_an_upsampler_of_ones_own_keeps_contributions_exact() -> None:
    def by_brightness(images: Tensor, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Weights of the pixel's own patch and of the mean patch that depend on the image."""
        near = functional.interpolate(maps, size=size, mode="nearest")
        weight = functional.interpolate(images.float().mean(dim=1, keepdim=True) / 255, size=size, mode="nearest")
        return weight * near + (1 - weight) * maps.mean(dim=(2, 3), keepdim=True)

    model, images, texts = small_model(), random_images(2, 40, 48), label_vectors(4)
    found = segment(model, images, texts, upsample=by_brightness)
    assert found.segments is not None
    torch.testing.assert_close(found.segments.contributions.score, found.segments.score, atol=1e-5, rtol=0)
    assert not torch.equal(found.labels, segment(model, images, texts).labels)


def test_views_without_concepts_have_no_segments() -> None:
    vectors = label_vectors(3)[None, [0, 1, 2, 0]]  # four patches, each exactly one text
    plan = SegmentPlan(logit_scale=10, image_size=16, multiple=8)
    found = segment_views(lambda _: PatchView(5 * vectors, (2, 2)), random_images(1, 2, 2), label_vectors(3), plan)
    assert found.labels.tolist() == [[[1, 2], [3, 1]]]
    assert found.segments is None


def test_wrong_input_is_refused() -> None:
    model, images, texts = small_model(), random_images(2, 32, 32), label_vectors(4)
    with pytest.raises(DataError, match="uint8"):
        segment(model, images.float(), texts)
    with pytest.raises(DataError, match="one or more texts"):
        segment(model, images, texts[:0])
    with pytest.raises(DataError, match="another encoder"):
        segment(model, images, torch.zeros(2, DIM + 1))


def test_it_works_in_inference_mode() -> None:
    model, images, texts = small_model(), random_images(2, 40, 32), label_vectors(4)
    with torch.inference_mode():
        found = segment(model, images, texts)
    assert found.segments is not None
    assert not found.segments.contributions.concept.requires_grad
    expected = segment(model, images, texts).segments
    assert expected is not None
    torch.testing.assert_close(found.segments.score, expected.score)
