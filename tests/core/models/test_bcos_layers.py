"""B-cos layers against their definition, and their linear views against finite differences."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raytrain_xai.models.bcos_layers import BcosConv2d, BcosLinear, LogitLayer, class_prior_bias
from raytrain_xai.models.bcos_norms import BatchNormUncentered2d
from raytrain_xai.models.encoding import AddInverse
from raytrain_xai.models.fused import bcos_conv2d, unit_filters
from raytrain_xai.models.linearise import linearise, linearise_chain


def unfold_definition(layer: BcosConv2d, x: Tensor) -> Tensor:
    """The unit written out patch by patch: cosine to every filter, then |cos|^(B-1) times the projection."""
    g = layer.geometry
    outs = []
    filters = layer.linear.weight.flatten(1)
    unit = filters / filters.norm(dim=1, keepdim=True)
    per_group_in, per_group_out = x.shape[1] // g.groups, unit.shape[0] // g.groups
    for group in range(g.groups):
        part = x[:, group * per_group_in : (group + 1) * per_group_in]
        patches = F.unfold(part, g.kernel, g.dilation, g.padding, g.stride)  # (B, C*kh*kw, L)
        projection = torch.einsum("od,bdl->bol", unit[group * per_group_out : (group + 1) * per_group_out], patches)
        norm = (patches.square().sum(1, keepdim=True) + 1e-6).sqrt()
        projection = projection.unflatten(1, (-1, layer.max_out)).amax(2)
        cosine = projection.abs() / norm
        scale = cosine if layer.b == 2 else (cosine + 1e-6) ** (layer.b - 1) if layer.b > 1 else 1.0
        outs.append(projection * scale)
    height = (x.shape[2] + 2 * g.padding[0] - g.dilation[0] * (g.kernel[0] - 1) - 1) // g.stride[0] + 1
    return torch.cat(outs, 1).unflatten(2, (height, -1))


@pytest.mark.parametrize(
    ("b", "max_out", "groups", "dilation", "kernel", "stride", "padding"),
    [
        (2.0, 1, 1, 1, 3, 1, 1),
        (2.0, 1, 1, 1, 3, 2, 1),
        (2.0, 1, 1, 1, 1, 2, 0),
        (2.0, 1, 1, 1, (3, 1), 1, (1, 0)),
        (2.0, 2, 1, 1, 3, 1, 1),
        (2.0, 1, 2, 1, 3, 1, 1),
        (2.0, 2, 2, 2, 3, 1, 2),
        (1.0, 1, 1, 1, 3, 1, 0),
        (1.5, 1, 1, 1, 3, 2, 1),
        (3.0, 2, 2, 1, 3, 1, 1),
        (2.0, 1, 1, 2, 3, 1, 2),
    ],
)
def test_conv_is_its_definition(
    b: float, max_out: int, groups: int, dilation: int, kernel: int, stride: int, padding: int
) -> None:
    torch.manual_seed(0)
    layer = BcosConv2d(4, 6, kernel, stride, padding, dilation, groups, b=b, max_out=max_out).double()
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x), unfold_definition(layer, x), rtol=1e-12, atol=1e-12)


def test_conv_of_one_patch_by_hand() -> None:
    layer = BcosConv2d(2, 1, 1)
    with torch.no_grad():
        layer.linear.weight.copy_(torch.tensor([3.0, 4.0]).view(1, 2, 1, 1))  # unit filter (.6, .8)
    x = torch.tensor([5.0, 0.0]).view(1, 2, 1, 1)  # projection 3, norm 5, cosine .6
    assert layer(x).item() == pytest.approx(0.6 * 3.0, rel=1e-6)
    assert layer(-x).item() == pytest.approx(-0.6 * 3.0, rel=1e-6)


def test_linear_by_hand_and_conv_agree() -> None:
    torch.manual_seed(0)
    linear = BcosLinear(5, 3, max_out=2).double()
    conv = BcosConv2d(5, 3, 1, max_out=2).double()
    with torch.no_grad():
        conv.linear.weight.copy_(linear.linear.weight[:, :, None, None])
    x = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(linear(x), conv(x[:, :, None, None])[:, :, 0, 0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
def test_fused_first_derivative(kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    geometry = BcosConv2d(3, 4, kernel, stride, kernel // 2).geometry
    x = torch.randn(2, 3, 6, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 3, kernel, kernel, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda a, w: bcos_conv2d(a, unit_filters(w), geometry), (x, weight)
    )  # out, y and r together


@pytest.mark.parametrize("affine", [True, False])
def test_norm_derivative_and_running_variance(affine: bool) -> None:
    torch.manual_seed(0)
    norm = BatchNormUncentered2d(3, affine=affine).double()
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: norm.scaled(a), (x,))
    fresh = BatchNormUncentered2d(3, affine=affine).double()
    fresh(x)
    variance = x.detach().transpose(0, 1).flatten(1).var(1, correction=0)
    torch.testing.assert_close(fresh.running_var, 0.9 + 0.1 * variance)
    assert fresh.num_batches_tracked.item() == 1
    torch.testing.assert_close(fresh(x).mean((0, 2, 3)) * 0 + 1, torch.ones(3, dtype=torch.float64))
    torch.testing.assert_close(norm(x), x / (variance + 1e-5).sqrt().view(1, 3, 1, 1), rtol=1e-12, atol=1e-12)


def build_net(layer_norm_trains: bool, b: float = 2.0) -> nn.Sequential:
    torch.manual_seed(3)
    net = nn.Sequential(
        BcosConv2d(6, 5, 3, 2, 1, b=b),
        BatchNormUncentered2d(5),
        nn.AvgPool2d(3, 2, 1),
        BcosConv2d(5, 4, 3, 1, 1, b=b),
        BatchNormUncentered2d(4),
        BcosConv2d(4, 3, 1, b=b),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        LogitLayer(bias=-0.7),
    ).double()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, BatchNormUncentered2d):
                module.weight.uniform_(0.5, 1.5)
                module.running_var.uniform_(0.5, 1.5)
    return net.train(layer_norm_trains)


def detached_weights(net: nn.Sequential, x: Tensor, target: Tensor) -> Tensor:
    """Negative control: the scale is cut from the graph in the forward, as in implementations made for inference."""
    y = x
    for module in net:
        if isinstance(module, BcosConv2d):
            record = module.scaled(*module.operands(y))
            y = (record.out / record.scale) * record.scale.detach()
        elif isinstance(module, BatchNormUncentered2d):
            y = y * module.scaled(y)[1].detach().view(1, -1, 1, 1)
        else:
            y = module(y)
    (weights,) = torch.autograd.grad(y.gather(1, target[:, None]).sum(), x, create_graph=True)
    return weights


def walk_weights(net: nn.Sequential, x: Tensor, target: Tensor, rows: Tensor | None = None) -> Tensor:
    logits, pullback = linearise(net, x)
    return pullback(F.one_hot(target, logits.shape[1]).to(x.dtype), rows)


@pytest.mark.parametrize("b", [2.0, 1.5])
def test_contributions_sum_to_the_logit(b: float) -> None:
    net = build_net(False, b)
    x = AddInverse()(torch.rand(3, 3, 16, 16, dtype=torch.float64))
    logits = net(x)
    for target in range(3):
        weights = walk_weights(net, x, torch.full((3,), target))
        torch.testing.assert_close((weights * x).sum((1, 2, 3)), logits[:, target] + 0.7, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("trains", [False, True])
def test_loss_on_explanation_has_the_true_parameter_gradient(trains: bool) -> None:
    """Identity 3 of the method reference: finite differences agree, the detached form does not."""
    net = build_net(trains)
    x = AddInverse()(torch.rand(3, 3, 16, 16, dtype=torch.float64)).requires_grad_()
    target = torch.tensor([0, 2, 1])
    direction = torch.randn(3, 6, 16, 16, dtype=torch.float64)

    def loss(weights: Tensor) -> Tensor:
        return (weights * direction).sum() + (weights * x.detach()).sum(1).clamp(min=0).square().sum()

    parameters = list(net.parameters())
    gradient = torch.autograd.grad(loss(walk_weights(net, x, target)), parameters)
    detached = torch.autograd.grad(loss(detached_weights(net, x, target)), parameters, allow_unused=True)
    torch.testing.assert_close(walk_weights(net, x, target), detached_weights(net, x, target))  # same maps
    step = 1e-6
    for parameter, ours, wrong in zip(parameters, gradient, detached, strict=True):
        push = torch.randn_like(parameter)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * step * push)
                values.append(loss(walk_weights(net, x, target)))
                parameter.sub_(sign * step * push)
        numeric = (values[0] - values[1]) / (2 * step)
        torch.testing.assert_close((ours * push).sum(), numeric, rtol=1e-5, atol=1e-7)
        if wrong is not None and parameter.dim() == 4:
            assert (wrong - ours).norm() > 0.1 * ours.norm()


def test_rows_may_be_a_subset_and_repeat() -> None:
    net = build_net(False)
    x = AddInverse()(torch.rand(4, 3, 16, 16, dtype=torch.float64))
    rows = torch.tensor([2, 0, 2])
    target = torch.tensor([1, 0, 2])
    all_classes = torch.stack([walk_weights(net, x, torch.full((4,), c)) for c in range(3)])
    torch.testing.assert_close(walk_weights(net, x, target, rows), all_classes[target, rows])


@pytest.mark.parametrize("trains", [False, True])
def test_gradient_of_annotated_rows_equals_masked_full_batch(trains: bool) -> None:
    net = build_net(trains)
    x = AddInverse()(torch.rand(4, 3, 16, 16, dtype=torch.float64))
    rows = torch.tensor([3, 1])
    chosen = torch.zeros(4, dtype=torch.float64).index_fill_(0, rows, 1.0)
    target = torch.tensor([0, 1, 2, 1])
    parameters = list(net.parameters())

    def gradient(weights: Tensor, keep: Tensor) -> tuple[Tensor, ...]:
        per_row = (weights.clamp(min=0).square()).sum((1, 2, 3))
        return torch.autograd.grad((per_row * keep).sum(), parameters)

    some = gradient(walk_weights(net, x, target[rows], rows), torch.ones(2, dtype=torch.float64))
    full = gradient(walk_weights(net, x, target), chosen)
    for a, b in zip(some, full, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize(("b", "max_out", "groups"), list(itertools.product([1.0, 2.0, 3.0], [1, 2], [1, 2])))
def test_general_units_are_complete(b: float, max_out: int, groups: int) -> None:
    torch.manual_seed(0)
    layer = BcosConv2d(4, 6, 3, 2, 1, groups=groups, b=b, max_out=max_out).double()
    x = torch.randn(2, 4, 7, 7, dtype=torch.float64)
    out, pullback = linearise(layer, x)
    g = torch.randn_like(out)
    torch.testing.assert_close((pullback(g, None) * x).sum(), (g * out).sum())
    linear = BcosLinear(5, 3, b=b, max_out=max_out).double()
    z = torch.randn(4, 7, 5, dtype=torch.float64)
    out, pullback = linearise(linear, z)
    g = torch.randn_like(out)
    torch.testing.assert_close((pullback(g, None) * z).sum(), (g * out).sum())


def test_homogeneous_of_degree_one() -> None:
    layer = nn.Sequential(BcosConv2d(3, 8, 3, padding=1), BcosConv2d(8, 4, 1)).double()
    x = 1000 + torch.rand(1, 3, 6, 6, dtype=torch.float64)  # far above the epsilon
    torch.testing.assert_close(layer(3 * x), 3 * layer(x), rtol=1e-7, atol=0)


def test_logit_bias_of_zero_is_zero_and_default_is_the_class_prior() -> None:
    z = torch.ones(1, 3)
    assert torch.equal(LogitLayer(bias=0.0)(z), z)
    assert LogitLayer(temperature=2.0, bias=-1.0)(z)[0, 0].item() == -0.5
    assert class_prior_bias(1000) == pytest.approx(-math.log(999))


def test_channels_last_gives_the_same_numbers() -> None:
    net = build_net(True).float()
    x = torch.rand(2, 6, 16, 16)
    target = torch.tensor([0, 1])
    plain = walk_weights(net, x, target)
    last = walk_weights(net.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last), target)
    torch.testing.assert_close(last, plain, rtol=1e-4, atol=1e-6)


def test_bfloat16_autocast_trains() -> None:
    net = build_net(True).float()
    x = torch.rand(2, 6, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        logits, pullback = linearise_chain(net, x)
        attribution = (pullback(F.one_hot(torch.tensor([0, 1]), 3).to(logits.dtype), None) * x).sum(1).float()
    (logits.float().square().sum() + attribution.clamp(min=0).sum()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    full_logits, _ = linearise_chain(net, x)
    torch.testing.assert_close(logits.float(), full_logits, rtol=0.05, atol=0.05)


def test_refuses_impossible_units() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        BcosConv2d(3, 3, 1, b=0.5)
    with pytest.raises(ValueError, match="at least 1"):
        BcosLinear(3, 3, max_out=0)
