"""The score of concepts by running sums, against the double sum of its definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from raytrain_xai.concepts.c2 import ConsistencySums, Presences, StrongestImages, random_maps


def double_sum(features: Tensor, weight: Tensor) -> float:
    """The definition, pair by pair."""
    total, norm = 0.0, 0.0
    for i in range(len(weight)):
        for j in range(len(weight)):
            if i != j:
                w = float(weight[i] * weight[j])
                total += w * float(functional.cosine_similarity(features[i], features[j], dim=0))
                norm += w
    return total / norm


def scores(features: Tensor, weight: Tensor) -> float:
    sums = ConsistencySums.empty(1, features.shape[1])
    sums.add(torch.zeros(len(weight), dtype=torch.int64), features, weight)
    return float(sums.consistency()[0])


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def test_hand_computed() -> None:
    """cos(a, b) = 0, cos(a, c) = 1, cos(b, c) = 0; weights 1, 2, 3: 2 · 3 / (2 · (2 + 3 + 6)) = 3 / 11."""
    features = torch.tensor([[2.0, 0.0], [0.0, 5.0], [0.1, 0.0]])
    assert scores(features, torch.tensor([1.0, 2.0, 3.0])) == pytest.approx(3 / 11, abs=1e-15)


def test_closed_form_is_the_double_sum(generator: torch.Generator) -> None:
    for n in (2, 3, 17):
        features = torch.randn(n, 5, generator=generator, dtype=torch.float64)
        weight = torch.rand(n, generator=generator, dtype=torch.float64) + 0.1
        assert scores(features, weight) == pytest.approx(double_sum(features, weight), abs=1e-14)


def test_scale_of_weights_and_of_features_and_order_do_not_matter(generator: torch.Generator) -> None:
    features = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    weight = torch.rand(9, generator=generator, dtype=torch.float64) + 0.1
    expected = scores(features, weight)
    order = torch.randperm(9, generator=generator)
    assert scores(features[order] * 7, weight[order] * 1e-4) == pytest.approx(expected, abs=1e-14)


def test_identical_directions_give_one_and_opposite_ones_minus_one() -> None:
    same = torch.tensor([[1.0, 2.0]]) * torch.tensor([[1.0], [3.0], [0.5]])
    assert scores(same, torch.tensor([1.0, 2.0, 3.0])) == pytest.approx(1, abs=1e-15)
    assert scores(torch.tensor([[1.0, 2.0], [-2.0, -4.0]]), torch.tensor([1.0, 9.0])) == pytest.approx(-1, abs=1e-15)


def test_vector_of_length_zero_has_cosine_zero_with_all_others() -> None:
    features = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    assert scores(features, torch.ones(3)) == pytest.approx(1 / 3, abs=1e-15)


def test_fewer_than_two_images_have_no_consistency() -> None:
    sums = ConsistencySums.empty(3, 2)
    sums.add(torch.tensor([0, 0, 1]), torch.eye(2)[[0, 0, 1]], torch.ones(3))
    assert sums.consistency().isnan().tolist() == [False, True, True]
    assert sums.count.tolist() == [2, 1, 0]


def test_any_sharding_merges_to_the_same_sums(generator: torch.Generator) -> None:
    """3000 pairs, more than are added at once, whole and in parts that hold some concepts each."""
    concept = torch.randint(7, (3000,), generator=generator)
    features = torch.randn(3000, 6, generator=generator)
    weight = torch.rand(3000, generator=generator) + 0.1
    whole, merged = ConsistencySums.empty(7, 6), ConsistencySums.empty(7, 6)
    whole.add(concept, features, weight)
    for part in (slice(0, 5), slice(5, 2000), slice(2000, 3000)):
        own, local = concept[part].unique(return_inverse=True)
        sums = ConsistencySums.empty(len(own), 6)
        sums.add(local, features[part], weight[part])
        merged.merge(sums, own)
    for mine, theirs in zip(merged.parts(), whole.parts(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=0)
    per_concept = [double_sum(features[concept == k][:20], weight[concept == k][:20]) for k in range(2)]
    first = ConsistencySums.empty(2, 6)
    for k in range(2):
        of_k = concept == k
        first.add(concept[of_k][:20], features[of_k][:20], weight[of_k][:20])
    assert first.consistency().tolist() == pytest.approx(per_concept, abs=1e-6)


def test_cosines_near_zero_survive_float32_features(generator: torch.Generator) -> None:
    """A thousand nearly orthogonal vectors: the sums cancel to 1e-3 of their size."""
    features = torch.randn(1000, 384, generator=generator)
    weight = torch.rand(1000, generator=generator) + 0.5
    unit = functional.normalize(features.double(), dim=1)
    cosines, products = unit @ unit.T, weight.double()[:, None] * weight.double()[None]
    off = ~torch.eye(1000, dtype=torch.bool)
    expected = float((cosines * products)[off].sum() / products[off].sum())
    assert scores(features, weight) == pytest.approx(expected, rel=1e-9)


def by_numpy(values: np.ndarray) -> np.ndarray:
    """The published rule for one concept: which of its values are kept."""
    positive = values[values > 0]
    if len(positive) <= 10:
        return values > 0
    threshold = min(np.quantile(positive, 0.95), np.sort(positive)[::-1][10])
    return values > threshold


@pytest.mark.parametrize("num_images", [8, 11, 30, 199, 200, 201, 540])
def test_selection_is_the_published_rule(num_images: int, generator: torch.Generator) -> None:
    """By numpy's quantile, fed in parts, with concepts of different frequency and negative values."""
    activation = torch.randn(num_images, 6, generator=generator, dtype=torch.float64).float()
    activation[torch.rand(num_images, 6, generator=generator) < torch.linspace(0, 0.95, 6)] = 0
    strongest = StrongestImages(6, num_images)
    for rows in torch.arange(num_images).split(37):
        image, concept = torch.meshgrid(rows, torch.arange(6), indexing="ij")
        strongest.add(Presences(concept.flatten(), image.flatten(), activation[rows].flatten()))
    chosen = strongest.select()
    found = np.zeros((num_images, 6), dtype=bool)
    found[chosen.image, chosen.concept] = True
    expected = np.stack([by_numpy(activation[:, k].double().numpy()) for k in range(6)], axis=1)
    assert (found == expected).all()
    assert torch.equal(chosen.value, activation[chosen.image, chosen.concept])
    assert strongest.count.tolist() == (activation > 0).sum(dim=0).tolist()


