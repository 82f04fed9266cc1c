"""Evaluation of a network on a split: classification and localisation.

Localisation counts every (image, positive class) pair whose class has a box that is not empty, whether or not the image
belongs to the annotation budget (Rao et al., ICCV 2023). Explanations are measured the same way for every run,
guided or not.

The released code takes one gradient over the *whole batch* per pair. In evaluation mode images do not influence
each other, so here one forward pass serves the batch, and one walk back carries all pairs, each as a row of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from raytrain_xai.attribution.attribute import attribute, check_attribution
from raytrain_xai.attribution.tapped import tapped_pass
from raytrain_xai.data.boxes import rasterise
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.guidance.classification import (
    class_accuracy,
    group_accuracy,
    mean_average_precision,
    micro_scores,
    top_accuracy,
)
from raytrain_xai.guidance.evaluation_state import EvaluationState, exact_sum
from raytrain_xai.guidance.metrics import (
    IOU_THRESHOLDS,
    energy_pointing_game,
    iou_at_thresholds,
    is_empty_map,
    object_pixels,
    on_object_energy,
)
from raytrain_xai.guidance.postprocess import Order, localise_map
from raytrain_xai.models.network import Network, evaluation_mode
from raytrain_xai.types import Batch

if TYPE_CHECKING:
    from raytrain_xai.data.dataset import DatasetInfo

# Pairs of one walk back, per image of the batch. The walk holds a few tensors of one layer at a time, the records of
# the forward those of every layer, so that this many pairs take about the memory of the records.
PAIRS_PER_IMAGE = 4
_TOP = 5


@torch.no_grad()
def evaluate(
    network: Network, batches: Iterable[Batch], *, method: str, layer: str, order: Order = "canonical",
    loss: str | None = None, intgrad_steps: int = 8, device: torch.device,
) -> EvaluationState:  # fmt: skip
    """Measure a network, which is on ``device`` already, on batches of a split.

    The network is in evaluation mode meanwhile.

    Args:
        method, layer: attribution and tap, see :func:`raytrain_xai.attribution.attribute.attribute`.
        order, loss: order of post-processing, see :func:`raytrain_xai.guidance.postprocess.localise_map`.
        intgrad_steps: steps of Integrated Gradients.
    Returns:
        State on ``device``; of no samples when ``batches`` is empty.
    Raises:
        ConfigError: the network has no such layer, or the method is not for it.
    """
    check_attribution(network, method, layer)
    parts = [EvaluationState.empty(network.num_classes, device)]
    with evaluation_mode(network):
        for loaded in batches:
            chunks = _pair_chunks(
                loaded, device
            )  # counted where the batch was loaded, so that the device need not wait
            batch = loaded.to(device)
            if not chunks:
                parts.append(_state_of_scores(network(batch.images), batch))
                continue
            tapped = tapped_pass(network, batch.images, layer)
            parts.append(_state_of_scores(tapped.logits, batch))
            for rows, target in chunks:
                attr = attribute(
                    network, tapped, target, rows, method=method, layer=layer, intgrad_steps=intgrad_steps
                )  # fmt: skip
                size = (batch.images.shape[2], batch.images.shape[3])
                parts.append(_state_of_maps(localise_map(attr, size, loss, order), batch, rows, target))
    return parts[0].merge(*parts[1:])


def summarise(state: EvaluationState, info: DatasetInfo, iou_threshold: float | None) -> dict[str, float]:
    """Metrics of a state, all in [0, 1] and higher-is-better except ``empty_maps``; only those that apply.

    Args:
        state: of the whole split.
        info: its ``task`` decides what accuracy means (``multiclass``: the highest score is right; ``multilabel``:
            share of right decisions) and its ``groups`` name the sub-populations of a multi-class task.
        iou_threshold: one of .05, .10, … .95; None takes the best on this state, which is for validation splits.
    Returns:
        f1, precision, recall, accuracy; map; epg, iou, iou_threshold, empty_maps; on_object; top5 of a multi-class task
        with more than five classes; group_<name>, worst_group.
    Raises:
        DataError: the state holds no sample.
        ConfigError: the threshold is not on the grid.
    """
    if state.scores.shape[0] == 0:
        raise DataError("nothing to summarise: the split has no samples; look at it with `raytrain-xai data info`")
    scores, labels, groups = state.scores.cpu(), state.labels.cpu(), state.groups.cpu()
    metrics = micro_scores(scores, labels)
    average_precision = mean_average_precision(scores, labels)
    if average_precision is not None:
        metrics["map"] = average_precision
    metrics |= _localisation(state, iou_threshold)
    if info.task == "multiclass":
        metrics["accuracy"] = class_accuracy(scores, labels)
        if scores.shape[1] > _TOP:
            metrics["top5"] = top_accuracy(scores, labels, _TOP)
        names = info.groups or ()
        per_group = group_accuracy(scores, labels, groups, len(names))
        known = {name: value for name, value in zip(names, per_group, strict=True) if value is not None}
        metrics |= {f"group_{name}": value for name, value in known.items()}
        if known:
            metrics["worst_group"] = min(known.values())
    return metrics


def _localisation(state: EvaluationState, iou_threshold: float | None) -> dict[str, float]:
    position = None if iou_threshold is None else _position(iou_threshold)
    num_pairs, num_objects = int(state.pair_count), int(state.object_count)
    metrics: dict[str, float] = {}
    if num_pairs:
        mean_iou: list[float] = (state.iou_sum / num_pairs).tolist()
        if position is None:
            position = max(range(len(mean_iou)), key=mean_iou.__getitem__)  # the lowest threshold of equals
        metrics["epg"] = float(state.epg_sum) / num_pairs
        metrics["iou"] = mean_iou[position]
        metrics["iou_threshold"] = IOU_THRESHOLDS[position]
        metrics["empty_maps"] = int(state.empty_count) / num_pairs
    if num_objects:
        metrics["on_object"] = float(state.object_sum) / num_objects
    return metrics


def _position(threshold: float) -> int:
    for position, value in enumerate(IOU_THRESHOLDS):
        if abs(value - threshold) < 1e-6:
            return position
    raise ConfigError(
        f"evaluation.iou_threshold {threshold} is not measured; choose a multiple of .05 from .05 to .95, or none"
    )


def _pair_chunks(batch: Batch, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Every positive class with a box, as (image, class) positions (R,) on ``device``, in chunks that bound memory."""
    classes = torch.arange(batch.labels.shape[1], device=batch.labels.device)
    has_box = (batch.box_labels[:, :, None] == classes).any(dim=1)
    rows, target = ((batch.labels > 0) & has_box).nonzero(as_tuple=True)
    if rows.numel() == 0:
        return []
    size = PAIRS_PER_IMAGE * batch.images.shape[0]
    return list(zip(rows.to(device).split(size), target.to(device).split(size), strict=True))


