"""Attribution methods together: selection of rows, precision, differentiability, refusals; hand-computed maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raytrain_xai.attribution.attribute import attribute, check_attribution
from raytrain_xai.attribution.bcos import bcos_contribution
from raytrain_xai.attribution.gradcam import gradcam
from raytrain_xai.attribution.input_x_gradient import input_x_gradient
from raytrain_xai.attribution.tapped import TappedPass, tapped_pass
from raytrain_xai.errors import ConfigError
from raytrain_xai.models.bcos_layers import BcosConv2d
from raytrain_xai.models.bcos_norms import BatchNormUncentered2d
from raytrain_xai.models.encoding import AddInverse
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network

LAYERS = ["Input", "Mid1", "Mid2", "Mid3", "Final"]
CASES = [("bcos_resnet_tiny", "bcos"), *(("squeezenet1_1", m) for m in ("ixg", "gradcam", "intgrad"))]


@pytest.fixture
def hand_made() -> TappedPass:
    """Two channels of 2x2 features below mean pooling and a linear head with rows (1, -1) and (-4, 0)."""
    features = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[4.0, 3.0], [2.0, 1.0]]]])
    head = torch.tensor([[1.0, -1.0], [-4.0, 0.0]])

    def pullback(g: Tensor, rows: Tensor | None) -> Tensor:
        assert rows is None or rows.tolist() == [0, 0]
        return (g @ head / 4)[:, :, None, None].expand(-1, -1, 2, 2)

    return TappedPass(features.mean((2, 3)) @ head.T, features, pullback)


def test_input_x_gradient_by_hand(hand_made: TappedPass) -> None:
    # class 0: (first - second channel) / 4; class 1: -first channel
    expected = [[[-0.75, -0.25], [0.25, 0.75]], [[-1.0, -2.0], [-3.0, -4.0]]]
    for method in (input_x_gradient, bcos_contribution):
        assert method(hand_made, torch.tensor([0, 1]), torch.tensor([0, 0])).tolist() == expected


def test_gradcam_by_hand(hand_made: TappedPass) -> None:
    assert gradcam(hand_made, torch.tensor([0])).tolist() == [[[0.0, 0.0], [0.25, 0.75]]]
    assert not gradcam(hand_made, torch.tensor([1])).any()  # no position speaks for class 1


def test_one_class_per_row_is_demanded(hand_made: TappedPass) -> None:
    with pytest.raises(ValueError, match=r"one class per row, \(2,\), got \(3,\)"):
        hand_made.gradient(torch.tensor([0, 1, 0]), torch.tensor([0, 0]))
    with pytest.raises(ValueError, match=r"one class per row, \(1,\), got \(2,\)"):
        hand_made.gradient(torch.tensor([0, 1]))


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize(("name", "method"), CASES)
def test_rows_pick_images_in_any_order_and_number(name: str, method: str, layer: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, 4).double().eval()
    images = torch.randint(0, 256, (3, 3, 48, 48), dtype=torch.uint8)
    rows, target = torch.tensor([2, 0, 2, 1, 2]), torch.tensor([1, 3, 0, 0, 1])
    with torch.no_grad():
        tapped = tapped_pass(network, images, layer)
        found = attribute(network, tapped, target, rows, method=method, layer=layer, intgrad_steps=3)
        for index, (row, cls) in enumerate(zip(rows.tolist(), target.tolist(), strict=True)):
            alone = tapped_pass(network, images[row : row + 1], layer)
            expected = attribute(network, alone, torch.tensor([cls]), method=method, layer=layer, intgrad_steps=3)
            scale = expected.abs().max().item()
            torch.testing.assert_close(found[index], expected[0], rtol=1e-9, atol=1e-12 * scale)
    assert found.dtype == torch.float64
    assert found.shape == (5, *tapped.features.shape[2:])


@pytest.mark.parametrize("layer", ["Input", "Mid2", "Final"])
@pytest.mark.parametrize(("name", "method"), CASES)
def test_bfloat16_autocast_keeps_maps_close_and_in_float32(name: str, method: str, layer: str) -> None:
    torch.manual_seed(0)
    network = build_network(name, 4, norm_statistics="batch" if name.startswith("bcos") else "frozen")
    network.train(name.startswith("bcos"))
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8)
    target, rows = torch.tensor([0, 3]), torch.tensor([1, 1])

    def maps() -> Tensor:
        tapped = tapped_pass(network, images, layer)
        return attribute(network, tapped, target, rows, method=method, layer=layer, intgrad_steps=2)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = maps()
        loss = narrow.square().sum()
    exact = maps()
    assert narrow.dtype == torch.float32
    assert torch.nn.functional.cosine_similarity(narrow.flatten(), exact.flatten(), dim=0) > 0.9
    loss.backward()
    grads = [parameter.grad for parameter in network.net.parameters() if parameter.grad is not None]
    assert grads
    assert all(grad.isfinite().all() for grad in grads)


def small_network(kind: str) -> Network:
    """Three stages of each kind, small enough for finite differences."""
    torch.manual_seed(0)
    if kind == "bcos":
        stages = [BcosConv2d(6, 5, 3, 2, padding=1), BatchNormUncentered2d(5), BcosConv2d(5, 3, 3)]
    else:
        stages = [nn.Conv2d(3, 5, 3, 2, padding=1), nn.ReLU(), nn.Conv2d(5, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 1)]
    stages += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    encode = AddInverse() if kind == "bcos" else nn.Identity()
    network = Network(
        nn.Sequential(*stages), encode=encode, stages=stages, taps={"Input": 0, "Mid1": 2}, name="small",
        num_classes=3, is_bcos=kind == "bcos", head="2",
    )  # fmt: skip
    return network.double().eval()


@pytest.mark.parametrize("layer", ["Input", "Mid1"])
@pytest.mark.parametrize("method", ["bcos", "ixg", "gradcam", "intgrad"])
def test_gradients_of_a_loss_on_maps_equal_finite_differences(method: str, layer: str) -> None:
    network = small_network("bcos" if method == "bcos" else "plain")
    images = torch.rand(3, 3, 9, 9, dtype=torch.float64)
    target, rows = torch.tensor([2, 0, 2]), torch.tensor([0, 2, 0])
    readout = torch.randn(1, *network.features(images, layer).shape[2:], dtype=torch.float64)

    def loss() -> Tensor:
        tapped = tapped_pass(network, images, layer)
        maps = attribute(network, tapped, target, rows, method=method, layer=layer, intgrad_steps=3)
        return (maps * readout).sum() + maps.square().sum()

    parameters = list(network.net.parameters())
    grads = torch.autograd.grad(loss(), parameters, allow_unused=True)
    directions = [torch.randn_like(p) for p in parameters]
    analytic = sum((g * d).sum() for g, d in zip(grads, directions, strict=True) if g is not None)
    step = 1e-6
    with torch.no_grad():
        values = []
        for sign in (1, -1):
            moved = [p.clone() for p in parameters]
            for p, d in zip(parameters, directions, strict=True):
                p.add_(sign * step * d)
            values.append(loss())
            for p, original in zip(parameters, moved, strict=True):
                p.copy_(original)
    numeric = (values[0] - values[1]) / (2 * step)
    assert numeric.abs() > 1e-3
    torch.testing.assert_close(analytic, numeric, rtol=1e-6, atol=0)


def test_methods_and_layers_that_do_not_fit_are_refused() -> None:
    bcos, plain = small_network("bcos"), small_network("plain")
    check_attribution(bcos, "bcos", "Input")
    check_attribution(plain, "gradcam", "Mid1")
    with pytest.raises(ConfigError, match="'ixg' does not fit small, which is a B-cos network; choices: bcos$"):
        check_attribution(bcos, "ixg", "Input")
    with pytest.raises(
        ConfigError, match="'bcos' does not fit small, which is not a B-cos network; choices: ixg, grad"
    ):
        check_attribution(plain, "bcos", "Input")
    with pytest.raises(ConfigError, match="has no layer 'Final'; its layers are Input, Mid1"):
        check_attribution(plain, "ixg", "Final")
    tapped = tapped_pass(plain, torch.rand(1, 3, 9, 9), "Input")
    with pytest.raises(ConfigError, match="unknown attribution 'lime'; choices: bcos, ixg, gradcam, intgrad"):
        attribute(plain, tapped, torch.tensor([0]), method="lime", layer="Input")
