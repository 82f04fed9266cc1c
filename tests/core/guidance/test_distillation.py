"""Feature distillation: D by hand, its place beside guidance, and parts that add up to the joint batch."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raytrain_xai.config import GuidanceConfig
from raytrain_xai.guidance.distillation import SIZE_WEIGHT, FeatureDistillation, feature_distance
from raytrain_xai.guidance.objective import GuidanceObjective
from raytrain_xai.models.bcosify_start import calibrate, start_from
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network
from raytrain_xai.types import Batch

WEIGHT = 0.7


def make_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(
        images=torch.randint(0, 256, (4, 3, 48, 48), dtype=torch.uint8, generator=generator),
        labels=torch.eye(3)[[0, 1, 2, 0]],
        boxes=torch.tensor([4.0, 4.0, 30.0, 30.0]).expand(4, 1, 4),
        box_labels=torch.tensor([[0], [1], [2], [0]]),
        masks=None,
        has_mask=torch.zeros(4, dtype=torch.bool),
        annotated_rows=torch.tensor([0, 1, 3]),
        groups=torch.full((4,), -1),
        index=torch.arange(4),
        step_size=4,
        step_annotated=3,
    )


def part_of(batch: Batch, rows: list[int]) -> Batch:
    """Some rows, as a worker gets them."""
    kept = [rows.index(row) for row in batch.annotated_rows.tolist() if row in rows]
    names = ("images", "labels", "boxes", "box_labels", "has_mask", "groups", "index")
    return replace(batch, **{name: getattr(batch, name)[rows] for name in names}, annotated_rows=torch.tensor(kept))


@pytest.fixture(scope="module")
def networks() -> tuple[Network, Network]:
    torch.manual_seed(0)
    plain = build_network("squeezenet1_1", 3, weights="imagenet").double().eval()
    network = build_network("bcosified_squeezenet1_1", 3).double().eval()
    start_from(network, plain)
    calibrate(network, plain, make_batch().images)
    return network, plain


def guided(network: Network, guidance: GuidanceConfig) -> GuidanceObjective:
    return GuidanceObjective(network, guidance, seed=3)


def gradients(network: Network, loss: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(network.net.parameters()))])


def test_distance_by_hand() -> None:
    f = torch.zeros(3, 2, 1, 2, dtype=torch.float64)
    t = torch.zeros_like(f)
    f[:, 0] = 1  # (1, 0) at both positions
    t[0, 0] = 1  # equal
    t[1, 0] = 2  # parallel, twice the size
    t[2, 0, 0, 0], t[2, 1, 0, 1] = 1, 1  # parallel at one position, orthogonal at the other, same size
    expected = torch.tensor([0, SIZE_WEIGHT * math.log(2) ** 2, 0.5], dtype=torch.float64)
    torch.testing.assert_close(feature_distance(f, t), expected)


@pytest.mark.parametrize("guidance", [GuidanceConfig(), GuidanceConfig(weight=0.3, reduction="mean")])
def test_loss_is_objective_plus_weighted_mean_distance(
    networks: tuple[Network, Network], guidance: GuidanceConfig
) -> None:
    network, plain = networks
    batch = make_batch()
    objective = FeatureDistillation(network, plain, partial(guided, guidance=guidance), weight=WEIGHT, alone=5)
    output = objective(batch, step=5, world_size=1)
    inner = guided(network, guidance)(batch, step=5, world_size=1)
    f, t = network.features(batch.images, "Final"), plain.features(batch.images, "Final")
    sizes = [x.square().sum(dim=(1, 2, 3)).sqrt() for x in (f, t)]
    distance = 1 - (F.normalize(f, dim=1) * F.normalize(t, dim=1)).sum(dim=1).mean(dim=(1, 2))
    distance = distance + SIZE_WEIGHT * (sizes[0].log() - sizes[1].log()) ** 2
    expected = inner.loss + WEIGHT * distance.mean()
    torch.testing.assert_close(output.loss, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(output.sums["distil_sum"], distance.sum(), rtol=1e-9, atol=1e-9)
    assert {name: value.item() for name, value in inner.sums.items()}.items() <= {
        name: value.item() for name, value in output.sums.items()
    }.items()
    torch.testing.assert_close(gradients(network, output.loss), gradients(network, expected), rtol=1e-7, atol=1e-10)


def test_at_first_only_the_features_learn(networks: tuple[Network, Network]) -> None:
    network, plain = networks
    objective = FeatureDistillation(network, plain, partial(guided, guidance=GuidanceConfig()), weight=1, alone=5)
    network.net.zero_grad()
    output = objective(make_batch(), step=4, world_size=1)
    output.loss.backward()
    torch.testing.assert_close(output.loss.detach(), output.sums["distil_sum"] / 4)
    head = network.net.get_parameter("classifier.1.linear.weight")
    first = network.net.get_parameter("features.0.linear.weight")
    assert head.grad is not None
    assert not head.grad.any()
    assert first.grad is not None
    assert first.grad.any()
    network.net.zero_grad()


def test_the_teacher_is_fixed_and_no_part_of_the_module(networks: tuple[Network, Network]) -> None:
    network, plain = networks
    objective = FeatureDistillation(network, plain, partial(guided, guidance=GuidanceConfig()), weight=1, alone=0)
    objective.train()
    own = {id(parameter) for parameter in objective.parameters()}
    assert own == {id(parameter) for parameter in network.net.parameters()}
    assert not plain.net.training
    assert not any(parameter.requires_grad for parameter in plain.net.parameters())
    network.eval()


def test_the_mode_of_the_network_stays(networks: tuple[Network, Network]) -> None:
    """Its modules are shared with the one that records."""
    network, plain = networks
    FeatureDistillation(network, plain, partial(guided, guidance=GuidanceConfig()), weight=1, alone=0)
    assert not any(module.training for module in network.net.modules())


def test_workers_and_parts_add_up(networks: tuple[Network, Network]) -> None:
    network, plain = networks
    batch, guidance = make_batch(), GuidanceConfig(weight=0.3, reduction="mean")
    objective = FeatureDistillation(network, plain, partial(guided, guidance=guidance), weight=WEIGHT, alone=0)
    joint = objective(batch, step=2, world_size=1).loss
    first, second = (objective(part_of(batch, rows), step=2, world_size=2).loss for rows in ([0, 2], [1, 3]))
    torch.testing.assert_close((first + second) / 2, joint, rtol=1e-9, atol=1e-9)
