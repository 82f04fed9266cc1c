"""Patches of an encoder from several data sets: which image a row is, and which vectors an epoch and a store hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from colours import ColourEncoder
from torch import Tensor

from raytrain_xai.config import parse_insight_config
from raytrain_xai.data.loader import load_samples
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.features.patches import PATCHES, open_patch_extraction, open_patches, plan_patches
from raytrain_xai.insight_config import InsightRunConfig

CPU = torch.device("cpu")


def make_config(data: list[str], **changes: Any) -> InsightRunConfig:
    return parse_insight_config({
        "job": "concepts", "name": "n", "encoder": "embedded", "data": data, "batch_size": 64,
        "evaluation": {"batch_size": 5}, **changes,
    })  # fmt: skip


def test_rows_count_through_all_data_sets(objects: str, birds: str) -> None:
    extraction = open_patch_extraction(make_config([objects, birds]), ColourEncoder())
    assert sum(extraction.shard_rows) == 48
    rows = np.array([30, 0, 47, 23, 24])
    expected = torch.cat([
        load_samples(path, "train", [place], 32)[0].images
        for path, place in ((birds, 6), (objects, 0), (birds, 23), (objects, 23), (birds, 0))
    ])  # fmt: skip
    assert torch.equal(extraction.images(rows), expected)
    found = torch.cat([part[PATCHES] for part in extraction.vectors(rows, {PATCHES: None}, seed=0, epoch=0)])
    torch.testing.assert_close(found, ColourEncoder().patches(expected).flatten(2).transpose(1, 2))


def test_some_patches_of_an_image(objects: str) -> None:
    """Different ones, others in another epoch, and the same whatever images they come with."""
    extraction = open_patch_extraction(make_config([objects]), ColourEncoder())

    def draw(rows: list[int], epoch: int) -> Tensor:
        return torch.cat([
            part[PATCHES] for part in extraction.vectors(np.array(rows), {PATCHES: 5}, seed=0, epoch=epoch)
        ])  # fmt: skip

    drawn = draw([3, 7, 1, 2, 9, 4], 0)
    assert drawn.shape == (6, 5, 3)
    assert torch.equal(draw([7], 0)[0], drawn[1])
    assert not torch.equal(draw([7], 1)[0], drawn[1])
    whole = torch.cat([part[PATCHES] for part in extraction.vectors(np.array([7]), {PATCHES: None}, seed=0, epoch=0)])[
        0
    ]
    places = {int((whole - vector).abs().sum(dim=1).argmin()) for vector in drawn[1]}
    assert len(places) == 5
    torch.testing.assert_close(whole[sorted(places)].sum(dim=0), drawn[1].sum(dim=0))


def test_an_epoch_from_the_encoder_holds_every_patch_once(objects: str, birds: str) -> None:
    """48 images of 16 patches make 12 batches; lanes are as many as divide 64 and have 16 images: 2."""
    config = make_config([objects, birds])
    source = open_patches(config, ColourEncoder(), rank=0, world_size=1, device=CPU)
    assert (source.dim, source.num_vectors) == (3, 48 * 16)
    seen = torch.cat(list(source.epoch(0))) * source.scale
    extraction = open_patch_extraction(config, ColourEncoder())
    every = torch.cat([
        part[PATCHES].flatten(0, 1) for part in extraction.vectors(np.arange(48), {PATCHES: None}, seed=0, epoch=0)
    ])  # fmt: skip
    order = [np.lexsort(part.mul(1e4).round().numpy().T) for part in (seen, every)]
    torch.testing.assert_close(seen[order[0]], every[order[1]], rtol=1e-4, atol=1e-5)
    assert source.scale == pytest.approx(float(every.square().sum(dim=1).mean().sqrt()), rel=1e-5)


def test_what_a_store_is_of(objects: str, birds: str, tmp_path: Path) -> None:
    encoder = ColourEncoder()
    both, one = plan_patches(make_config([objects, birds]), encoder), plan_patches(make_config([objects]), encoder)
    assert (both.num_images, both.size, both.per_image, both.keeps_all) == (48, (4, 4), 16, True)
    assert both.data != one.data
    assert plan_patches(make_config([objects], features={"per_image": 3}), encoder).per_image == 3
    other = replace(encoder, fingerprint="9" * 64)
    assert plan_patches(make_config([objects]), other) == replace(one, network="9" * 64)
    config = make_config([objects], features={"store": str(tmp_path / "none")})
    with pytest.raises(DataError, match="does not exist"):
        open_patches(config, encoder, rank=0, world_size=1, device=CPU)


def test_bad_input(objects: str) -> None:
    with pytest.raises(ConfigError, match="names a data set twice"):
        plan_patches(make_config([objects, objects]), ColourEncoder())
    with pytest.raises(DataError, match="no image in the split 'nothing'"):
        open_patch_extraction(make_config([objects]), ColourEncoder(), "nothing")
    huge = replace(ColourEncoder(), name="broken")
    object.__setattr__(huge, "patches", lambda images: torch.full((len(images), 3, 4, 4), torch.inf))
    extraction = open_patch_extraction(make_config([objects]), huge)
    with pytest.raises(DataError, match="the patches of broken are not finite for image"):
        next(iter(extraction.vectors(np.arange(2), {PATCHES: None}, seed=0, epoch=0)))
