"""What an export reads and how large it becomes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from raytrain_xai.data.feature_store import FeaturePlan
from raytrain_xai.features.plan import image_order, largest_per_image

IMAGENET = FeaturePlan(
    tap="layer3", dim=1024, size=(14, 14), per_image=36, sampling="contribution", seed=512, network_name="n",
    network="a", data="d", split="train", num_images=1_231_167, images_per_shard=512, image_size=224, eval_resize=256,
)  # fmt: skip


@pytest.mark.parametrize(
    ("dim", "published", "fitting", "gigabytes"), [(512, 72, 7, 8.825), (1024, 36, 3, 7.565), (2048, 18, 1, 5.043)]
)
def test_imagenet_fits_ten_gigabytes_a_layer(dim: int, published: int, fitting: int, gigabytes: float) -> None:
    """bytes = images · positions · C · 2; with the published positions 91 GB, half of what single precision takes."""
    full = replace(IMAGENET, dim=dim, per_image=published)
    assert full.num_bytes == 1_231_167 * 72 * 512 * 2 == 90_771_480_576
    assert largest_per_image([full], 10**10) == fitting
    assert replace(full, per_image=fitting).num_bytes == pytest.approx(gigabytes * 1e9, rel=1e-3)


def test_several_layers_share_the_space() -> None:
    layers = [replace(IMAGENET, dim=512, per_image=72), replace(IMAGENET, dim=2048, per_image=2)]
    each = 1_231_167 * 2
    assert largest_per_image(layers, each * (512 * 9 + 2048 * 2)) == 9  # the second has two positions at most
    assert largest_per_image(layers, each * (512 + 2048)) == 1
    assert largest_per_image(layers, each * (512 + 2048) - 1) == 0


def test_images_keep_to_their_row_groups_in_random_order() -> None:
    """Shards of 130, 64 and 10 rows are read in groups of 64, 64, 2 | 64 | 10."""
    order = image_order([130, 64, 10], seed=3, epoch=0)
    assert sorted(order.tolist()) == list(range(204))
    jumps = np.flatnonzero(np.diff(order) != 1) + 1
    groups = {(int(group[0]), len(group)) for group in np.split(order, jumps)}
    whole = {(0, 64), (64, 64), (128, 2), (130, 64), (194, 10)}
    joined = [sum(length for first, length in whole if a <= first < a + n) == n for a, n in groups]
    assert all(joined), "a stretch of consecutive rows is made of whole groups"
    assert not np.array_equal(order, image_order([130, 64, 10], seed=3, epoch=1))
    assert np.array_equal(order, image_order([130, 64, 10], seed=3, epoch=0))
