"""Evaluation of whole batches against one (image, class) at a time by autograd, and exact merging of its parts."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from raytrain_xai.data.dataset import DatasetInfo
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.guidance.evaluate import PAIRS_PER_IMAGE, evaluate, summarise
from raytrain_xai.guidance.evaluation_state import EvaluationState, exact_sum
from raytrain_xai.guidance.metrics import IOU_THRESHOLDS
from raytrain_xai.guidance.postprocess import Order
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network
from raytrain_xai.types import Batch

CPU = torch.device("cpu")
SIZE, NUM_CLASSES = 64, 5
MULTILABEL = DatasetInfo(("a", "b", "c", "d", "e"), "multilabel", None, {"val": 4}, True, "test", "0")


def make_batch() -> Batch:
    """Four images: several labels with overlapping and border boxes; one label twice; no box for a label; no label."""
    generator = torch.Generator().manual_seed(2)
    boxes = torch.zeros(4, 4, 4)
    box_labels = torch.full((4, 4), -1)
    boxes[0, :3] = torch.tensor([[5.0, 6, 30, 40], [0, 0, 64, 20], [20, 20, 50, 64]])
    box_labels[0, :3] = torch.tensor([0, 1, 3])
    boxes[1, :3] = torch.tensor([[2.0, 2, 20, 20], [10, 10, 40, 30], [33.1, 8, 33.3, 50]])  # the third holds no pixel
    box_labels[1, :3] = torch.tensor([2, 2, 4])
    boxes[2, 0] = torch.tensor([60.0, 60, 64, 64])
    box_labels[2, 0] = 1
    labels = torch.zeros(4, NUM_CLASSES)
    labels[0, [0, 1, 3]] = 1
    labels[1, [2, 4]] = 1
    labels[2, [1, 2]] = 1
    masks = torch.randint(0, NUM_CLASSES + 1, (4, SIZE, SIZE), dtype=torch.uint8, generator=generator)
    masks[:, 10:14] = 255
    return Batch(
        images=torch.randint(0, 256, (4, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator),
        labels=labels,
        boxes=boxes,
        box_labels=box_labels,
        masks=masks,
        has_mask=torch.tensor([True, False, True, True]),
        annotated_rows=torch.tensor([0]),
        groups=torch.full((4,), -1),
        index=torch.arange(4),
        step_size=4,
        step_annotated=1,
    )


def rows_of(batch: Batch, rows: slice) -> Batch:
    fields = ("images", "labels", "boxes", "box_labels", "has_mask", "groups", "index")
    masks = None if batch.masks is None else batch.masks[rows]
    return replace(batch, masks=masks, **{name: getattr(batch, name)[rows] for name in fields})


def map_by_autograd(network: Network, image: Tensor, label: int, method: str) -> Tensor:
    """IxG at the input or Grad-CAM at the last features of one image, (H, W)."""
    captured: list[Tensor] = []
    hook = network.net.get_submodule("layer4").register_forward_hook(lambda _m, _i, out: captured.append(out))
    u = network.encode(image[None]).requires_grad_()
    logit = network.net(u)[0, label]
    hook.remove()
    if method == "ixg":
        (gradient,) = torch.autograd.grad(logit, u)
        return (gradient * u).sum(dim=1)[0].detach()
    (gradient,) = torch.autograd.grad(logit, captured[0])
    cam = (gradient.mean(dim=(2, 3), keepdim=True) * captured[0]).sum(dim=1, keepdim=True).relu()
    return torch.nn.functional.interpolate(cam, size=(SIZE, SIZE), mode="bilinear")[0, 0].detach()


def localisation_by_loops(network: Network, batch: Batch, method: str) -> dict[str, float]:
    """EPG, IoU at .5 and on-object energy, pair by pair and box by box."""
    epg, iou, on_object = [], [], []
    for row, label in [(0, 0), (0, 1), (0, 3), (1, 2), (2, 1)]:
        attr = map_by_autograd(network, batch.images[row], label, method).clamp(min=0)
        mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
        for box, box_label in zip(batch.boxes[row].int().tolist(), batch.box_labels[row].tolist(), strict=True):
            if box_label == label:
                mask[box[1] : box[3], box[0] : box[2]] = True
        epg.append((attr[mask].sum() / attr.sum()).item())
        predicted = (attr - attr.min()) / (attr.max() - attr.min()) > 0.5
        iou.append(((predicted & mask).sum() / (predicted | mask).sum()).item())
        if batch.masks is not None and batch.has_mask[row]:
            known = mask & (batch.masks[row] != 255)
            on_object.append((attr[known & (batch.masks[row] == label + 1)].sum() / attr[known].sum()).item())
    means = {"epg": epg, "iou": iou, "on_object": on_object}
    return {name: sum(values) / len(values) for name, values in means.items()}


@pytest.fixture(scope="module")
def resnet() -> Network:
    torch.manual_seed(0)
    return build_network("resnet18", NUM_CLASSES)


@pytest.fixture(scope="module")
def bcos() -> Network:
    torch.manual_seed(1)
    network = build_network("bcos_resnet_tiny", NUM_CLASSES, norm_statistics="batch")
    images = make_batch().images
    for _ in range(15):  # norms of a random network need statistics, or its maps vanish in evaluation mode
        network(images)
    return network


@pytest.mark.parametrize(("method", "layer"), [("ixg", "Input"), ("gradcam", "Final")])
def test_batch_equals_one_pair_at_a_time(resnet: Network, method: str, layer: str) -> None:
    batch = make_batch()
    state = evaluate(resnet, [batch], method=method, layer=layer, device=CPU)
    metrics = summarise(state, MULTILABEL, 0.5)
    expected = localisation_by_loops(resnet.eval(), batch, method)
    assert int(state.pair_count) == 5  # not the box without a pixel, not the label without a box
    assert int(state.object_count) == 4
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-4)
    torch.testing.assert_close(state.scores, resnet(batch.images).detach())
    assert torch.equal(state.labels, batch.labels.bool())


def test_batch_equals_single_images_for_bcos(bcos: Network) -> None:
    batch = make_batch()
    whole = evaluate(bcos, [batch], method="bcos", layer="Input", device=CPU)
    single = evaluate(
        bcos, [rows_of(batch, slice(row, row + 1)) for row in range(4)], method="bcos", layer="Input", device=CPU
    )
    assert int(whole.empty_count) == 0
    for name, value in whole.to_tensors().items():
        torch.testing.assert_close(single.to_tensors()[name], value, rtol=1e-4, atol=1e-5)


def test_many_pairs_per_image_come_in_chunks(resnet: Network) -> None:
    """One image with more labels than a walk takes rows."""
    batch = rows_of(make_batch(), slice(0, 1))
    crowded = replace(
        batch,
        labels=torch.ones(1, NUM_CLASSES),
        boxes=batch.boxes[:, :1].expand(1, NUM_CLASSES, 4),
        box_labels=torch.arange(NUM_CLASSES)[None],
    )
    assert NUM_CLASSES > PAIRS_PER_IMAGE
    state = evaluate(resnet, [crowded], method="gradcam", layer="Final", device=CPU)
    assert int(state.pair_count) == NUM_CLASSES
    one_by_one = [
        evaluate(
            resnet, [replace(crowded, labels=torch.eye(NUM_CLASSES)[label][None])], method="gradcam", layer="Final",
            device=CPU,
        )
        for label in range(NUM_CLASSES)
    ]  # fmt: skip
    torch.testing.assert_close(state.epg_sum, torch.stack([one.epg_sum for one in one_by_one]).sum())


def test_parts_merge_to_the_same_bits_in_any_order(bcos: Network) -> None:
    batch = make_batch()
    parts = [
        evaluate(bcos, [rows_of(batch, slice(row, row + 1))], method="bcos", layer="Mid2", device=CPU)
        for row in range(4)
    ]
    in_order = parts[0].merge(*parts[1:])
    nested = parts[3].merge(parts[1]).merge(parts[0].merge(parts[2]))
    for name in ("pair_count", "epg_sum", "iou_sum", "empty_count", "object_count", "object_sum"):
        assert torch.equal(in_order.to_tensors()[name], nested.to_tensors()[name])
    assert summarise(in_order, MULTILABEL, None) == summarise(nested, MULTILABEL, None)


def test_sums_are_exact_for_any_sharding() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(3000, 2, generator=generator) ** 8  # of many magnitudes
    counted = torch.rand(3000, generator=generator) > 0.2
    whole = exact_sum(values, counted)
    cuts = [0, 1, 700, 701, 2500, 3000]
    pieces = [exact_sum(values[a:b], counted[a:b]) for a, b in pairwise(cuts)]
    assert torch.equal(torch.stack(pieces).sum(dim=0), whole)
    assert torch.equal(torch.stack(pieces[::-1]).sum(dim=0), whole)
    torch.testing.assert_close(whole, values.double()[counted].sum(dim=0), rtol=1e-9, atol=0)


def test_state_survives_the_way_through_plain_tensors(bcos: Network) -> None:
    state = evaluate(bcos, [make_batch()], method="bcos", layer="Final", device=CPU)
    tensors = state.to_tensors()
    assert all(isinstance(value, Tensor) for value in tensors.values())
    again = EvaluationState.from_tensors(tensors)
    assert all(torch.equal(again.to_tensors()[name], value) for name, value in tensors.items())


def test_order_of_postprocessing_matters_below_image_size(resnet: Network) -> None:
    def epg(order: Order, loss: str) -> float:
        state = evaluate(resnet, [make_batch()], method="ixg", layer="Mid3", order=order, loss=loss, device=CPU)
        return summarise(state, MULTILABEL, None)["epg"]

    assert epg("canonical", "l1") == epg("canonical", "energy") == epg("paper_code", "energy")
    assert epg("paper_code", "l1") != epg("canonical", "l1")


def test_evaluation_leaves_no_trace_in_the_network(bcos: Network) -> None:
    bcos.train()
    before = {name: value.clone() for name, value in bcos.state_dict().items()}
    state = evaluate(bcos, [make_batch()], method="bcos", layer="Input", device=CPU)
    assert bcos.training
    assert all(torch.equal(value, before[name]) for name, value in bcos.state_dict().items())
    assert all(not value.requires_grad for value in state.to_tensors().values())
    assert torch.is_grad_enabled()


def test_training_mode_returns_after_an_error(bcos: Network) -> None:
    bcos.train()
    broken = replace(make_batch(), images=torch.zeros(4, 3, SIZE, SIZE, 1, dtype=torch.uint8))
    with pytest.raises(RuntimeError):
        evaluate(bcos, [broken], method="bcos", layer="Input", device=CPU)
    assert bcos.training and torch.is_grad_enabled()


def test_method_must_fit_the_network(bcos: Network) -> None:
    with pytest.raises(ConfigError, match="bcos"):
        evaluate(bcos, [], method="ixg", layer="Input", device=CPU)


def test_data_without_boxes_is_classified_only(resnet: Network) -> None:
    batch = replace(make_batch(), boxes=torch.zeros(4, 0, 4), box_labels=torch.zeros(4, 0, dtype=torch.long))
    metrics = summarise(evaluate(resnet, [batch], method="ixg", layer="Input", device=CPU), MULTILABEL, None)
    assert set(metrics) == {"f1", "precision", "recall", "accuracy", "map"}


def test_nothing_to_evaluate(resnet: Network) -> None:
    state = evaluate(resnet, [], method="ixg", layer="Input", device=CPU)
    assert state.scores.shape == (0, NUM_CLASSES)
    with pytest.raises(DataError, match="no samples"):
        summarise(state, MULTILABEL, None)


def made_state(**fields: Tensor) -> EvaluationState:
    scores = torch.tensor([[2.0, -1.0], [-1.0, 2.0], [1.0, -2.0], [-1.0, 1.0]])
    labels = torch.eye(2, dtype=torch.bool)[torch.tensor([0, 1, 1, 1])]
    return EvaluationState.empty(2, CPU).with_fields(
        **({"scores": scores, "labels": labels, "groups": torch.tensor([0, 3, 2, 2])} | fields)
    )


def test_summary_by_hand() -> None:
    iou_sum = torch.linspace(0, 1, len(IOU_THRESHOLDS), dtype=torch.float64)
    iou_sum[13] = 3.0  # threshold .70
    state = made_state(
        pair_count=torch.tensor(4),
        epg_sum=torch.tensor(3.0),
        iou_sum=iou_sum,
        empty_count=torch.tensor(1),
        object_count=torch.tensor(2),
        object_sum=torch.tensor(1.5),
    )
    info = DatasetInfo(("land", "water"), "multiclass", ("a", "b", "c", "d"), {}, True, "test", "0")
    metrics = summarise(state, info, None)
    assert metrics == {
        "f1": 0.75, "precision": 0.75, "recall": 0.75, "accuracy": 0.75,
        "map": pytest.approx((1 + 11 / 12) / 2),
        "epg": 0.75, "iou": 0.75, "iou_threshold": 0.7, "empty_maps": 0.25, "on_object": 0.75,
        "group_a": 1.0, "group_c": 0.5, "group_d": 1.0, "worst_group": 0.5,
    }  # fmt: skip
    assert summarise(state, info, 0.95)["iou"] == 0.25


def test_accuracy_of_a_multilabel_task_counts_decisions() -> None:
    state = made_state(scores=torch.tensor([[2.0, 1.0], [-1.0, 2.0], [1.0, 2.0], [-1.0, -1.0]]))
    info = replace(MULTILABEL, classes=("a", "b"), groups=("x", "y", "z", "w"))
    metrics = summarise(state, info, None)
    assert metrics["accuracy"] == 5 / 8
    assert "worst_group" not in metrics


def test_threshold_off_the_grid_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"0.33 is not measured; choose a multiple of .05"):
        summarise(made_state(pair_count=torch.tensor(1)), MULTILABEL, 0.33)


def test_top_five_is_reported_where_it_says_something() -> None:
    """Class c of image c is ranked (c + 1)-th: 5 of 7 images are right by five guesses, 1 by one."""
    for num_classes, expected in ((7, 5 / 7), (5, None)):
        scores = -torch.arange(num_classes).float().expand(num_classes, -1)
        labels = torch.eye(num_classes, dtype=torch.bool)
        groups = torch.full((num_classes,), -1)
        state = EvaluationState.empty(num_classes, CPU).with_fields(scores=scores, labels=labels, groups=groups)
        info = replace(MULTILABEL, task="multiclass", classes=tuple("abcdefg"[:num_classes]))
        metrics = summarise(state, info, None)
        assert metrics["accuracy"] == 1 / num_classes
        assert metrics.get("top5") == expected
