"""Orders as files, and the budgets that are taken from them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from raytrain_xai.config import parse_config
from raytrain_xai.data.annotation_order import Order, annotation_budget, read_order, write_order
from raytrain_xai.data.boxes import drawn_order
from raytrain_xai.data.dataset import StoredSplit, open_dataset
from raytrain_xai.data.image_names import image_stem
from raytrain_xai.data.loader import training_batches
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.sections import GuidanceConfig
from raytrain_xai.storage import locate


@pytest.fixture
def stored(multi: str) -> StoredSplit:
    return StoredSplit(multi, "train")


@pytest.fixture
def backwards(stored: StoredSplit) -> Order:
    ids = stored.annotations.ids.to_pylist()[::-1]
    return Order("random", 0, "runs/r", None, stored.info.fingerprint, tuple(ids), None)


def guidance(tmp_path: Path, order: Order, fraction: float = 1.0) -> GuidanceConfig:
    write_order(locate(str(tmp_path / "order.json")), order)
    return GuidanceConfig(annotation_order=str(tmp_path / "order.json"), annotated_fraction=fraction)


def test_an_order_is_read_as_it_was_written(tmp_path: Path, backwards: Order) -> None:
    at = locate(str(tmp_path / "order.json"))
    scored = replace(backwards, checkpoint="step-00000001", scores=tuple(0.5 for _ in backwards.ids))
    for order in (backwards, scored):
        write_order(at, order)
        assert read_order(at) == order


def test_the_budget_is_the_front_of_the_order(tmp_path: Path, stored: StoredSplit, backwards: Order) -> None:
    n = len(stored)
    for fraction in (0.0, 0.1, 0.55, 1.0):
        chosen = annotation_budget(stored, guidance(tmp_path, backwards, fraction), seed=7)
        assert np.flatnonzero(chosen).tolist() == list(range(n - int(fraction * n), n))


def test_the_order_of_chance_is_the_draw_without_an_order(
    tmp_path: Path, stored: StoredSplit, backwards: Order
) -> None:
    ids = stored.annotations.ids.to_pylist()
    drawn = replace(backwards, ids=tuple(ids[row] for row in drawn_order(len(stored), 7)))
    for fraction in (0.1, 0.5):
        without = annotation_budget(stored, GuidanceConfig(annotated_fraction=fraction), seed=7)
        assert 0 < without.sum() < len(stored)
        assert np.array_equal(annotation_budget(stored, guidance(tmp_path, drawn, fraction), seed=0), without)


def test_training_batches_annotate_exactly_the_budget(
    tmp_path: Path, multi: str, stored: StoredSplit, backwards: Order
) -> None:
    count = int(0.3 * len(stored))
    config = parse_config({
        "name": "r", "epochs": 1, "batch_size": 8, "data": {"path": multi, "image_size": 32},
        "model": {"name": "resnet18"}, "guidance": guidance(tmp_path, backwards, 0.3).model_dump(),
    })  # fmt: skip
    annotated = [
        row
        for epoch in range(3)
        for batch in training_batches(config, open_dataset(multi), epoch, rank=0, world_size=1)
        for row in batch.index[batch.annotated_rows].tolist()
    ]
    allowed = set(range(len(stored) - count, len(stored)))
    assert set(annotated) == {row for row in allowed if stored.annotations.has_box[row]}


def test_a_partial_order_says_which_share_it_is(tmp_path: Path, stored: StoredSplit, backwards: Order) -> None:
    for count in (1, 7, 13):
        partial = replace(backwards, ids=backwards.ids[:count])
        with pytest.raises(ConfigError, match=rf"asks for {len(stored)} images, .* names {count};") as refused:
            annotation_budget(stored, guidance(tmp_path, partial), seed=0)
        share = float(re.search(r"annotated_fraction=([\d.]+)$", str(refused.value))[1])  # pyright: ignore
        assert annotation_budget(stored, guidance(tmp_path, partial, share), seed=0).sum() == count


def test_orders_that_do_not_fit_are_refused(tmp_path: Path, stored: StoredSplit, backwards: Order) -> None:
    with pytest.raises(DataError, match="another data set"):
        annotation_budget(stored, guidance(tmp_path, replace(backwards, data="0" * 64)), seed=0)
    with pytest.raises(DataError, match="'nobody'"):
        annotation_budget(stored, guidance(tmp_path, replace(backwards, ids=("nobody", *backwards.ids))), seed=0)
    twice = replace(backwards, ids=(backwards.ids[5], *backwards.ids))
    with pytest.raises(DataError, match=f"names '{backwards.ids[5]}' 2 times"):
        annotation_budget(stored, guidance(tmp_path, twice), seed=0)
    with pytest.raises(ConfigError, match=r"no order of annotation at .*gone.json"):
        annotation_budget(stored, GuidanceConfig(annotation_order=str(tmp_path / "gone.json")), seed=0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda raw: raw.pop("ids"), "ids: Field required"),
        (lambda raw: raw.update(ids="abc"), "ids"),
        (lambda raw: raw.update(scores=[1.0]), "1 scores for"),
        (lambda raw: raw.update(format_version=2), "format 2, this release reads 1"),
        (lambda raw: raw.clear(), "format_version"),
    ],
)
def test_damaged_orders_are_named(tmp_path: Path, backwards: Order, change, reason: str) -> None:
    at = locate(str(tmp_path / "order.json"))
    write_order(at, backwards)
    raw = json.loads((tmp_path / "order.json").read_text())
    change(raw)
    (tmp_path / "order.json").write_text(json.dumps(raw))
    with pytest.raises(DataError, match=reason) as refused:
        read_order(at)
    assert "order.json" in str(refused.value)
    (tmp_path / "order.json").write_text("{")
    with pytest.raises(DataError, match="no order of annotation"):
        read_order(at)


def test_file_names_are_safe_and_tell_images_apart() -> None:
    assert image_stem("2008_000123") == "2008_000123"
    ids = ["train/cat/0.png", "train_cat/0.png", "a b", "a_b", "ä", "ö", "?d=1", "..", "-x", "x" * 300, "y" + "x" * 300]
    stems = [image_stem(id) for id in ids]
    assert len(set(stems)) == len(ids)
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}", stem) for stem in stems)
    assert stems[0].startswith("train_cat_0.png-")
    assert stems[3] == "a_b"
