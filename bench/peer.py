"""Plain formulation of B-cos networks, the peer that the benches are measured against.

Layers are written straight from their definitions with ordinary torch operations, and explanations are gradients with
``create_graph=True`` through the whole batch. A product with a fixed weight reads a flag *in its backward*, so that one
forward serves the classification loss (flag off) and the explanation (flag on), as in the code released with guided
training (Rao et al., ICCV 2023). Nothing of the package is used except the weights and the geometry of a network.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raytrain_xai.models.bcos_resnet import BcosResNet
from raytrain_xai.models.network import Network


@dataclass
class ExplanationFlag:
    """Shared by all layers of one peer; read when a backward runs."""

    on: bool = False


class PeerNetwork(nn.Module):
    """Encoder and stages in order, with taps, as plain modules."""

    def __init__(
        self, encoder: nn.Module, stages: list[nn.Module], taps: dict[str, int], flag: ExplanationFlag
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.stages = nn.ModuleList(stages)
        self.taps = taps
        self.flag = flag

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 -> logits (B, C)."""
        return self.tapped(images, "Input")[1]

    def tapped(self, images: Tensor, layer: str) -> tuple[Tensor, Tensor]:
        """Features at a tap and logits; the graph starts at the pixels, whatever the layer."""
        x = self.encoder(images.to(next(self.parameters()).dtype) / 255).requires_grad_()
        features = x
        for position, stage in enumerate(self.stages):
            x = stage(x)
            if position + 1 == self.taps[layer]:
                features = x
        return features, x

    @contextmanager
    def explanation_mode(self) -> Iterator[None]:
        """Backward passes inside see the scales of B-cos layers as constants."""
        self.flag.on = True
        try:
            yield
        finally:
            self.flag.on = False


def peer_network(network: Network) -> PeerNetwork:
    """The same function as ``network``, with a copy of its weights, from plain modules.

    B-cos ResNets are rebuilt from :class:`PeerBcosConv2d` and :class:`PeerNorm`; the modules of other networks are
    plain torch modules already and are copied.
    """
    flag = ExplanationFlag()
    if isinstance(network.net, BcosResNet):
        net = PeerResNet(network.net, flag)
        net.load_state_dict(network.net.state_dict())
        peer = PeerNetwork(PeerAddInverse(), net.stages(), dict(network.taps), flag)
    else:
        plain = copy.deepcopy(network)
        peer = PeerNetwork(plain.encoder, list(plain.stages), dict(plain.taps), flag)
    device = next(network.parameters()).device
    return peer.to(device).train(network.training)


def explain(peer: PeerNetwork, features: Tensor, logits: Tensor, target: Tensor, *, method: str) -> Tensor:
    """Attribution (B, h, w) of one class per image, target (B,), with a graph for a second backward."""
    picked = logits.gather(1, target[:, None]).sum()
    return attribution(peer, features, picked, method=method)


def attribution(peer: PeerNetwork, features: Tensor, picked: Tensor, *, method: str) -> Tensor:
    """Attribution (B, h, w) of a scalar, over the whole batch."""
    with peer.explanation_mode():
        (gradient,) = torch.autograd.grad(picked, features, create_graph=True)
    if method == "gradcam":
        return (gradient.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1).clamp(min=0)
    return (gradient * features).sum(dim=1)


