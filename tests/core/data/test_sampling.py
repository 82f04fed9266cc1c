from __future__ import annotations

import numpy as np
import pytest

from raytrain_xai.data.sampling import TrainingPlan, WorkerPlan, epoch_order, evaluation_plan, repeated, training_plan
from raytrain_xai.errors import DataError

SHARDS = (40, 40, 13, 7)


def test_order_is_a_permutation_that_changes_with_seed_and_epoch() -> None:
    order = epoch_order(SHARDS, 32, seed=0, epoch=0)
    assert sorted(order.tolist()) == list(range(100))
    assert np.array_equal(order, epoch_order(SHARDS, 32, seed=0, epoch=0))
    assert not np.array_equal(order, epoch_order(SHARDS, 32, seed=0, epoch=1))
    assert not np.array_equal(order, epoch_order(SHARDS, 32, seed=1, epoch=0))


def test_window_of_one_keeps_shards_whole() -> None:
    order = epoch_order(SHARDS, 1, seed=0, epoch=3)
    starts = {0: 40, 40: 40, 80: 13, 93: 7}
    position = 0
    while position < 100:
        first = int(order[position])
        length = starts.pop(first)  # every shard once, from its first row on
        assert order[position : position + length].tolist() == list(range(first, first + length))
        position += length
    assert not starts


def test_window_bounds_the_working_set() -> None:
    sequence = epoch_order((10,) * 10, 1, seed=5, epoch=0)
    order = epoch_order((10,) * 10, 20, seed=5, epoch=0)
    for start in range(0, 100, 20):
        assert sorted(order[start : start + 20]) == sorted(sequence[start : start + 20])


def test_large_window_spreads_rows_evenly() -> None:
    """Mean position of each row over many epochs is the middle: chi-square free check by its standard error."""
    positions = np.stack([np.argsort(epoch_order((25, 25), 50, 0, epoch)) for epoch in range(400)])
    error = 50 / np.sqrt(12 * 400)
    assert np.abs(positions.mean(axis=0) - 24.5).max() < 4.5 * error


