from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from raytrain_xai.config import RunConfig, parse_config
from raytrain_xai.data.boxes import annotation_subset
from raytrain_xai.data.dataset import StoredSplit, open_dataset
from raytrain_xai.data.imagefolder import read_imagefolder
from raytrain_xai.data.loader import TrainingData, evaluation_batches, load_samples, training_batches
from raytrain_xai.data.parquet import read_columns
from raytrain_xai.data.prepare import prepare
from raytrain_xai.errors import DataError
from raytrain_xai.types import Batch


def make_config(
    path: str, *, batch_size: int = 16, accumulate: int = 1, fraction: float = 1.0, mixup: float = 0.0, **data
) -> RunConfig:
    return parse_config(
        {
            "name": "test", "epochs": 1, "seed": 5, "batch_size": batch_size, "accumulate": accumulate,
            "data": {"path": path, "image_size": 32, "shuffle_window": 64, **data},
            "model": {"name": "resnet18"}, "guidance": {"annotated_fraction": fraction},
            "mixing": {"mixup_alpha": mixup},
        }
    )  # fmt: skip


def assert_equal(a: Sequence[Batch], b: Sequence[Batch]) -> None:
    assert len(a) == len(b) > 0
    for left, right in zip(a, b, strict=True):
        for field in fields(Batch):
            x, y = getattr(left, field.name), getattr(right, field.name)
            assert torch.equal(x, y) if isinstance(x, torch.Tensor) else x == y, field.name


def test_one_epoch_sees_every_sample_once(birds: str) -> None:
    """150 images in steps of 16: 144 different ones, the same for one and for two workers, step by step."""
    config, info = make_config(birds), open_dataset(birds)
    alone = [set(b.index.tolist()) for b in training_batches(config, info, 0, rank=0, world_size=1)]
    assert len(set.union(*alone)) == 144 == sum(map(len, alone))
    ranks = [list(training_batches(config, info, 0, rank=rank, world_size=2)) for rank in range(2)]
    together = [set(a.index.tolist()) | set(b.index.tolist()) for a, b in zip(*ranks, strict=True)]
    assert together == alone
    assert all(len(b.index) == 8 and b.step_size == 16 for rank in ranks for b in rank)


def test_accumulated_parts_make_up_the_step(birds: str) -> None:
    info = open_dataset(birds)
    whole = list(training_batches(make_config(birds), info, 0, rank=0, world_size=1))
    parts = list(training_batches(make_config(birds, accumulate=4), info, 0, rank=0, world_size=1))
    assert len(parts) == 4 * len(whole) == 36
    for step, batch in enumerate(whole):
        members = torch.cat([p.index for p in parts[4 * step : 4 * step + 4]])
        assert sorted(members.tolist()) == sorted(batch.index.tolist())


@pytest.mark.parametrize("augment", ["none", "flip", "crop"])
def test_resuming_at_a_step_gives_the_same_batches(birds: str, augment: str) -> None:
    config, info = make_config(birds, accumulate=2, augment=augment), open_dataset(birds)
    whole = training_batches(config, info, 3, rank=1, world_size=2)
    rest = training_batches(config, info, 3, rank=1, world_size=2, start_step=5)
    assert len(whole) == 18
    assert len(rest) == 8
    assert_equal(list(whole)[10:], list(rest))


def test_epochs_differ_in_order_and_augmentation(birds: str) -> None:
    data = TrainingData(make_config(birds, augment="flip"), open_dataset(birds), rank=0, world_size=1)
    first, second = (
        {int(i): img for b in data.epoch(e) for i, img in zip(b.index, b.images, strict=True)} for e in (0, 1)
    )
    assert list(first) != list(second)
    both = first.keys() & second.keys()
    assert 0.3 < sum(torch.equal(first[i], second[i]) for i in both) / len(both) < 0.7


@pytest.mark.parametrize("cache", [False, True])
def test_decoding_processes_change_nothing(birds: str, cache: bool) -> None:
    info = open_dataset(birds)
    plain = make_config(birds, augment="flip", cache_decoded=cache)
    parallel = make_config(birds, augment="flip", cache_decoded=cache, num_loader_workers=2)
    data = TrainingData(parallel, info, rank=0, world_size=1)
    for epoch in range(2):  # in the second epoch the cache is read
        expected = list(TrainingData(plain, info, rank=0, world_size=1).epoch(epoch))
        assert_equal(expected, list(data.epoch(epoch)))


