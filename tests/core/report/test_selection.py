"""The images of the gallery: spread over groups or classes, and a function of the labels alone."""

from __future__ import annotations

from collections import Counter

from raytrain_xai.report.selection import Choice, choose_images


def test_every_group_gives_equally_many_at_even_distances() -> None:
    groups = [0] * 8 + [1] * 4
    labels = [[0]] * 8 + [[1]] * 4
    # Two of eight: rows 2 and 6 (the middles of two halves); two of four: rows 1 and 3 of the group.
    assert choose_images(labels, groups, 4) == [
        Choice(2, 0, 0),
        Choice(6, 0, 0),
        Choice(9, 1, 1),
        Choice(11, 1, 1),
    ]


def test_a_group_of_few_is_not_crowded_out() -> None:
    groups = [0] * 500 + [1] * 500 + [2, 3]
    chosen = choose_images([[0]] * 1002, groups, 8)
    assert Counter(choice.group for choice in chosen) == {0: 2, 1: 2, 2: 1, 3: 1}


def test_without_groups_the_most_frequent_classes_are_shown() -> None:
    labels = [[0], [1], [1], [2], [2], [2], []]
    chosen = choose_images(labels, None, 2)
    assert [choice.target for choice in chosen] == [1, 2]
    assert all(choice.target in labels[choice.index] for choice in chosen)


def test_an_image_of_two_classes_is_shown_once() -> None:
    chosen = choose_images([[0, 1], [0, 1]], None, 2)
    assert sorted(choice.index for choice in chosen) == [0, 1]
    assert [choice.target for choice in chosen] == [0, 1]


def test_fewer_images_than_asked_for() -> None:
    assert choose_images([[0], []], None, 12) == [Choice(0, 0, None)]
    assert choose_images([], None, 12) == []


def test_the_choice_is_deterministic_and_never_repeats_an_image() -> None:
    labels = [[row % 5, (row * 7) % 5] if row % 3 else [row % 5] for row in range(97)]
    first = choose_images(labels, None, 12)
    assert first == choose_images(labels, None, 12)
    assert len({choice.index for choice in first}) == 12