@pytest.mark.parametrize("nearby", [False, True])
@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7, 8, 16])
def test_parts_of_a_step_are_the_same_samples_whatever_their_number(parts: int, nearby: bool) -> None:
    order = epoch_order(SHARDS, 32, 0, 0)
    annotated = np.arange(100) % 7 == 0
    steps = training_plan(order, annotated, batch_size=16, parts=parts, epoch=0, nearby=nearby)
    assert len(steps) == 6  # 100 // 16, the incomplete last step is dropped
    for number, step in enumerate(steps):
        members = order[16 * number : 16 * number + 16]
        assert sorted(np.concatenate([plan.indices for plan in step])) == sorted(members)
        assert {len(plan.indices) for plan in step} == {16 // parts, -(-16 // parts)}
        assert {plan.step_annotated for plan in step} == {int(annotated[members].sum())}
        counts = [len(plan.annotated_rows) for plan in step]
        assert sum(counts) == annotated[members].sum()
        assert max(counts) - min(counts) <= 1
        for plan in step:
            assert annotated[plan.indices[plan.annotated_rows]].all()
            assert plan.step_size == 16


@pytest.mark.parametrize("nearby", [False, True])
def test_workers_share_annotated_samples_evenly_over_accumulated_parts(nearby: bool) -> None:
    steps = training_plan(np.arange(64), np.arange(64) < 21, batch_size=64, parts=2 * 4, epoch=0, nearby=nearby)
    per_worker = [sum(len(plan.annotated_rows) for plan in steps[0][rank::2]) for rank in range(2)]
    assert sorted(per_worker) == [10, 11]


def test_neighbours_go_to_one_part() -> None:
    """Rows 0 to 7, of which 1, 4 and 6 are annotated, in two parts: two and one of them, then the first rows left."""
    order, annotated = np.array([5, 1, 7, 4, 0, 6, 3, 2]), np.isin(np.arange(8), [1, 4, 6])
    ((first, second),) = training_plan(order, annotated, batch_size=8, parts=2, epoch=0, nearby=True)
    assert first.indices.tolist() == [1, 4, 0, 2] and first.annotated_rows.tolist() == [0, 1]
    assert second.indices.tolist() == [6, 3, 5, 7] and second.annotated_rows.tolist() == [0]


def groups_read(steps: TrainingPlan, rank: int, world_size: int) -> int:
    return len({int(row) // 64 for plan in WorkerPlan(steps, 0, rank, world_size) for row in plan.indices})


def test_a_worker_reads_near_its_share_of_the_files() -> None:
    """Of the 64 row groups of a window, eight workers need 8 each; dealt out at random each of them needs all."""
    order, annotated = epoch_order((512,) * 8, 4096, 0, 0), np.arange(4096) % 3 == 0
    for nearby, most in ((False, 64), (True, 24)):
        steps = training_plan(order, annotated, batch_size=512, parts=8, epoch=0, nearby=nearby)
        read = [groups_read(steps, rank, 8) for rank in range(8)]
        assert max(read) <= most and sum(read) >= 64
        assert nearby or min(read) == 64


def test_split_smaller_than_a_batch_is_refused() -> None:
    with pytest.raises(DataError, match="7 training samples .* batch of 8"):
        training_plan(np.arange(7), np.zeros(7, dtype=bool), batch_size=8, parts=1, epoch=0)
    assert len(training_plan(np.arange(8), np.zeros(8, dtype=bool), batch_size=8, parts=1, epoch=0)) == 1


@pytest.mark.parametrize(("n", "world_size"), [(10, 1), (10, 3), (2, 4), (0, 2)])
def test_evaluation_sees_every_row_once(n: int, world_size: int) -> None:
    plans = [evaluation_plan(n, 4, rank=rank, world_size=world_size) for rank in range(world_size)]
    rows = [int(i) for share in plans for plan in share for i in plan.indices]
    assert rows == list(range(n))
    assert all(0 < len(plan.indices) <= 4 for share in plans for plan in share)


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_pairs_stay_together_whatever_the_parts(parts: int) -> None:
    order = epoch_order(SHARDS, 32, 0, 0)
    steps = training_plan(order, np.arange(100) % 3 == 0, batch_size=16, parts=parts, epoch=0, paired=True)
    expected = {frozenset(pair) for pair in order[:96].reshape(-1, 2).tolist()}
    plans = [plan for step in steps for plan in step]
    assert {frozenset(pair) for plan in plans for pair in plan.indices.reshape(-1, 2).tolist()} == expected
    assert {len(plan.indices) for plan in plans} == {16 // parts}


def test_repeated_rows_share_a_step_and_the_epoch_keeps_its_length() -> None:
    order = np.random.default_rng(0).permutation(100)
    rows, times = repeated(order, 4, 20, seed=0, epoch=1)
    assert len(rows) == len(times) == 100
    for start in range(0, 100, 20):
        drawn = list(zip(rows[start : start + 20].tolist(), times[start : start + 20].tolist(), strict=True))
        first = start // 4
        assert sorted(drawn) == sorted((int(row), time) for row in order[first : first + 5] for time in range(4))
    again, _ = repeated(order, 4, 20, seed=0, epoch=2)
    assert not np.array_equal(rows, again)
    assert np.array_equal(rows[:20], repeated(order, 4, 20, seed=0, epoch=1)[0][:20])


def test_repetitions_travel_with_their_rows() -> None:
    rows, times = repeated(np.arange(40), 2, 8, seed=0, epoch=0)
    known = {(int(row), int(time)) for row, time in zip(rows, times, strict=True)}
    steps = training_plan(rows, np.arange(40) % 5 == 0, batch_size=8, parts=2, epoch=0, repetition=times)
    dealt: list[tuple[int, int]] = []
    for plan in (plan for step in steps for plan in step):
        assert plan.repetition is not None
        dealt += zip(plan.indices.tolist(), plan.repetition.tolist(), strict=True)
    assert len(dealt) == 40 and set(dealt) == known


def test_a_limited_evaluation_takes_rows_at_even_distances_whatever_the_workers() -> None:
    """4 of 10 rows: 0, 2.5, 5, 7.5, rounded down; shared out as all rows would be."""
    shares = [
        [plan.indices.tolist() for plan in evaluation_plan(10, 3, rank=rank, world_size=2, max_images=4)]
        for rank in range(2)
    ]
    assert shares == [[[0, 2]], [[5, 7]]]
    whole = evaluation_plan(10, 3, rank=0, world_size=1, max_images=99)
    assert [plan.indices.tolist() for plan in whole] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9]]


def test_a_worker_draws_its_parts_of_every_step_from_any_step_on() -> None:
    order = epoch_order(SHARDS, 32, 0, 0)
    steps = training_plan(order, np.arange(100) % 7 == 0, batch_size=16, parts=2 * 4, epoch=0)
    for rank in range(2):
        expected = [plan.indices.tolist() for step in steps for plan in step[rank::2]]
        for first_step in (0, 4, 6):
            own = WorkerPlan(steps, first_step, rank, world_size=2)
            assert [plan.indices.tolist() for plan in own] == expected[4 * first_step :]
            assert len(own) == len(expected) - 4 * first_step
    with pytest.raises(IndexError):
        steps[6]