def test_at_least_ten_and_top_five_percent() -> None:
    """100 images keep 10, 400 keep 20 (5 %), 7 keep all."""
    for number, kept in ((7, 7), (100, 10), (400, 20)):
        strongest = StrongestImages(1, number)
        value = torch.randperm(number, generator=torch.Generator().manual_seed(0)).float() + 1
        strongest.add(Presences(torch.zeros(number, dtype=torch.int64), torch.arange(number), value))
        chosen = strongest.select()
        assert sorted(chosen.value.tolist()) == list(range(number - kept + 1, number + 1))


def test_memory_is_bounded_and_nothing_selected_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorted in after every few images: the same selection as at once."""
    generator = torch.Generator().manual_seed(1)
    value = torch.rand(500, 3, generator=generator)
    image, concept = torch.meshgrid(torch.arange(500), torch.arange(3), indexing="ij")

    def selected() -> Presences:
        strongest = StrongestImages(3, 500)
        for rows in torch.randperm(500, generator=generator).split(10):
            strongest.add(Presences(concept[rows].flatten(), image[rows].flatten(), value[rows].flatten()))
        return strongest.select()

    at_once = selected()
    monkeypatch.setattr("raytrain_xai.concepts.c2._PENDING", 40)
    often = selected()
    assert torch.equal(at_once.image, often.image) and torch.equal(at_once.value, often.value)
    assert at_once.concept.tolist() == [0] * 25 + [1] * 25 + [2] * 25


def test_a_concept_that_is_never_active_is_not_selected() -> None:
    strongest = StrongestImages(4, 3)
    strongest.add(Presences(torch.tensor([0, 0, 2]), torch.tensor([0, 1, 2]), torch.tensor([1.0, -2.0, 0.0])))
    assert strongest.select().concept.tolist() == [0]
    assert StrongestImages(4, 3).select().concept.tolist() == []


def test_random_maps_depend_on_image_and_seed_alone() -> None:
    images = torch.tensor([4, 900, 17])
    maps = random_maps(images, (20, 30), seed=5)
    assert maps.shape == (3, 20, 30) and maps.dtype == torch.float32
    torch.testing.assert_close(maps[1:2], random_maps(images[1:2], (20, 30), seed=5), rtol=0, atol=0)
    assert not torch.equal(maps, random_maps(images, (20, 30), seed=6))


def test_random_maps_are_noise_above_a_floor() -> None:
    """max(r, u) has mean (1 + u^2) / 2, and u itself is its least value; over images u is uniform."""
    maps = random_maps(torch.arange(400), (40, 40), seed=0).double().flatten(1)
    floor = maps.min(dim=1).values
    assert float((maps.mean(dim=1) - (1 + floor.square()) / 2).abs().max()) < 0.04
    assert float(floor.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(floor.std()) == pytest.approx(math.sqrt(1 / 12), abs=0.03)


def test_random_concept_scores_near_zero_after_centring() -> None:
    """Features without any structure, averaged under random maps: consistency vanishes with the mean taken off."""
    generator = torch.Generator().manual_seed(2)
    features = torch.randn(300, 64, 49, generator=generator, dtype=torch.float64) + 3
    maps = random_maps(torch.arange(300), (7, 7), seed=1).double().flatten(1)
    means = torch.einsum("ip,iep->ie", maps, features) / maps.sum(dim=1, keepdim=True)
    centred = means - features.mean(dim=(0, 2))
    assert scores(means, maps.sum(dim=1)) > 0.9
    assert abs(scores(centred, maps.sum(dim=1))) < 0.02
