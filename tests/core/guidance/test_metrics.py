"""Localisation metrics against hand-computed numbers, a loop over maps and thresholds, and quantus."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from raytrain_xai.guidance.metrics import (
    IOU_THRESHOLDS,
    energy_pointing_game,
    iou_at_thresholds,
    is_empty_map,
    on_object_energy,
)


def iou_by_definition(attr: Tensor, mask: Tensor, threshold: float) -> float:
    positive = attr.clamp(min=0)
    low, high = positive.min(), positive.max()
    scaled = (positive - low) / (high - low) if high > low else torch.full_like(positive, float(high > 0))
    predicted = scaled > threshold
    return ((predicted & mask).sum() / (predicted | mask).sum()).item()


def awkward_maps() -> tuple[Tensor, Tensor]:
    """Random maps and regions, then: zero, negative, constant, shifted constant; full region, one pixel, border."""
    generator = torch.Generator().manual_seed(5)
    attr = torch.randn(10, 9, 11, generator=generator)
    attr[4], attr[5], attr[6] = 0, -1, 0.25
    attr[7] = attr[7].abs() + 3  # minimum far from zero
    mask = torch.rand(10, 9, 11, generator=generator) > 0.6
    mask[8] = True
    mask[9] = False
    mask[9, 8, 10] = True
    return attr, mask


def test_epg_by_hand() -> None:
    attr = torch.tensor([[[1.0, 3.0], [-7.0, 4.0]], [[-1.0, 0.0], [0.0, -2.0]]])
    mask = torch.tensor([[[True, False], [True, True]], [[True, True], [True, True]]])
    assert energy_pointing_game(attr, mask).tolist() == [5 / 8, 0]
    assert is_empty_map(attr).tolist() == [False, True]


def test_iou_by_hand() -> None:
    attr = torch.tensor([[[1.0, 3.0], [-7.0, 5.0]]])  # positive part 1 3 0 5, scaled .2 .6 0 1
    mask = torch.tensor([[[True, False], [True, True]]])
    iou = iou_at_thresholds(attr, mask, torch.tensor([0.1, 0.5, 0.6, 0.9]))
    torch.testing.assert_close(iou, torch.tensor([[2 / 4, 1 / 4, 1 / 3, 1 / 3]]))


def test_iou_equals_the_definition_for_every_map_and_threshold() -> None:
    attr, mask = awkward_maps()
    actual = iou_at_thresholds(attr, mask, torch.tensor(IOU_THRESHOLDS))
    expected = [[iou_by_definition(a, m, t) for t in IOU_THRESHOLDS] for a, m in zip(attr, mask, strict=True)]
    assert torch.equal(actual, torch.tensor(expected))


def test_iou_of_maps_without_shape() -> None:
    attr, mask = awkward_maps()
    iou = iou_at_thresholds(attr, mask, torch.tensor(IOU_THRESHOLDS))
    assert not iou[4].any()  # zero: nothing predicted
    assert not iou[5].any()  # negative: nothing predicted
    assert torch.equal(iou[6], mask[6].float().mean().expand(19))  # constant: everything predicted


def test_iou_of_no_maps() -> None:
    empty = torch.zeros(0, 4, 4)
    assert iou_at_thresholds(empty, empty.bool(), torch.tensor(IOU_THRESHOLDS)).shape == (0, 19)


def test_thresholds_are_the_grid_of_twentieths() -> None:
    assert len(IOU_THRESHOLDS) == 19
    assert IOU_THRESHOLDS[0] == 0.05 and IOU_THRESHOLDS[9] == 0.5 and IOU_THRESHOLDS[-1] == 0.95


def test_epg_equals_relevance_mass_accuracy_of_quantus() -> None:
    import quantus

    attr, mask = awkward_maps()
    attr, mask = attr[[0, 1, 2, 3, 6, 7, 8, 9]], mask[[0, 1, 2, 3, 6, 7, 8, 9]]
    metric = quantus.RelevanceMassAccuracy(abs=False, normalise=False, disable_warnings=True, display_progressbar=False)
    expected = metric(
        model=torch.nn.Flatten(),
        x_batch=np.zeros((8, 1, 9, 11), dtype=np.float32),
        y_batch=np.zeros(8, dtype=int),
        a_batch=attr.clamp(min=0)[:, None].numpy(),
        s_batch=mask[:, None].numpy(),
        device="cpu",
    )
    assert energy_pointing_game(attr, mask).tolist() == pytest.approx([float(value) for value in expected], rel=1e-6)


def test_on_object_energy_leaves_void_out() -> None:
    attr = torch.tensor([[[1.0, 2.0, 8.0], [4.0, -3.0, 16.0]]])
    boxes = torch.tensor([[[True, True, True], [True, True, False]]])
    class_map = torch.tensor([[[3, 0, 255], [3, 3, 3]]], dtype=torch.uint8)
    share = on_object_energy(attr, boxes, class_map, torch.tensor([2]))
    assert share.item() == pytest.approx((1 + 4) / (1 + 2 + 4))
    other_class = on_object_energy(attr, boxes, class_map, torch.tensor([0]))
    assert other_class.tolist() == [0]


def test_on_object_energy_knows_the_last_class_from_void() -> None:
    attr = torch.ones(1, 1, 2)
    class_map = torch.tensor([[[254, 255]]], dtype=torch.uint8)
    assert on_object_energy(attr, torch.ones(1, 1, 2, dtype=torch.bool), class_map, torch.tensor([253])).tolist() == [1]


def test_metrics_do_not_hide_nan() -> None:
    attr = torch.ones(1, 2, 2)
    attr[0, 0, 0] = float("nan")
    assert energy_pointing_game(attr, torch.ones(1, 2, 2, dtype=torch.bool)).isnan().all()
