"""Axes of swept values: what is spread by logarithm, where zero goes, and what the labels say."""

from __future__ import annotations

import pytest

from raytrain_xai.report.scales import scale_of, value_text


def test_weights_over_decades_lie_by_their_logarithm_and_zero_beside_them() -> None:
    scale = scale_of("guidance.weight", [0.1, 0, 0.001, 10, 0.1])
    assert scale.kind == "log"
    low, middle, high = scale.place([0.001, 0.1, 10])
    assert middle - low == pytest.approx(2)
    assert high - middle == pytest.approx(2)
    assert scale.place([0])[0] < low
    assert scale.labels == ("0", "0.001", "0.1", "10")
    assert scale.ticks == pytest.approx([scale.place([0])[0], low, middle, high])


def test_a_factor_below_twenty_and_negative_numbers_stay_linear() -> None:
    assert scale_of("k", [1, 2, 19]).kind == "linear"
    assert scale_of("k", [1, 2, 20]).kind == "log"
    assert scale_of("k", [-1, 0.001, 100]).kind == "linear"
    assert scale_of("k", [0, 0]).kind == "linear"
    assert scale_of("k", [3, 8]).place([3, 8]).tolist() == [3, 8]


def test_shares_are_labelled_in_percent() -> None:
    assert scale_of("guidance.annotated_fraction", [0.005, 0.1, 1]).labels == ("0.5 %", "10 %", "100 %")
    assert scale_of("guidance.box_dilation", [0, 0.1, 0.25, 0.5]).labels == ("0 %", "10 %", "25 %", "50 %")


def test_many_values_are_labelled_by_round_ones() -> None:
    over_two = scale_of("optim.lr", [10 ** (-4 + step / 10) for step in range(21)])  # 1e-4 to 1e-2
    assert over_two.labels == ("0.0001", "0.0002", "0.0005", "0.001", "0.002", "0.005", "0.01")
    over_five = scale_of("optim.lr", [10 ** (-5 + step / 10) for step in range(51)])
    assert over_five.labels == ("1e-05", "0.0001", "0.001", "0.01", "0.1", "1")
    assert scale_of("k", list(range(1, 15))).ticks == ()  # left to the chart


def test_labels_that_would_touch_are_left_to_the_chart() -> None:
    assert scale_of("k", [10, 10.1, 20]).ticks == ()


def test_all_else_are_names_in_their_order() -> None:
    scale = scale_of("model.weights", ["imagenet", None, "imagenet", True, 3])
    assert scale.kind == "names"
    assert scale.labels == ("imagenet", "none", "true", "3")
    assert scale.place([True, "imagenet", None]).tolist() == [2, 0, 1]


def test_truth_values_are_no_numbers() -> None:
    assert scale_of("compile", [True, False]).kind == "names"
    assert [value_text(value) for value in (0.25, 1e-5, 7, "a", (1, 2))] == ["0.25", "1e-05", "7", "a", "[1, 2]"]
