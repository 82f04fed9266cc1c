"""Scores of (image, class) pairs, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from raytrain_xai.annotation.attribution_entropy import attribution_entropy
from raytrain_xai.annotation.confidence import lack_of_confidence
from raytrain_xai.annotation.disagreement import disagreement, second_opinion
from raytrain_xai.annotation.heatmap_box import heatmap_box
from raytrain_xai.models.zoo import build_network


def maps(*rows: object) -> Tensor:
    return torch.tensor([rows], dtype=torch.float32)


def test_confidence_in_the_classes_that_are_shown() -> None:
    """Logits 0 and ln 3: probabilities 1/2 and 3/4 apart, 1/4 and 3/4 together."""
    logits = torch.tensor([[0.0, math.log(3)], [math.log(3), 0.0]])
    rows, target = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    apart = lack_of_confidence(logits, rows, target, exclusive=False)
    together = lack_of_confidence(logits, rows, target, exclusive=True)
    assert apart.tolist() == pytest.approx([0.5, 0.25, 0.5])
    assert together.tolist() == pytest.approx([0.75, 0.25, 0.75])


@pytest.mark.parametrize("exclusive", [False, True])
def test_confident_answers_keep_their_order(exclusive: bool) -> None:
    """1 - p is 0 in float32 for all of them; what is missing is about exp(-z)."""
    logits = torch.tensor([[30.0, 0.0], [60.0, 0.0], [40.0, 0.0]])
    lack = lack_of_confidence(logits, torch.arange(3), torch.zeros(3, dtype=torch.int64), exclusive=exclusive)
    assert lack.tolist() == pytest.approx([math.exp(-30), math.exp(-60), math.exp(-40)], rel=1e-6)


def test_entropy_of_known_distributions() -> None:
    assert float(attribution_entropy(maps([1, 1], [0, -5]))) == pytest.approx(0.5)  # two of four places: 1 of 2 bits
    assert float(attribution_entropy(maps([7, 7], [7, 7]))) == pytest.approx(1.0)
    assert float(attribution_entropy(maps([0, 0], [0, 3]))) == 0.0
    expected = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert float(attribution_entropy(maps([3, 1]))) == pytest.approx(expected)
    assert float(attribution_entropy(maps([-1, -2], [0, -3]))) == 1.0  # no evidence at all


def test_scores_have_no_scale() -> None:
    """Contributions of a B-cos network may sum to 1e-5 over thousands of pixels."""
    fine, coarse = (torch.randn(4, n, n, generator=torch.Generator().manual_seed(n)) for n in (64, 4))
    torch.testing.assert_close(attribution_entropy(1e-7 * fine), attribution_entropy(fine))
    torch.testing.assert_close(disagreement(1e-7 * fine, 1e4 * coarse), disagreement(fine, coarse))


def test_single_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="one position"):
        attribution_entropy(torch.ones(2, 1, 1))
    with pytest.raises(ValueError, match="one position"):
        disagreement(torch.ones(2, 4, 4), torch.ones(2, 1, 1))


def test_disagreement_is_about_places_not_grain() -> None:
    """All evidence of the fine map lies in the upper left quarter, in a checkerboard."""
    fine = torch.zeros(1, 4, 4)
    fine[0, 0, 0] = fine[0, 1, 1] = 2.0
    fine[0, 3, 3] = -9.0
    assert float(disagreement(fine, maps([5, 0], [0, 0]))) == pytest.approx(0.0, abs=1e-6)
    assert float(disagreement(fine, maps([0, 0], [0, 5]))) == 1.0
    assert float(disagreement(fine, maps([1, 1], [0, -1]))) == pytest.approx(1 - 1 / math.sqrt(2))
    assert float(disagreement(maps([1, 1], [0, -1]), fine)) == pytest.approx(1 - 1 / math.sqrt(2))
    assert float(disagreement(fine, maps([-1, 0], [0, 0]))) == 1.0


def test_the_second_opinion_is_another_one() -> None:
    bcos, plain = (build_network(name, 2) for name in ("bcos_resnet_tiny", "squeezenet1_1"))
    assert second_opinion(bcos, "Input") == ("bcos", "Final")
    assert second_opinion(bcos, "Final") == ("bcos", "Input")
    assert second_opinion(plain, "Input") == ("gradcam", "Final")
    assert second_opinion(plain, "Final") == ("ixg", "Input")


def test_box_of_uniform_evidence_leaves_equal_margins() -> None:
    """10 pixels across, 5 % of the evidence on each side: half a pixel. 4 down: a fifth."""
    [box] = heatmap_box(torch.ones(1, 4, 10), 0.9).tolist()
    assert box == pytest.approx([0.5, 0.2, 9.5, 3.8])


def test_box_of_one_spot_is_inside_it_and_a_far_speck_does_not_matter() -> None:
    attr = torch.zeros(1, 8, 8)
    attr[0, 2:4, 5:7] = 10.0  # 40 in all
    [alone] = heatmap_box(attr, 0.9).tolist()
    assert alone == pytest.approx([5.1, 2.1, 6.9, 3.9])
    attr[0, 7, 0] = 1.0  # 2.4 %: within the 5 % that are left out
    [with_speck] = heatmap_box(attr, 0.9).tolist()
    assert with_speck[0] >= 5.0
    assert with_speck[3] <= 4.0


def test_box_without_evidence_is_the_whole_map() -> None:
    assert heatmap_box(-torch.ones(1, 3, 5)).tolist() == [[0.0, 0.0, 5.0, 3.0]]
