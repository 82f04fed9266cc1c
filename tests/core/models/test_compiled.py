"""Compiled prediction equals the ordinary one, also after the network has changed."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import nn

from raytrain_xai.models.bcos_layers import BcosConv2d, LogitLayer
from raytrain_xai.models.bcos_norms import BatchNormUncentered2d
from raytrain_xai.models.compiled import CompiledForward
from raytrain_xai.models.encoding import AddInverse
from raytrain_xai.models.network import Network


def small_network() -> Network:
    torch.manual_seed(0)
    stages = [
        BcosConv2d(6, 8, 3, 2, padding=1), BatchNormUncentered2d(8), BcosConv2d(8, 3, 1), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), LogitLayer(bias=-1.0),
    ]  # fmt: skip
    return Network(
        nn.Sequential(*stages), encode=AddInverse(), stages=stages, taps={"Input": 0}, name="small", num_classes=3,
        is_bcos=True, head="2",
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("g++") is None and shutil.which("clang++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler warns of what it finds on the machine
def test_compiled_prediction_follows_the_network() -> None:
    network, images = small_network().eval(), torch.rand(2, 3, 16, 16)
    compiled = CompiledForward(network)
    torch.testing.assert_close(compiled(images), network(images).detach(), rtol=1e-5, atol=1e-6)
    before = compiled(images)
    with torch.no_grad():
        network.net[1].running_var.mul_(0.25)
        network.net[2].linear.weight.neg_()
    after = compiled(images)
    torch.testing.assert_close(after, network(images).detach(), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(before, after)


def test_a_network_in_training_is_refused() -> None:
    with pytest.raises(ValueError, match="evaluation mode"):
        CompiledForward(small_network().train())