class PeerAddInverse(nn.Module):
    """(x, 1 - x)."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, 1 - x], dim=1)


class PeerResNet(nn.Module):
    """B-cos ResNet with the geometry of ``model`` and the same parameter names."""

    def __init__(self, model: BcosResNet, flag: ExplanationFlag) -> None:
        super().__init__()
        self.conv1 = PeerBcosConv2d(model.conv1.linear, flag)
        self.bn1 = PeerNorm(model.conv1.linear.out_channels, flag)
        self.pool = copy.deepcopy(model.pool)
        self.layer1 = _peer_stage(model.layer1, flag)
        self.layer2 = _peer_stage(model.layer2, flag)
        self.layer3 = _peer_stage(model.layer3, flag)
        self.layer4 = _peer_stage(model.layer4, flag)
        self.fc = PeerBcosConv2d(model.fc.linear, flag)
        self.head = PeerHead(model.logit_layer.temperature, model.logit_layer.bias)

    def stages(self) -> list[nn.Module]:
        """One module per stage of the network, so that its taps hold."""
        blocks = [*self.layer1, *self.layer2, *self.layer3, *self.layer4]
        return [self.conv1, self.bn1, self.pool, *blocks, self.fc, self.head]


class PeerBlock(nn.Module):
    """Residual block: convolutions and norms in turn, plain addition."""

    def __init__(self, block: nn.Module, flag: ExplanationFlag) -> None:
        super().__init__()
        self.depth = 3 if hasattr(block, "conv3") else 2
        for number in range(1, self.depth + 1):
            convolution = block.get_submodule(f"conv{number}.linear")
            self.add_module(f"conv{number}", PeerBcosConv2d(convolution, flag))
            self.add_module(f"bn{number}", PeerNorm(convolution.out_channels, flag))
        self.downsample = None
        if block.downsample is not None:
            convolution = block.get_submodule("downsample.0.linear")
            self.downsample = nn.Sequential(PeerBcosConv2d(convolution, flag), PeerNorm(convolution.out_channels, flag))

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for number in range(1, self.depth + 1):
            y = self.get_submodule(f"bn{number}")(self.get_submodule(f"conv{number}")(y))
        return y + (x if self.downsample is None else self.downsample(x))


class PeerBcosConv2d(nn.Module):
    """|cos|·out with cos = out / patch norm; no B other than 2, no MaxOut."""

    def __init__(self, model: nn.Conv2d, flag: ExplanationFlag) -> None:
        super().__init__()
        self.linear = nn.Conv2d(
            model.in_channels, model.out_channels, model.kernel_size, model.stride, model.padding, bias=False
        )
        self.flag = flag

    def forward(self, x: Tensor) -> Tensor:
        conv = self.linear
        weight = conv.weight / conv.weight.flatten(1).norm(dim=1)[:, None, None, None]
        out = F.conv2d(x, weight, None, conv.stride, conv.padding)
        squares = (x**2).sum(dim=1, keepdim=True)
        area = conv.kernel_size[0] * conv.kernel_size[1]
        norm = (F.avg_pool2d(squares, conv.kernel_size, conv.stride, conv.padding) * area + 1e-6).sqrt()
        return _FixedWeightProduct.apply((out / norm).abs(), out, self.flag)


class PeerNorm(nn.Module):
    """Uncentred batch norm without bias; its scale is a constant in explanations."""

    def __init__(self, num_features: int, flag: ExplanationFlag) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_features))
        self.register_buffer("running_mean", torch.zeros(num_features))
        self.register_buffer("running_var", torch.ones(num_features))
        self.register_buffer("num_batches_tracked", torch.tensor(0))
        self.flag = flag

    def forward(self, x: Tensor) -> Tensor:
        var = self.running_var
        if self.training:
            var = x.var(dim=(0, 2, 3), unbiased=False)
            self.running_var.mul_(0.9).add_(0.1 * var.detach())
        scale = self.weight / (var + 1e-5).sqrt()
        return _FixedWeightProduct.apply(scale[None, :, None, None], x, self.flag)


class PeerHead(nn.Module):
    """Mean over positions, temperature and bias."""

    def __init__(self, temperature: float, bias: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3)) / self.temperature + self.bias


class _FixedWeightProduct(torch.autograd.Function):
    """weight * x, whose backward leaves the weight out while the flag is on."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, x: Tensor, flag: ExplanationFlag) -> Tensor:
        ctx.save_for_backward(weight, x)
        ctx.flag = flag
        return weight * x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        weight, x = ctx.saved_tensors
        if ctx.flag.on:
            return None, grad * weight, None
        return (grad * x).sum_to_size(weight.shape), grad * weight, None


def _peer_stage(stage: nn.Module, flag: ExplanationFlag) -> nn.Sequential:
    return nn.Sequential(*(PeerBlock(block, flag) for block in stage.children()))
