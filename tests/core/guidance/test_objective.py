"""The guided objective: its value written out, the draw of classes, and parts that add up to the joint batch."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raytrain_xai.classify.losses import classification_loss
from raytrain_xai.classify.mixing import mix_pairs
from raytrain_xai.config import GuidanceConfig, LossConfig, MixingConfig
from raytrain_xai.guidance.losses import energy_loss
from raytrain_xai.guidance.objective import GuidanceObjective, draw_target
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network
from raytrain_xai.types import Batch

SIZE = 32


def make_batch(num_images: int, annotated: list[int]) -> Batch:
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(num_images, 3)
    labels[torch.arange(num_images), torch.arange(num_images) % 3] = 1
    corner = torch.randint(0, 12, (num_images, 1, 2), generator=generator).float()
    return Batch(
        images=torch.randint(0, 256, (num_images, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator),
        labels=labels,
        boxes=torch.cat([corner, corner + 10], dim=2),
        box_labels=torch.arange(num_images)[:, None] % 3,
        masks=None,
        has_mask=torch.zeros(num_images, dtype=torch.bool),
        annotated_rows=torch.tensor(annotated, dtype=torch.int64),
        groups=torch.full((num_images,), -1),
        index=torch.arange(num_images),
        step_size=num_images,
        step_annotated=len(annotated),
    )


def part_of(batch: Batch, rows: list[int]) -> Batch:
    """Some rows of a joint batch, as a worker gets them."""
    kept = [rows.index(row) for row in batch.annotated_rows.tolist() if row in rows]
    names = ("images", "labels", "boxes", "box_labels", "has_mask", "groups", "index")
    sliced = {name: getattr(batch, name)[rows] for name in names}
    return replace(batch, **sliced, annotated_rows=torch.tensor(kept, dtype=torch.int64))


def bcos_network() -> Network:
    torch.manual_seed(0)
    return build_network("bcos_resnet_tiny", 3, norm_statistics="batch").double().eval()


def gradients(network: Network, loss: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.net.parameters()))])


def test_value_is_bce_plus_weighted_energy() -> None:
    network, batch = bcos_network(), make_batch(4, [1, 3])
    output = GuidanceObjective(network, GuidanceConfig(weight=0.3), seed=0)(batch, 0, 1)
    logits, pullback = network.linearise_from(network.encode(batch.images), "Input")
    maps = (pullback(batch.labels.double(), None) * network.encode(batch.images)).sum(1)
    masks = torch.zeros(4, SIZE, SIZE, dtype=torch.bool)
    for image, (x0, y0, x1, y1) in enumerate(batch.boxes[:, 0].int().tolist()):
        masks[image, y0:y1, x0:x1] = True
    energy = energy_loss(maps, masks)
    bce = F.binary_cross_entropy_with_logits(logits, batch.labels.double())
    torch.testing.assert_close(output.loss, bce + 0.3 * (energy[1] + energy[3]))
    torch.testing.assert_close(output.sums["loc_sum"], energy[1] + energy[3])
    torch.testing.assert_close(output.sums["cls_sum"], 4 * bce)
    assert (output.sums["count"], output.sums["guided_count"], output.sums["empty_maps_sum"]) == (4, 2, 0)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("parts", [[[0, 1], [2, 3]], [[3, 0, 2], [1]]])
def test_parts_add_up_to_the_joint_batch(reduction: str, parts: list[list[int]]) -> None:
    """Two workers: the mean of their gradients; two accumulated parts: their sum. Parts may be unequal."""
    network, batch = bcos_network(), make_batch(4, [0, 1, 3])
    objective = GuidanceObjective(network, GuidanceConfig(weight=0.5, reduction=reduction), seed=0)
    joint = gradients(network, objective(batch, 7, 1).loss)
    as_workers = [gradients(network, objective(part_of(batch, rows), 7, 2).loss) for rows in parts]
    torch.testing.assert_close(sum(as_workers) / 2, joint, rtol=1e-9, atol=1e-12)
    accumulated = [gradients(network, objective(part_of(batch, rows), 7, 1).loss) for rows in parts]
    torch.testing.assert_close(sum(accumulated), joint, rtol=1e-9, atol=1e-12)


def test_without_weight_or_annotation_the_walk_is_not_taken() -> None:
    network = bcos_network()
    plain = F.binary_cross_entropy_with_logits(network(make_batch(4, []).images), make_batch(4, []).labels.double())
    for weight, annotated in ((0.0, [0, 1]), (1.0, [])):
        output = GuidanceObjective(network, GuidanceConfig(weight=weight), seed=0)(make_batch(4, annotated), 0, 1)
        torch.testing.assert_close(output.loss, plain)
        assert "loc_sum" not in output.sums


@pytest.mark.parametrize("loss", ["energy", "l1", "ppce", "rrr"])
def test_a_few_steps_lower_every_loss(loss: str) -> None:
    """Guidance alone (tiny classification share) moves the maps where its loss wants them."""
    network, batch = bcos_network(), make_batch(6, list(range(6)))
    network.train()
    objective = GuidanceObjective(network, GuidanceConfig(loss=loss, weight=10.0, reduction="mean"), seed=0)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    values = []
    for _ in range(12):
        output = objective(batch, 0, 1)
        optimiser.zero_grad()
        output.loss.backward()
        optimiser.step()
        values.append(output.sums["loc_sum"].item())
    assert values[-1] < 0.9 * values[0]


def test_empty_maps_are_counted() -> None:
    """A ReLU that never fires gives Grad-CAM nothing to place."""
    network, batch = build_network("squeezenet1_1", 3).eval(), make_batch(4, [0, 2])
    with torch.no_grad():
        for parameter in network.net.classifier.parameters():
            parameter.fill_(-1.0)
    guidance = GuidanceConfig(weight=1.0, attribution="gradcam", layer="Final")
    batch = replace(batch, images=F.interpolate(batch.images, size=64))
    output = GuidanceObjective(network, guidance, seed=0)(batch, 0, 1)
    assert output.sums["empty_maps_sum"] == 2
    output.loss.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_drawn_class_is_positive_uniform_and_depends_on_seed_step_and_sample_only() -> None:
    labels = torch.zeros(6000, 5)
    labels[:, [0, 2, 3]] = 1
    index = torch.arange(6000)
    target = draw_target(labels, index, seed=3, step=11)
    counts = torch.bincount(target, minlength=5)
    assert counts[[1, 4]].sum() == 0
    assert (counts[[0, 2, 3]] - 2000).abs().max() < 150  # four standard deviations of a binomial
    shuffled = torch.randperm(6000)
    assert torch.equal(draw_target(labels[shuffled], index[shuffled], seed=3, step=11), target[shuffled])
    for other in (draw_target(labels, index, seed=4, step=11), draw_target(labels, index, seed=3, step=12)):
        assert 0.5 < (other != target).float().mean() < 0.8  # 2/3 where draws are independent
    assert torch.equal(draw_target(torch.zeros(2, 5), index[:2], seed=0, step=0), torch.zeros(2, dtype=torch.int64))


def test_mixing_is_for_training_and_its_labels_go_into_the_chosen_loss() -> None:
    network, batch = bcos_network(), make_batch(6, [])
    mixing = MixingConfig(mixup_alpha=0.4, cutmix_alpha=1.0)
    loss = LossConfig(name="off_label_bce", label_smoothing=0.1)
    objective = GuidanceObjective(network, GuidanceConfig(), 3, loss, mixing)
    network.eval()  # statistics stay; the objective itself is in training mode
    images, labels = mix_pairs(
        batch.images.double() / 255, batch.labels, batch.index, mixup_alpha=0.4, cutmix_alpha=1.0, seed=3, step=8
    )
    expected = classification_loss(network(images), labels, "off_label_bce", 0.1) / 6
    torch.testing.assert_close(objective(batch, 8, 1).loss, expected)
    assert (expected - objective(batch, 9, 1).loss).abs() > 1e-6, "drawn anew at every step"
    parts = [objective(part_of(batch, rows), 8, 2).loss for rows in ([2, 3, 4, 5], [0, 1])]
    torch.testing.assert_close(sum(parts) / 2, expected)
    unmixed = classification_loss(network(batch.images), batch.labels, "off_label_bce", 0.1) / 6
    torch.testing.assert_close(objective.eval()(batch, 8, 1).loss, unmixed)


@pytest.mark.filterwarnings("ignore")  # the compiler warns of what it finds on the machine
def test_compiled_training_has_the_same_loss_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced and differentiated as for the compiler, without the minute that native code takes."""
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compiler(function, backend="aot_eager", fullgraph=True))
    batch, found = make_batch(4, []), []
    for is_compiled in (False, True):
        network = bcos_network()
        objective = GuidanceObjective(network, GuidanceConfig(), seed=0, compile=is_compiled).train()
        loss = objective(batch, 3, 1).loss
        found.append((loss.detach(), gradients(network, loss), network.net.bn1.running_var))
    (loss, gradient, variance), (compiled_loss, compiled_gradient, compiled_variance) = found
    torch.testing.assert_close(compiled_loss, loss, rtol=1e-10, atol=0)
    torch.testing.assert_close(compiled_gradient, gradient, rtol=1e-8, atol=1e-12)
    torch.testing.assert_close(compiled_variance, variance, rtol=1e-10, atol=0)
