"""Orders of a real training split, asked of small runs."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from raytrain_xai.annotation.suggest import suggest
from raytrain_xai.attribution.attribute import attribute
from raytrain_xai.attribution.tapped import tapped_pass
from raytrain_xai.checkpoint import complete_steps
from raytrain_xai.data.annotation_order import annotation_budget, write_order
from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.data.loader import load_samples
from raytrain_xai.errors import CheckpointError, ConfigError, DataError
from raytrain_xai.explain import Explainer
from raytrain_xai.sections import GuidanceConfig, StrategyName
from raytrain_xai.storage import locate

STRATEGIES = get_args(StrategyName)
MEASURED = ("lowest_confidence", "attribution_entropy", "disagreement")
SIZE = 48


@pytest.fixture(scope="module")
def run(objects: str, make_run, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_run(tmp_path_factory.mktemp("runs"), "bcos", objects, model="bcos_resnet_tiny", image_size=SIZE)


@pytest.fixture(scope="module")
def plain(objects: str, make_run, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_run(tmp_path_factory.mktemp("runs"), "plain", objects, image_size=SIZE)


@pytest.fixture(scope="module")
def stored(objects: str) -> StoredSplit:
    return StoredSplit(objects, "train")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_orders_are_complete_and_nested(run: str, stored: StoredSplit, strategy: StrategyName) -> None:
    order = suggest(run, strategy=strategy, seed=3)
    assert sorted(order.ids) == sorted(stored.annotations.ids.to_pylist())
    assert suggest(run, strategy=strategy, seed=3, budget=5).ids == order.ids[:5]
    assert (order.strategy, order.seed, order.data) == (strategy, 3, stored.info.fingerprint)
    if order.scores is not None:
        assert len(order.scores) == len(order.ids)
        assert all(before >= after for before, after in pairwise(order.scores))
    assert (order.scores is None) == (order.checkpoint is None) == (strategy in ("random", "class_balanced"))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_annotated_images_are_left_out(plain: str, strategy: StrategyName) -> None:
    first = suggest(plain, strategy=strategy, seed=0, budget=6)
    rest = suggest(plain, strategy=strategy, seed=0, annotated=first.ids)
    assert len(rest.ids) == 18
    assert not set(rest.ids) & set(first.ids)
    if strategy != "k_centre":  # which has another mean to go out from, and distances that are rounded otherwise
        assert first.ids + rest.ids == suggest(plain, strategy=strategy, seed=0).ids


def test_chance_is_the_draw_of_a_run(run: str, stored: StoredSplit, tmp_path: Path) -> None:
    write_order(locate(str(tmp_path / "o.json")), suggest(run, strategy="random", seed=11))
    for fraction in (0.25, 0.5):
        ordered = GuidanceConfig(annotation_order=str(tmp_path / "o.json"), annotated_fraction=fraction)
        drawn = GuidanceConfig(annotated_fraction=fraction)
        assert np.array_equal(annotation_budget(stored, ordered, 0), annotation_budget(stored, drawn, 11))


@pytest.mark.parametrize("which", ["run", "plain"])
def test_scores_are_those_of_each_image_alone(which: str, objects: str, request: pytest.FixtureRequest) -> None:
    """Probabilities, maps and cosines of one image and one class at a time, in NumPy; the worst class counts."""
    address = request.getfixturevalue(which)
    explainer = Explainer.load(address)
    orders = {strategy: suggest(address, strategy=strategy, seed=0) for strategy in MEASURED}
    if which == "plain":
        del orders["disagreement"]  # of two methods: their maps are compared by hand elsewhere
    for name in stored_ids(objects)[::6]:
        batch, _ = load_samples(objects, "train", [name], SIZE)
        labels = batch.labels[0].nonzero().flatten().tolist()
        for strategy, order in orders.items():
            expected = max(_score(strategy, explainer, batch.images, label) for label in labels)
            assert order.scores is not None
            # a batch rounds otherwise than an image alone, and units near 0 are then on or off
            assert order.scores[order.ids.index(name)] == pytest.approx(expected, abs=2e-4), (strategy, name)


def stored_ids(data: str) -> list[str]:
    return StoredSplit(data, "train").annotations.ids.to_pylist()


def _score(strategy: str, explainer: Explainer, images: torch.Tensor, label: int) -> float:
    if strategy == "lowest_confidence":
        [explained] = explainer(images, names=[explainer.classes[label]], top=0)[0].classes
        return 1 - explained.probability
    own = _map(explainer, images, label, "Input")
    if strategy == "attribution_entropy":
        share = own[own > 0] / own.sum()
        return float(-(share * np.log(share)).sum() / np.log(own.size)) if share.size else 1.0
    other = _map(explainer, images, label, "Final")
    cells = own.reshape(other.shape[0], SIZE // other.shape[0], other.shape[1], -1).mean(axis=(1, 3))
    lengths = np.sqrt((cells**2).sum() * (other**2).sum())
    return 1 - float((cells * other).sum() / lengths) if lengths > 0 else 1.0


def _map(explainer: Explainer, images: torch.Tensor, label: int, layer: str) -> np.ndarray:
    """Positive part of the default attribution of one class at a tap."""
    with torch.no_grad():
        tapped = tapped_pass(explainer.network, images, layer)
        method = explainer.network.default_attribution
        attr = attribute(explainer.network, tapped, torch.tensor([label]), method=method, layer=layer)
    return attr[0].clamp(min=0).double().numpy()


def test_equals_are_in_the_order_of_chance(objects: str, make_run, tmp_path: Path) -> None:
    """Without weights every image has the same answer, so that no strategy knows more than chance does."""
    run = make_run(tmp_path, "blank", objects, image_size=SIZE)
    _fill(run, 0.0)
    for strategy in MEASURED:
        order = suggest(run, strategy=strategy, seed=5)
        assert len(set(order.scores or ())) == 1
        assert order.ids == suggest(run, strategy="random", seed=5).ids
        assert order.ids != suggest(run, strategy=strategy, seed=6).ids


def test_broken_weights_are_named(objects: str, make_run, tmp_path: Path) -> None:
    run = make_run(tmp_path, "broken", objects, image_size=SIZE)
    _fill(run, float("nan"))
    for strategy in (*MEASURED, "k_centre"):
        with pytest.raises(CheckpointError, match="no numbers"):
            suggest(run, strategy=strategy, seed=0)


def _fill(run: str, value: float) -> None:
    """Replace all weights of a run's checkpoints."""
    from raytrain_xai.checkpoint import (
        Checkpoint,
        checkpoint_name,
        delete_checkpoint,
        read_checkpoint,
        write_checkpoint,
    )

    parent = locate(run).child("checkpoints")
    for step in complete_steps(parent):
        found = read_checkpoint(parent.child(checkpoint_name(step)))
        delete_checkpoint(parent.child(checkpoint_name(step)))
        weights = {key: torch.full_like(tensor, value) for key, tensor in found.model.items()}
        write_checkpoint(parent, Checkpoint(step, weights, {}, found.state), lambda: None)


def test_what_cannot_be_suggested_is_refused(run: str, birds: str, objects: str, make_run, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a budget of 25 images, .* has 24 training images"):
        suggest(run, strategy="random", seed=0, budget=25)
    with pytest.raises(DataError, match="no sample 'gone'"):
        suggest(run, strategy="random", seed=0, annotated=["gone"])
    with pytest.raises(DataError, match="was trained on 8 classes, .* has 2"):
        suggest(run, strategy="k_centre", seed=0, data=birds)
    with pytest.raises(ConfigError, match="is not a run"):
        suggest(objects, strategy="random", seed=0)
    tiny = make_run(tmp_path, "tiny", objects, image_size=32)
    with pytest.raises(ConfigError, match="disagreement compares positions.*at 32 pixels has a single one at Final"):
        suggest(tiny, strategy="disagreement", seed=0)
