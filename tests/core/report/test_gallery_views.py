"""Runs that see different parts of an image, side by side: each is shown what it saw."""

from __future__ import annotations

from typing import Any

from raytrain_xai.data.dataset import open_dataset
from raytrain_xai.explain import Explainer
from raytrain_xai.models.zoo import build_network
from raytrain_xai.report.gallery import Example, build_gallery


def tiles(gallery: list[Example], run: int) -> list[Any]:
    return [(tile.heatmap.tobytes(), tile.probability, tile.epg) for tile in (e.tiles[run] for e in gallery)]


def test_each_run_has_its_own_view(birds: str) -> None:
    network = build_network("bcos_resnet_tiny", 2, norm_statistics="batch")
    classes = open_dataset(birds).classes
    squeezing, cutting = (
        Explainer(network, classes=classes, image_size=32, method="bcos", layer="Input", shorter=shorter)
        for shorter in (None, 64)
    )
    gallery = build_gallery([cutting, squeezing], birds, "test", 3)
    swapped = build_gallery([squeezing, cutting], birds, "test", 3)
    assert tiles(gallery, 0) == tiles(swapped, 1) and tiles(gallery, 1) == tiles(swapped, 0)
    assert tiles(gallery, 0) != tiles(gallery, 1)
