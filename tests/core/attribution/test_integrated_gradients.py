"""Integrated Gradients: its axioms, and the identities of networks for which it is one gradient."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raytrain_xai.attribution import integrated_gradients as module
from raytrain_xai.attribution.input_x_gradient import input_x_gradient
from raytrain_xai.attribution.integrated_gradients import integrated_gradients
from raytrain_xai.attribution.tapped import tapped_pass
from raytrain_xai.errors import ConfigError
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network

LAYERS = ["Input", "Mid1", "Mid2", "Mid3", "Final"]
ROWS, TARGET = torch.tensor([1, 0, 1]), torch.tensor([3, 0, 2])


@pytest.fixture(scope="module")
def xdnn() -> Network:
    """X-DNN with open branches (fixup starts them at zero) and a classifier bias that would show."""
    torch.manual_seed(0)
    network = build_network("xdnn_resnet18", 4).double().eval()
    for name, parameter in network.net.named_parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.05)
        if name == "fc.bias":
            nn.init.constant_(parameter, 2.5)
    return network


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(0, 256, (2, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_input_x_gradient_of_a_bias_free_body_sums_to_the_logit_minus_the_bias(
    xdnn: Network, images: Tensor, layer: str
) -> None:
    tapped = tapped_pass(xdnn, images, layer)
    sums = input_x_gradient(tapped, TARGET, ROWS).sum(dim=(1, 2))
    evidence = tapped.logits[ROWS, TARGET] - 2.5
    assert evidence.abs().min() > 1e-3
    torch.testing.assert_close(sums, evidence, rtol=1e-10, atol=0)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("steps", [1, 7])
@torch.no_grad()
def test_any_number_of_steps_gives_input_x_gradient_on_a_bias_free_body(
    xdnn: Network, images: Tensor, layer: str, steps: int
) -> None:
    tapped = tapped_pass(xdnn, images, layer)
    expected = input_x_gradient(tapped, TARGET, ROWS)
    found = integrated_gradients(xdnn, tapped, layer, TARGET, ROWS, steps=steps)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12 * expected.abs().max().item())


@torch.no_grad()
def test_many_steps_sum_to_the_change_of_the_logit(images: Tensor) -> None:
    """Slowly, for a trained network: most of the change happens close to the baseline."""
    network = build_network("squeezenet1_1", 1000, weights="imagenet").double().eval()
    tapped = tapped_pass(network, images[:1], "Mid3")
    at_zero, _ = network.linearise_from(torch.zeros_like(tapped.features), "Mid3")
    target = torch.tensor([3])
    change = (tapped.logits - at_zero)[0, 3].item()
    few, many = (
        abs(integrated_gradients(network, tapped, "Mid3", target, steps=steps).sum().item() - change)
        for steps in (16, 400)
    )
    assert change > 1
    assert many < 0.01 * change < few


@pytest.mark.parametrize("at_once", [1, 4, 1000])
@torch.no_grad()
def test_parts_of_the_path_add_up(images: Tensor, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network("squeezenet1_1", 4).double().eval()
    tapped = tapped_pass(network, images, "Mid1")
    whole = integrated_gradients(network, tapped, "Mid1", TARGET, ROWS, steps=5)
    monkeypatch.setattr(module, "ROWS_AT_ONCE", at_once)
    parts = integrated_gradients(network, tapped, "Mid1", TARGET, ROWS, steps=5)
    torch.testing.assert_close(parts, whole, rtol=1e-10, atol=1e-12 * whole.abs().max().item())


def test_no_step_and_batch_statistics_are_refused(images: Tensor) -> None:
    network = build_network("resnet18", 4, norm_statistics="batch").train()
    tapped = tapped_pass(network, images, "Final")
    with pytest.raises(ConfigError, match=r"resnet18 needs stored normalisation .* set model.norm_statistics=frozen"):
        integrated_gradients(network, tapped, "Final", TARGET, ROWS)
    network.eval()
    with pytest.raises(ValueError, match="at least one step, got 0"):
        integrated_gradients(network, tapped, "Final", TARGET, ROWS, steps=0)
