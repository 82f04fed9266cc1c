"""Which checkpoints matter, with numbers to check in the head."""

from __future__ import annotations

import pytest

from raytrain_xai.config import EvaluationConfig
from raytrain_xai.runners.history import (
    Evaluated,
    Position,
    best,
    front_record,
    on_front,
    protected_steps,
    selected,
    stops_early,
)


def history(*points: tuple[float, float, float]) -> tuple[Evaluated, ...]:
    return tuple(
        Evaluated(step=10 * (i + 1), epoch=i + 1, val={"f1": f1, "epg": epg, "iou": iou})
        for i, (f1, epg, iou) in enumerate(points)
    )


def test_front_and_best_are_protected() -> None:
    """30 beats 10 in all; 20 has the best EPG, 30 the best IoU, 40 the best F1."""
    points = history((0.5, 0.3, 0.3), (0.4, 0.9, 0.1), (0.6, 0.4, 0.5), (0.7, 0.2, 0.2))
    assert on_front(points) == [False, True, True, True]
    assert protected_steps(points, EvaluationConfig()) == {20, 30, 40}


def test_the_best_is_kept_though_a_point_equal_after_rounding_came_first() -> None:
    """.601 and .602 are the same multiple of .005: the front keeps the first, the best by F1 is the second."""
    points = history((0.601, 0.5, 0.5), (0.602, 0.5, 0.5))
    assert on_front(points) == [True, False]
    assert protected_steps(points, EvaluationConfig()) == {10, 20}


def test_metrics_that_do_not_apply_count_as_zero() -> None:
    points = (Evaluated(1, 1, {"f1": 0.5}), Evaluated(2, 2, {"f1": 0.6}))
    assert on_front(points) == [False, True]
    assert front_record(points) == {
        "points": [
            {"step": 1, "epoch": 1, "f1": 0.5, "on_front": False},
            {"step": 2, "epoch": 2, "f1": 0.6, "on_front": True},
        ]
    }


def test_nothing_evaluated_protects_nothing() -> None:
    assert best(()) is None
    assert protected_steps((), EvaluationConfig()) == set()
    assert not stops_early((), EvaluationConfig(min_f1=0.9))


@pytest.mark.parametrize(("min_f1", "stops"), [(None, False), (0.5, False), (0.51, True)])
def test_the_best_f1_so_far_decides_about_stopping(min_f1: float | None, stops: bool) -> None:
    assert stops_early(history((0.5, 0, 0), (0.1, 0, 0)), EvaluationConfig(min_f1=min_f1)) is stops


def test_selection() -> None:
    points = history((0.5, 0, 0), (0.7, 0, 0), (0.7, 1, 1), (0.6, 0, 0))
    assert selected(points, EvaluationConfig(select="best_f1")).step == 20
    assert selected(points, EvaluationConfig(select="last")).step == 40


def test_position_counts_and_survives_json() -> None:
    position = Position().after_step().after_step().after_epoch().evaluated({"f1": 0.5}).after_step()
    assert (position.step, position.epoch, position.step_in_epoch) == (3, 1, 1)
    assert position.history == (Evaluated(2, 1, {"f1": 0.5}),)
    assert Position.from_json(position.to_json() | {"other": 1}) == position


def test_selection_by_accuracy_protects_what_it_selects() -> None:
    """F1 says 10, accuracy says 20."""
    points = tuple(
        Evaluated(step, step // 10, {"f1": f1, "accuracy": accuracy})
        for step, f1, accuracy in ((10, 0.9, 0.1), (20, 0.2, 0.8), (30, 0.3, 0.7))
    )
    by_accuracy = EvaluationConfig(select="best_accuracy")
    assert selected(points, by_accuracy).step == 20
    assert protected_steps(points, by_accuracy) == {10, 20}
    assert protected_steps(points, EvaluationConfig()) == {10}
