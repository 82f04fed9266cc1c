"""A sparse probe for the classes of a data set: fitted on train, chosen on validation, measured on test."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor

from raytrain_xai.concepts.code import SparseCode, combine, stack_codes
from raytrain_xai.data.dataset import open_dataset
from raytrain_xai.data.loader import evaluation_batches
from raytrain_xai.errors import DataError
from raytrain_xai.guidance.classification import class_accuracy
from raytrain_xai.insight.model import InsightModel
from raytrain_xai.insight.probe import PathPlan, PathPoint, Task, coverage, pool_images, walk_path
from raytrain_xai.ranking import average_precision
from raytrain_xai.storage import Location, write_bytes

FORMAT_VERSION = 1
ABOUT, WEIGHTS = "probe.json", "probe.safetensors"
BATCH = 16  # images of one forward pass
_CLOSE = 0.01  # a sparser probe is taken when its measure is at most this share below the best
_LISTED = 10  # concepts of a class in the record


@dataclass(frozen=True)
class PathRow:
    """One solution, measured.

    Attributes:
        penalty: λ.
        concepts_per_class: mean number of weights that are not zero.
        measure: on validation; mean average precision for several classes per image, else accuracy.
        violation: of the optimality conditions, see :class:`~raytrain_xai.insight.probe.PathPoint`.
    """

    penalty: float
    concepts_per_class: float
    measure: float
    violation: float


@dataclass(frozen=True)
class Probe:
    """A chosen probe.

    Attributes:
        classes: names, C.
        task: of the labels.
        weights: (K, C) float32; a logit is the sum of weights times the largest values of concepts.
        path: all solutions, sparsest first.
        chosen: position in ``path``.
        test: measure on the test split; None where there is none.
        coverage: (K, C) float32, see :func:`~raytrain_xai.insight.probe.coverage`, on the training split.
    """

    classes: tuple[str, ...]
    task: Task
    weights: Tensor
    path: tuple[PathRow, ...]
    chosen: int
    test: float | None
    coverage: Tensor


def fit_probe(model: InsightModel, data: str, plan: PathPlan, done: Callable[[int], None] = lambda _: None) -> Probe:
    """Fit along the path, and take the sparsest probe that is nearly as good as the best on validation.

    Args:
        model: encoder and concepts.
        data: prepared data set with the splits train and val.
        plan: how the path is walked.
        done: told the number of images seen after each batch.
    Raises:
        DataError: no such data, or a split is missing; see :func:`~raytrain_xai.insight.probe.walk_path`.
    """
    info = open_dataset(data)
    missing = [split for split in ("train", "val") if not info.splits.get(split)]
    if missing:
        raise DataError(f"{data} has no images in split {missing[0]}; a probe is fitted on train and chosen on val")
    task = cast("Task", info.task)
    code, labels = pooled_split(model, data, "train", done)
    others, truth = pooled_split(model, data, "val", done)
    points = list(walk_path(code, labels, task, plan))
    path = tuple(_row(point, measure(point.weights, others, truth, task)) for point in points)
    best = max(row.measure for row in path)
    chosen = next(i for i, row in enumerate(path) if row.measure >= best * (1 - _CLOSE))
    weights = points[chosen].weights
    test = measure(weights, *pooled_split(model, data, "test", done), task) if info.splits.get("test") else None
    return Probe(info.classes, task, weights, path, chosen, test, coverage(weights, code))


@torch.no_grad()
def pooled_split(
    model: InsightModel, data: str, split: str, done: Callable[[int], None] = lambda _: None
) -> tuple[SparseCode, Tensor]:
    """Codes (N, k) of the images of a split, the largest value of each concept, and their labels (N, C) float."""
    size = model.config.image_size or model.encoder.image_size
    codes: list[SparseCode] = []
    labels: list[Tensor] = []
    for batch in evaluation_batches(data, split, size, BATCH, shorter=model.config.eval_resize):
        codes.append(pool_images(model.codes(batch.images)[0]))
        labels.append(batch.labels.to(model.encoder.device))
        done(len(batch.images))
    return stack_codes(codes), torch.cat(labels)


def measure(weights: Tensor, code: SparseCode, labels: Tensor, task: Task) -> float:
    """Mean average precision over the classes that occur, or the share of images with the right class."""
    logits = combine(code.values, code.indices, weights)
    if task == "multiclass":
        return class_accuracy(logits, labels.bool())
    return float(average_precision(logits, labels).nanmean())


def write_probe(at: Location, model: InsightModel, data: str, probe: Probe) -> None:
    """Write ``probe.safetensors`` with ``weight`` (C, K) and ``probe.json`` into a folder.

    Raises:
        DataError: the folder cannot be written.
    """
    weights = {"weight": probe.weights.T.contiguous().cpu()}
    write_bytes(at.child(WEIGHTS), safetensors.torch.save(weights))
    write_bytes(at.child(ABOUT), (json.dumps(_record(model, data, probe), indent=1, allow_nan=False) + "\n").encode())


def _record(model: InsightModel, data: str, probe: Probe) -> Mapping[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "run": model.origin,
        "fingerprint": model.fingerprint,
        "data": data,
        "task": probe.task,
        "path": [asdict(row) for row in probe.path],
        "chosen": probe.chosen,
        "test": probe.test,
        "classes": {name: _class_record(model, probe, c) for c, name in enumerate(probe.classes)},
    }


def _class_record(model: InsightModel, probe: Probe, c: int) -> dict[str, Any]:
    """Number of concepts of a class, and those that speak for it most."""
    covered = probe.coverage[:, c]
    total = max(float(covered.sum()), 1e-12)
    order = covered.topk(min(_LISTED, int(covered.count_nonzero()))).indices.tolist()
    listed = [
        {"id": k, "name": model.name(k), "weight": float(probe.weights[k, c]), "share": float(covered[k]) / total}
        for k in order
    ]
    return {"concepts": int(probe.weights[:, c].count_nonzero()), "strongest": listed}


def _row(point: PathPoint, value: float) -> PathRow:
    return PathRow(point.penalty, float(point.concepts_per_class.double().mean()), value, point.violation)