def _state_of_scores(logits: Tensor, batch: Batch) -> EvaluationState:
    empty = EvaluationState.empty(logits.shape[1], logits.device)
    return empty.with_fields(scores=logits.float(), labels=batch.labels > 0, groups=batch.groups)


def _state_of_maps(attr: Tensor, batch: Batch, rows: Tensor, target: Tensor) -> EvaluationState:
    """Sums over the maps (R, H, W) of the pairs (rows, target)."""
    region = rasterise(batch.boxes[rows], batch.box_labels[rows] == target[:, None], (attr.shape[1], attr.shape[2]))
    is_pair = region.flatten(1).any(dim=1)  # a box may round to nothing
    thresholds = torch.tensor(IOU_THRESHOLDS, dtype=attr.dtype, device=attr.device)
    state = EvaluationState.empty(batch.labels.shape[1], attr.device).with_fields(
        pair_count=is_pair.sum(),
        epg_sum=exact_sum(energy_pointing_game(attr, region), is_pair),
        iou_sum=exact_sum(iou_at_thresholds(attr, region, thresholds), is_pair),
        empty_count=(is_empty_map(attr) & is_pair).sum(),
    )
    if batch.masks is None:
        return state
    class_map = batch.masks[rows]
    has_object = (object_pixels(class_map, target) & region).flatten(1).any(dim=1) & batch.has_mask[rows]
    return state.with_fields(
        object_count=has_object.sum(),
        object_sum=exact_sum(on_object_energy(attr, region, class_map, target), has_object),
    )
