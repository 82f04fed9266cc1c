"""Grid pointing game: hand-made maps and grids, an independent loop, and quantus."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from raytrain_xai.errors import DataError
from raytrain_xai.localisation.grid_pointing import (
    Candidates,
    Grids,
    candidates,
    choose_grids,
    own_tile_shares,
    tile,
    tile_shares,
)


def found(labels: list[int], logits: list[float], usable: list[bool] | None = None) -> Candidates:
    index = np.arange(len(labels)) + 100
    flags = np.ones(len(labels), dtype=bool) if usable is None else np.array(usable)
    return Candidates(index, np.array(labels), np.array(logits), flags)


def test_usable_images_are_classified_correctly_and_with_confidence() -> None:
    logits = torch.tensor([[2.0, 1.0], [1.0, 2.0], [-0.5, -1.0], [0.5, -1.0], [0.0, -1.0]])
    got = candidates(torch.tensor([3, 4, 7, 8, 9]), torch.tensor([0, 0, 0, 0, 0]), logits, 0.5)
    # the second image is taken for class 1; the third is right with probability .38, the last with .5 exactly
    assert got.is_usable.tolist() == [True, False, False, True, False]
    assert got.index.tolist() == [3, 4, 7, 8, 9]
    assert got.logit.tolist() == [2.0, 1.0, -0.5, 0.5, 0.0]
    everything = candidates(torch.tensor([3, 4, 7]), torch.tensor([0, 0, 0]), logits[:3], 0.0)
    assert everything.is_usable.tolist() == [True, False, True]


def test_a_large_logit_passes_a_threshold_close_to_one() -> None:
    """In float32 both are 1, and nothing is larger than 1."""
    got = candidates(torch.tensor([0]), torch.tensor([0]), torch.tensor([[20.0, 0.0]]), 1 - 1e-8)
    assert got.is_usable.tolist() == [True]


def test_every_class_gives_its_images_by_falling_logit_without_a_gap() -> None:
    generator = np.random.default_rng(0)
    labels, logits = generator.integers(6, size=80), generator.normal(size=80)
    usable = generator.random(80) < 0.8
    one = Candidates(np.arange(80), labels, logits, usable)
    grids = choose_grids(one, 4, max_grids=500, seed=42)
    assert len(np.unique(grids.images)) == grids.images.size  # no image twice
    assert all(len(set(row)) == 4 for row in grids.targets.tolist())
    np.testing.assert_array_equal(labels[grids.images], grids.targets)
    for k in range(6):
        used = grids.images[grids.targets == k].tolist()
        by_logit = sorted(np.flatnonzero(usable & (labels == k)).tolist(), key=lambda i: -logits[i])
        assert used == by_logit[: len(used)]


def test_grids_equal_an_independent_loop() -> None:
    generator = np.random.default_rng(1)
    labels, logits = generator.integers(5, size=60), generator.normal(size=60)
    queues = {k: sorted((i for i in range(60) if labels[i] == k), key=lambda i: -logits[i]) for k in range(5)}
    draw, expected = np.random.default_rng(7), []
    while sum(bool(queue) for queue in queues.values()) >= 4:
        left = [k for k in range(5) if queues[k]]
        classes = [left[i] for i in draw.choice(len(left), 4, replace=False)]
        expected.append([queues[k].pop(0) for k in classes])
    got = choose_grids(Candidates(np.arange(60), labels, logits, np.ones(60, dtype=bool)), 4, max_grids=99, seed=7)
    assert got.images.tolist() == expected


def test_as_many_classes_as_tiles_suffice() -> None:
    got = choose_grids(found([0, 1, 2, 3, 0, 1, 2, 3, 3], [1.0] * 9), 4, max_grids=500, seed=42)
    assert [sorted(row) for row in got.images.tolist()] == [[100, 101, 102, 103], [104, 105, 106, 107]]


def test_grids_stop_at_the_limit_and_follow_the_seed() -> None:
    one = found([k for k in range(8) for _ in range(10)], list(np.linspace(0, 1, 80)))
    first, again = (choose_grids(one, 4, max_grids=3, seed=42) for _ in range(2))
    assert first.images.shape == (3, 4)
    np.testing.assert_array_equal(first.images, again.images)
    longer = choose_grids(one, 4, max_grids=9, seed=42)
    np.testing.assert_array_equal(longer.images[:3], first.images)  # a longer series begins as a shorter one
    assert not np.array_equal(choose_grids(one, 4, max_grids=3, seed=43).images, first.images)


def test_too_few_classes_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(DataError, match=r"needs 4 different classes, but only 2 have .*--min-probability"):
        choose_grids(found([0, 1, 2, 3], [1.0] * 4, [True, True, False, False]), 4, max_grids=5, seed=0)


def test_tiles_go_down_the_columns() -> None:
    """Tile a * s + b sits in column a, row b: 0 and 1 are the left column."""
    tiles = torch.arange(4.0).view(1, 4, 1, 1, 1).expand(1, 4, 1, 2, 2)
    expected = [[0, 0, 2, 2], [0, 0, 2, 2], [1, 1, 3, 3], [1, 1, 3, 3]]
    assert tile(tiles)[0, 0].tolist() == expected


@pytest.mark.parametrize("side", [2, 3])
def test_mosaics_equal_a_loop(side: int) -> None:
    tiles = torch.rand(3, side * side, 3, 5, 5)
    mosaics = tile(tiles)
    for grid in range(3):
        for a in range(side):
            for b in range(side):
                part = mosaics[grid, :, 5 * b : 5 * b + 5, 5 * a : 5 * a + 5]
                assert torch.equal(part, tiles[grid, a * side + b])


def test_shares_of_a_hand_made_map() -> None:
    attr = torch.tensor([[1.0, 0.0, 3.0, -9.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.0], [0.0, 0.0, 0.0, 1.0]])
    # by column: top left 2, bottom left 0, top right 3 (the -9 does not count), bottom right 3
    assert tile_shares(attr, 4).tolist() == pytest.approx([2 / 8, 0, 3 / 8, 3 / 8])


def test_shares_do_not_depend_on_the_scale() -> None:
    attr = torch.randn(2, 6, 6)
    expected = tile_shares(attr, 9)
    torch.testing.assert_close(tile_shares(attr * 1e-30, 9), expected)
    torch.testing.assert_close(tile_shares(attr * 1e30, 9), expected)
    torch.testing.assert_close(expected.sum(dim=-1), torch.ones(2))


def test_empty_and_constant_maps() -> None:
    assert tile_shares(torch.zeros(4, 4), 4).tolist() == [0, 0, 0, 0]
    assert tile_shares(-torch.ones(4, 4), 4).tolist() == [0, 0, 0, 0]
    assert tile_shares(torch.ones(6, 6), 9).tolist() == pytest.approx([1 / 9] * 9)


def test_smoothing_averages_the_signed_map_first() -> None:
    attr = torch.zeros(6, 6)
    attr[1, 1], attr[4, 4] = 9.0, 9.0
    attr[4, 3] = -9.0  # beside the second peak: what they share averages to 0
    # windows around the first peak: 9 pixels of 1. Columns 3 to 5 hold 9/9 - 9/9 = 0 in columns 3 and 4; the column
    # right of both holds 1 in each of three rows; the left of both -1, which does not count
    assert tile_shares(attr, 4, smooth=3).tolist() == pytest.approx([9 / 12, 0, 0, 3 / 12])
    assert tile_shares(attr, 4).tolist() == [0.5, 0, 0, 0.5]


@pytest.mark.parametrize("side", [2, 3])
def test_scores_equal_a_loop(side: int) -> None:
    maps = torch.randn(4, side * side, 6 * side, 6 * side, dtype=torch.float64)
    expected = [[_own_share(own, k, side) for k, own in enumerate(grid)] for grid in maps]
    torch.testing.assert_close(own_tile_shares(maps), torch.tensor(expected, dtype=torch.float64))


def _own_share(attr: Tensor, k: int, side: int) -> float:
    size, total, own = attr.shape[0] // side, 0.0, 0.0
    for y in range(attr.shape[0]):
        for x in range(attr.shape[1]):
            value = max(0.0, float(attr[y, x]))
            total += value
            if x // size == k // side and y // size == k % side:
                own += value
    return own / total


def test_score_equals_relevance_mass_accuracy_of_quantus() -> None:
    import quantus

    maps = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    masks = tile(torch.eye(4).view(4, 4, 1, 1, 1).expand(4, 4, 1, 4, 4)).bool()  # mask k covers tile k
    metric = quantus.RelevanceMassAccuracy(abs=False, normalise=False, disable_warnings=True, display_progressbar=False)
    expected = metric(
        model=torch.nn.Flatten(),
        x_batch=np.zeros((4, 1, 8, 8), dtype=np.float32),
        y_batch=np.zeros(4, dtype=int),
        a_batch=maps[0, :, None].clamp(min=0).numpy(),
        s_batch=masks.numpy(),
        device="cpu",
    )
    assert own_tile_shares(maps)[0].tolist() == pytest.approx([float(value) for value in expected], rel=1e-6)


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(ValueError, match="divisible by 2"):
        tile_shares(torch.ones(5, 5), 4)
    with pytest.raises(ValueError, match="square number of tiles, got 5"):
        tile_shares(torch.ones(5, 5), 5)
    with pytest.raises(ValueError, match="0 or odd, got 2"):
        tile_shares(torch.ones(4, 4), 4, smooth=2)
    with pytest.raises(ValueError, match="must be square, got 2 x 3"):
        tile(torch.ones(1, 4, 3, 2, 3))


def test_an_ideal_and_a_blind_explanation() -> None:
    """A map that is the tile's mask scores 1, one that is the mask of another tile 0."""
    masks = tile(torch.eye(9).view(9, 9, 1, 1, 1).expand(9, 9, 1, 2, 2))[:, 0]
    assert own_tile_shares(masks[None]).tolist() == [[1.0] * 9]
    assert own_tile_shares(masks.roll(1, 0)[None]).tolist() == [[0.0] * 9]
    assert math.isclose(float(own_tile_shares(torch.ones(1, 9, 6, 6)).mean()), 1 / 9, rel_tol=1e-6)


def test_grids_keep_images_and_targets_together() -> None:
    grids = choose_grids(found([2, 5, 7, 9], [1.0] * 4), 4, max_grids=1, seed=3)
    assert isinstance(grids, Grids)
    by_image = dict(zip(grids.images[0].tolist(), grids.targets[0].tolist(), strict=True))
    assert by_image == {100: 2, 101: 5, 102: 7, 103: 9}
