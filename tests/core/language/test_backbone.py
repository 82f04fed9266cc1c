"""Frozen backbones: their classifier on patches is their classifier, and patches lie where they should."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raytrain_xai.data.decode import decode_rgb
from raytrain_xai.data.transforms import centre_image
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.language.backbone import BACKBONES, Backbone, load_backbone
from raytrain_xai.language.terms import read_terms


@pytest.fixture(scope="module", params=BACKBONES)
def backbone(request: pytest.FixtureRequest) -> Backbone:
    return load_backbone(request.param)


def test_shapes_of_any_size(backbone: Backbone) -> None:
    side = backbone.multiple
    for height, width in ((side * 4, side * 6), (side * 3 + 1, side * 5 - 1)):
        found = backbone.features(torch.zeros(2, 3, height, width, dtype=torch.uint8))
        assert found.shape == (2, backbone.dim, -(-height // side), -(-width // side))
        assert found.dtype == torch.float32 and not found.requires_grad


def test_pictures_are_recognised_by_the_mean_of_their_patches(backbone: Backbone, shared_data: Path) -> None:
    """The classifier reads a mean of patches; the terms are in the order of its classes."""
    names = list(read_terms("imagenet"))
    chosen = [0, 22, 207, 340, 407, 555, 717, 817, 920, 954]
    images = [
        centre_image(torch.tensor(decode_rgb((shared_data / f"imagenet_sample/images/{names[i]}.jpg").read_bytes()))
                     .permute(2, 0, 1), 224, 256)
        for i in chosen
    ]  # fmt: skip
    vectors = backbone.features(torch.stack(images)).mean(dim=(2, 3))
    found = (vectors @ backbone.weight.T + backbone.bias).argmax(dim=1)
    assert (found == torch.tensor(chosen)).sum() >= 6


def test_a_patch_looks_at_its_own_place(backbone: Backbone) -> None:
    """The pixels that move the patch in the middle are centred on it; the borders cut what others look at."""
    cells = 9
    middle, side = cells // 2, backbone.multiple * cells
    noise = torch.rand(4, 3, side, side, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (moved,) = torch.autograd.grad(backbone.forward(noise)[:, :, middle, middle].sum(), noise)
    weight = moved.abs().sum(dim=(0, 1))
    pixels = torch.arange(side) + 0.5
    centre = [float((weight.sum(dim=other) * pixels).sum() / weight.sum()) for other in (1, 0)]
    assert centre == pytest.approx(
        [side / 2, side / 2], abs=0.4 * backbone.multiple
    )  # noise; a wrong margin moves it by 0.5


def test_images_that_are_none(backbone: Backbone) -> None:
    with pytest.raises(DataError, match=r"expected \(B, 3, H, W\) uint8"):
        backbone.features(torch.zeros(1, 3, 64, 64))


def test_no_backbone_of_this_name() -> None:
    with pytest.raises(ConfigError, match="there are: efficientnet_lite0, squeezenet1_1"):
        load_backbone("resnet50")