def test_cache_changes_nothing(multi: str) -> None:
    info = open_dataset(multi)
    plain = TrainingData(make_config(multi, augment="flip"), info, rank=0, world_size=1)
    cached = TrainingData(make_config(multi, augment="flip", cache_decoded=True), info, rank=0, world_size=1)
    for epoch in range(2):
        for a, b in zip(plain.epoch(epoch), cached.epoch(epoch), strict=True):
            assert torch.equal(a.images, b.images)
            assert torch.equal(a.masks, b.masks)  # type: ignore[arg-type]
            torch.testing.assert_close(a.boxes, b.boxes)


def test_reading_leaves_the_global_generator_alone(birds: str) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    list(training_batches(make_config(birds, augment="crop"), open_dataset(birds), 0, rank=0, world_size=1))
    assert torch.equal(before, torch.get_rng_state())


def test_annotation_budget_reaches_the_batches(birds: str) -> None:
    info = open_dataset(birds)
    chosen = annotation_subset(150, 0.3, seed=5)
    config = make_config(birds, fraction=0.3)
    for a, b in zip(*(training_batches(config, info, 0, rank=r, world_size=2) for r in range(2)), strict=True):
        total = int(chosen[torch.cat([a.index, b.index])].sum())
        assert a.step_annotated == b.step_annotated == total == len(a.annotated_rows) + len(b.annotated_rows)
        assert abs(len(a.annotated_rows) - len(b.annotated_rows)) <= 1
        for batch in (a, b):
            assert set(batch.index[batch.annotated_rows].tolist()) == set(batch.index[chosen[batch.index]].tolist())


def test_batch_contents_agree_with_the_stored_rows(multi: str) -> None:
    stored = StoredSplit(multi, "train")
    notes = stored.annotations
    batch = next(iter(training_batches(make_config(multi), open_dataset(multi), 0, rank=0, world_size=1)))
    assert batch.images.dtype == torch.uint8
    assert batch.images.shape == (16, 3, 32, 32)
    assert batch.labels.shape == (16, 8)
    assert batch.masks is not None
    assert batch.has_mask.all()
    for row, index in enumerate(batch.index.tolist()):
        own = slice(notes.box_offsets[index], notes.box_offsets[index + 1])
        count = len(notes.boxes[own])
        assert batch.box_labels[row, :count].tolist() == notes.box_labels[own].tolist()
        assert (batch.box_labels[row, count:] == -1).all()
        np.testing.assert_allclose(batch.boxes[row, :count], notes.boxes[own] / 2)  # 64 px -> 32 px
        assert batch.labels[row].nonzero().flatten().tolist() == sorted(set(notes.box_labels[own].tolist()))
        assert set(batch.masks[row].unique().tolist()) - {0} <= {label + 1 for label in notes.box_labels[own]}


def test_batch_larger_than_the_split_is_refused(multi: str) -> None:
    with pytest.raises(DataError, match="40 training samples"):
        training_batches(make_config(multi, batch_size=64), open_dataset(multi), 0, rank=0, world_size=1)


def test_data_set_that_changed_under_a_run_is_refused(birds: str, multi: str) -> None:
    with pytest.raises(DataError, match="prepared anew"):
        training_batches(make_config(multi), open_dataset(birds), 0, rank=0, world_size=1)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_covers_the_split_without_repeats(birds: str, world_size: int) -> None:
    shares = [list(evaluation_batches(birds, "test", 32, 20, rank=r, world_size=world_size)) for r in range(world_size)]
    index = torch.cat([b.index for share in shares for b in share])
    assert index.tolist() == list(range(75))
    groups = torch.cat([b.groups for share in shares for b in share])
    assert groups.bincount().tolist() == [19, 19, 19, 18]
    assert all(b.annotated_rows.tolist() == list(range(len(b.index))) for share in shares for b in share)


def test_gallery_samples_come_in_the_order_asked_for(birds: str) -> None:
    batch, ids = load_samples(birds, "test", [7, 3], 32)
    assert batch.index.tolist() == [7, 3]
    again, same = load_samples(birds, "test", ids, 32)
    assert same == ids == ["test-000007", "test-000003"]
    assert torch.equal(batch.images, again.images)
    evaluated = torch.cat([b.images for b in evaluation_batches(birds, "test", 32, 64)])
    assert torch.equal(evaluated[7], batch.images[0])


