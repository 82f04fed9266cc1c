"""Which training images to annotate next, by several strategies: what ``raytrain-xai annotate suggest`` does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from raytrain_xai.annotation.asked import Asked, ask
from raytrain_xai.annotation.attribution_entropy import attribution_entropy
from raytrain_xai.annotation.class_balanced import class_balanced
from raytrain_xai.annotation.confidence import lack_of_confidence
from raytrain_xai.annotation.disagreement import disagreement, second_opinion
from raytrain_xai.annotation.k_centre import k_centre
from raytrain_xai.annotation.measure import PairScore, Progress, pair_maps, pooled_features, worst_of_images
from raytrain_xai.config import parse_config
from raytrain_xai.data.annotation_order import Order
from raytrain_xai.data.boxes import drawn_order
from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.data.loader import evaluation_batches
from raytrain_xai.errors import ConfigError
from raytrain_xai.explain import Explainer
from raytrain_xai.run_folder import open_run, read_config
from raytrain_xai.sections import StrategyName

FEATURES = "Final"  # tap of k_centre
UNMEASURED = ("random", "class_balanced")  # need no network


def suggest(
    run: str, *, strategy: StrategyName, seed: int, budget: int | None = None, annotated: Sequence[str] = (),
    data: str | None = None, which: str = "selected", device: torch.device | str = "cpu",
    progress: Progress = lambda _: None,
) -> Order:  # fmt: skip
    """Put the images of a training split into the order in which they should be annotated.

    ``random``: as ``guidance.annotated_fraction`` draws at the same seed. ``class_balanced``: turns among the classes.
    ``lowest_confidence``, ``attribution_entropy``, ``disagreement``: by the worst score of an image over its classes.
    ``k_centre``: by coverage of the feature space. Boxes are never looked at.

    Args:
        run: run folder, local or s3://.
        strategy: see above, and the module of that name.
        seed: of draws, and of the order among images with equal scores.
        budget: images to choose; None: all. The first n of a larger budget are those of a budget of n.
        annotated: ids of images that have boxes already: left out, and counted as covered by ``class_balanced`` and
            ``k_centre``.
        data: stored data set with the classes of the run; None: the one it learned from.
        which: checkpoint, see :func:`raytrain_xai.checkpoint.load_network`.
        device: where the network is put.
        progress: called with the number of images that went through the network.
    Returns:
        Scores are such that a larger one comes first, see the modules; those of ``k_centre`` are distances that remain.
        None for the strategies that do not measure.
    Raises:
        ConfigError: not a run folder, a budget larger than the images that are left, or a strategy that does not fit
            the network.
        CheckpointError: no such checkpoint, a damaged one, or one whose answers are no numbers.
        DataError: the data set cannot be used, has other classes, or has no image of ``annotated``.
    """
    config = parse_config(read_config(open_run(run)), source=run)
    path = data or config.data.path
    stored = StoredSplit(path, "train")
    covered = stored.find(annotated)
    count = _checked_budget(budget, len(stored) - len(covered), path)
    chance = drawn_order(len(stored), seed)
    scores: np.ndarray | None = None
    checkpoint = None
    if strategy in UNMEASURED:
        rows = chance[~np.isin(chance, covered)]
        if strategy == "class_balanced":
            rows = class_balanced(stored.annotations, len(stored.info.classes), chance, covered)
    else:
        asked = ask(run, stored, which=which, device=device)
        checkpoint = asked.checkpoint
        rows, scores = _measured(asked, path, strategy, count, covered=covered, chance=chance, progress=progress)
    ids = stored.annotations.ids.take(rows[:count]).to_pylist()
    kept = None if scores is None else tuple(scores[:count].tolist())
    return Order(strategy, seed, run, checkpoint, stored.info.fingerprint, tuple(ids), kept)


def _checked_budget(budget: int | None, left: int, path: str) -> int:
    if budget is not None and budget > left:
        raise ConfigError(f"a budget of {budget} images, {path} has {left} training images to choose from")
    return left if budget is None else budget


def _measured(
    asked: Asked, path: str, strategy: StrategyName, count: int, *, covered: np.ndarray, chance: np.ndarray,
    progress: Progress,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Rows in order, and their scores."""
    explainer = asked.explainer
    batches = evaluation_batches(path, "train", explainer.image_size, asked.batch_size, shorter=explainer.shorter)
    if strategy == "k_centre":
        features = pooled_features(explainer, batches, FEATURES, progress)
        chosen, radius = k_centre(features, count, torch.from_numpy(covered))
        return chosen.numpy(), radius.numpy()
    scores = worst_of_images(explainer, batches, _pair_score(explainer, strategy), progress).numpy()
    place = np.empty_like(chance)
    place[chance] = np.arange(len(chance))
    rows = np.lexsort((place, -scores))
    rows = rows[~np.isin(rows, covered)]
    return rows, scores[rows]


def _pair_score(explainer: Explainer, strategy: StrategyName) -> PairScore:
    own = {"method": explainer.method, "layer": explainer.layer}

    def by_confidence(images: Tensor, rows: Tensor, target: Tensor) -> Tensor:
        return lack_of_confidence(explainer.network(images), rows, target, exclusive=explainer.exclusive)

    def by_entropy(images: Tensor, rows: Tensor, target: Tensor) -> Tensor:
        return attribution_entropy(pair_maps(explainer, images, rows, target, **own))

    def by_disagreement(images: Tensor, rows: Tensor, target: Tensor) -> Tensor:
        method, layer = second_opinion(explainer.network, explainer.layer)
        other = pair_maps(explainer, images, rows, target, method=method, layer=layer)
        return disagreement(pair_maps(explainer, images, rows, target, **own), other)

    if strategy == "lowest_confidence":
        return by_confidence
    layers = [explainer.layer]
    if strategy == "disagreement":
        layers.append(second_opinion(explainer.network, explainer.layer)[1])
    for layer in layers:
        _require_positions(explainer, layer, strategy)
    return by_entropy if strategy == "attribution_entropy" else by_disagreement


@torch.no_grad()
def _require_positions(explainer: Explainer, layer: str, strategy: str) -> None:
    """Refuse before the images are read what would fail on the first of them."""
    side = explainer.image_size
    one = torch.zeros(1, 3, side, side, dtype=torch.uint8, device=explainer.device)
    height, width = explainer.network.features(one, layer).shape[-2:]
    if height * width < 2:
        raise ConfigError(
            f"{strategy} compares positions of a map, {explainer.network.name} at {side} pixels has a single one at "
            f"{layer}; choose another strategy"
        )
