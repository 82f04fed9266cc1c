"""Architectures by name: taps, frozen statistics, refusals, precision."""

from __future__ import annotations

import itertools

import pytest
import torch

from raytrain_xai.errors import ConfigError
from raytrain_xai.models import (
    bcos_convnext,
    bcos_densenet,
    bcos_resnet,
    bcos_vgg,
    bcos_vit,
    bcosify,
    standard,
    xdnn,
)
from raytrain_xai.models.zoo import ARCHITECTURES, MODEL_NAMES, build_network

SMALL = ["bcos_resnet_tiny", "resnet18", "squeezenet1_1", "xdnn_resnet18"]


@pytest.mark.parametrize(
    ("name", "channels", "sides"),
    [
        ("bcos_resnet_tiny", (6, 32, 64, 128, 256), (96, 48, 24, 12, 6)),
        ("bcos_resnet18", (6, 64, 128, 256, 512), (96, 24, 12, 6, 3)),
        ("bcos_resnet34", (6, 64, 128, 256, 512), (96, 24, 12, 6, 3)),
        ("bcos_resnet50", (6, 256, 512, 1024, 2048), (96, 24, 12, 6, 3)),
        ("resnet18", (3, 64, 128, 256, 512), (96, 24, 12, 6, 3)),
        ("resnet50", (3, 256, 512, 1024, 2048), (96, 24, 12, 6, 3)),
        ("squeezenet1_1", (3, 128, 256, 384, 512), (96, 23, 11, 5, 5)),  # 96 -> 47 -> 23 -> 11 -> 5, no padding
        ("xdnn_resnet18", (3, 64, 128, 256, 512), (96, 24, 12, 6, 3)),
        ("xdnn_resnet50", (3, 256, 512, 1024, 2048), (96, 24, 12, 6, 3)),
    ],
)
def test_taps_have_the_documented_channels_and_resolution(
    name: str, channels: tuple[int, ...], sides: tuple[int, ...]
) -> None:
    network = build_network(name, 7).eval()
    shapes = []
    with torch.no_grad():
        x = network.encode(torch.zeros(1, 3, 96, 96))
        marks = [network.taps[name] for name in ("Input", "Mid1", "Mid2", "Mid3", "Final")]
        for below, above in itertools.pairwise([0, *marks, len(network._stages)]):
            for stage in network._stages[below:above]:
                x = stage(x)
            shapes.append(tuple(x.shape))
    assert shapes == [(1, c, side, side) for c, side in zip(channels, sides, strict=True)] + [(1, 7)]


def test_every_family_brings_its_own_names() -> None:
    families = (
        bcos_resnet, bcos_densenet, bcos_vgg, bcos_convnext, bcos_vit, standard, xdnn, bcosify,
    )  # fmt: skip
    assert sorted(MODEL_NAMES) == sorted(name for family in families for name in family.ARCHITECTURES)


@pytest.mark.parametrize("name", ["bcos_resnet_tiny", "resnet18"])
@pytest.mark.parametrize("norm_statistics", ["frozen", "batch"])
def test_statistics_move_in_training_only_when_taken_from_the_batch(name: str, norm_statistics: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, 3, norm_statistics=norm_statistics).train()
    before = {k: v.clone() for k, v in network.net.state_dict().items() if "running_var" in k}
    with torch.no_grad():
        network(torch.rand(4, 3, 64, 64))
    after = network.net.state_dict()
    moved = [not torch.equal(after[key], value) for key, value in before.items()]
    assert len(moved) > 8
    assert all(moved) if norm_statistics == "batch" else not any(moved)


@pytest.mark.parametrize("name", SMALL)
def test_stages_share_the_parameters_of_the_net(name: str) -> None:
    network = build_network(name, 3)
    assert {id(p) for p in network.parameters()} == {id(p) for p in network.net.parameters()}
    assert len(list(network.parameters())) == len(network.net.state_dict()) - sum(
        key.endswith(("running_mean", "running_var", "num_batches_tracked")) for key in network.net.state_dict()
    )


@pytest.mark.parametrize("name", SMALL)
def test_training_under_bfloat16_autocast_reaches_every_parameter(name: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, 3, norm_statistics="batch").train()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = network(images).float().square().mean()
    loss.backward()
    assert loss.isfinite()
    for key, parameter in network.net.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all(), key


def test_bcos_networks_take_the_encoded_image_and_the_others_the_normalised_one() -> None:
    black = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    assert build_network("bcos_resnet_tiny", 2).encode(black)[0, :, 0, 0].tolist() == [0, 0, 0, 1, 1, 1]
    normalised = build_network("squeezenet1_1", 2).encode(black)[0, :, 0, 0]
    torch.testing.assert_close(normalised, torch.tensor([-2.117904, -2.035714, -1.804444]))


def test_unknown_names_and_empty_heads_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown model 'bcos_resnet_18'; did you mean bcos_resnet18 or bcos_"):
        build_network("bcos_resnet_18", 3)
    with pytest.raises(ConfigError, match="at least one class, got 0"):
        build_network("resnet18", 0)


def test_default_attribution_follows_the_kind_of_network() -> None:
    for name, architecture in ARCHITECTURES.items():
        assert architecture.is_bcos == name.startswith(("bcos_", "bcosified_")), name
    with torch.device("meta"):
        defaults = {name: build_network(name, 2).default_attribution for name in SMALL}
    assert defaults == {name: "bcos" if name.startswith("bcos_") else "ixg" for name in SMALL}