@pytest.mark.parametrize("wrong", [["nobody"], [75], [-1], []])
def test_unknown_samples_are_refused(birds: str, wrong: list) -> None:
    with pytest.raises(DataError):
        load_samples(birds, "test", wrong, 32)


def test_images_without_boxes_stay_outside_the_budget(tmp_path: Path, make_jpeg) -> None:
    lines = ["path,label,x0,y0,x1,y1"]
    for name in ("cat", "dog"):
        folder = tmp_path / "src" / "train" / name
        folder.mkdir(parents=True)
        for number in range(8):
            (folder / f"{number}.jpg").write_bytes(make_jpeg(40, 40, seed=number))
        lines += [f"train/{name}/{number}.jpg,{name},5,5,20,20" for number in range(3)]
    (tmp_path / "src" / "boxes.csv").write_text("\n".join(lines))
    stored = str(tmp_path / "stored")
    prepare(read_imagefolder(str(tmp_path / "src"), seed=0), stored)
    (batch,) = training_batches(make_config(stored), open_dataset(stored), 0, rank=0, world_size=1)
    assert batch.step_annotated == 6
    assert (batch.box_labels[batch.annotated_rows] >= 0).any(dim=1).all()
    assert sorted(batch.index[batch.annotated_rows].tolist()) == [0, 1, 2, 8, 9, 10]
    assert batch.masks is None
    assert not batch.has_mask.any()


def test_an_epoch_reads_each_row_group_once(birds: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = TrainingData(make_config(birds, shuffle_window=256), open_dataset(birds), rank=0, world_size=1)
    read: list[int | None] = []

    def counted(reader, columns, row_group=None):
        read.append(row_group)
        return read_columns(reader, columns, row_group)

    monkeypatch.setattr("raytrain_xai.data.dataset.read_columns", counted)
    list(data.epoch(0))
    assert sorted(read) == [0, 0, 1]  # 90 rows are two groups, 60 are one


def test_repeated_samples_come_in_one_step_each_augmented_anew(birds: str) -> None:
    config, info = make_config(birds, repeats=4, augment="crop"), open_dataset(birds)
    steps = list(training_batches(config, info, 0, rank=0, world_size=1))
    assert len(steps) == 9, "as many as without repeats"
    for batch in steps:
        rows, counts = batch.index.unique(return_counts=True)
        assert counts.tolist() == [4, 4, 4, 4] or (len(rows) <= 6 and counts.sum() == 16)  # 150 is no multiple of 16
        copies = batch.images[batch.index == rows[counts == 4][0]]
        assert len({copy.numpy().tobytes() for copy in copies}) == 4
    ranks = [list(training_batches(config, info, 0, rank=rank, world_size=2)) for rank in range(2)]
    for step, shares in enumerate(zip(*ranks, strict=True)):
        together = torch.cat([share.images for share in shares]).flatten(1).tolist()
        assert sorted(together) == sorted(steps[step].images.flatten(1).tolist()), "whoever makes a copy makes the same"


def test_pairs_to_mix_are_the_same_for_any_number_of_workers(birds: str) -> None:
    info = open_dataset(birds)

    def pairs(accumulate: int, world_size: int) -> list[set[tuple[int, int]]]:
        config = make_config(birds, accumulate=accumulate, mixup=0.2)
        parts = [training_batches(config, info, 0, rank=rank, world_size=world_size) for rank in range(world_size)]
        found: list[set[tuple[int, int]]] = [set() for _ in range(9)]
        for part in parts:
            for number, batch in enumerate(part):
                found[number // accumulate] |= {(a, b) for a, b in batch.index.view(-1, 2).tolist()}
        return found

    assert pairs(1, 1) == pairs(2, 1) == pairs(2, 2) == pairs(1, 4)


def test_training_and_evaluation_may_differ_in_size(birds: str) -> None:
    config, info = make_config(birds, train_size=40), open_dataset(birds)
    batch = next(iter(training_batches(config, info, 0, rank=0, world_size=1)))
    assert batch.images.shape[2:] == (40, 40)
    squeezed = next(iter(evaluation_batches(birds, "val", 32, 4)))
    cut = next(iter(evaluation_batches(birds, "val", 32, 4, shorter=36)))
    assert cut.images.shape == squeezed.images.shape == (4, 3, 32, 32)
    assert not torch.equal(cut.images, squeezed.images)
    ids = cut.index.tolist()
    assert torch.equal(load_samples(birds, "val", ids, 32, shorter=36)[0].images, cut.images)
