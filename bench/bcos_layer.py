"""Single B-cos convolutions: against the layer of the ``bcos`` package and a plain convolution.

Seven layers of a ResNet from stem to last stage. Training is forward and backward with gradients of input and filters;
``infer`` is evaluation without gradients. Saved bytes are what autograd keeps between forward and backward.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.timing import Options, Result, Timings, describe, interleave, relative_error
from raytrain_xai.models.bcos_layers import BcosConv2d
from raytrain_xai.models.chain import run_chain

PARITY = 1e-10  # of float64 outputs and gradients


@dataclass(frozen=True)
class Layer:
    """Shape of one measurement: channels, kernel and stride, side of the input map, images."""

    in_channels: int
    out_channels: int
    kernel: int
    stride: int
    side: int
    batch: int

    @property
    def name(self) -> str:
        """As in the table of results."""
        return f"{self.in_channels},{self.out_channels},{self.kernel}x{self.kernel}/{self.stride}@{self.side}"


LAYERS = (
    Layer(6, 64, 7, 2, 224, 4),
    Layer(64, 64, 3, 1, 56, 8),
    Layer(64, 256, 1, 1, 56, 8),
    Layer(256, 64, 1, 1, 56, 8),
    Layer(256, 512, 1, 2, 56, 8),
    Layer(256, 256, 3, 1, 14, 16),
    Layer(2048, 512, 1, 1, 7, 16),
)


def run(options: Options) -> list[Result]:
    """A line per layer, then the geometric means and the largest share of memory."""
    lines, train, infer, memory = [], [], [], []
    error = 0.0
    for layer in LAYERS:
        error = max(error, parity(layer, options.device))
        ours, peer, plain = modules(layer, options.device)
        x = torch.rand(layer.batch, layer.in_channels, layer.side, layer.side, device=options.device)
        timings = measure(ours, peer, plain, x, options)
        share = saved_bytes(ours, x) / saved_bytes(peer, x)
        train.append(timings.ratio("peer", "ours"))
        infer.append(timings.ratio("peer infer", "ours infer"))
        memory.append(share)
        detail = (
            f"{timings.ratio('ours', 'plain'):.2f}x plain; infer {infer[-1]:.2f}x, "
            f"{timings.ratio('ours infer', 'plain infer'):.2f}x plain; memory {share:.2f}; {describe(timings, 'ours')}"
        )
        lines.append(_result(f"{layer.name} train", train[-1], "speed-up", 1.0, error, detail))
    return [
        *lines,
        _result("train, geometric mean", _geometric_mean(train), "speed-up", 1.35, error, ""),
        _result("infer, geometric mean", _geometric_mean(infer), "speed-up", 1.0, error, ""),
        _result("saved bytes, geometric mean", _geometric_mean(memory), "peer", 0.65, error, "", is_minimum=False),
    ]


def modules(layer: Layer, device: torch.device) -> tuple[BcosConv2d, nn.Module, nn.Conv2d]:
    """Ours, the package's and a plain convolution, with equal filters."""
    from bcos.modules import BcosConv2d as PeerConv

    shape = (layer.in_channels, layer.out_channels, layer.kernel, layer.stride, layer.kernel // 2)
    ours, plain = BcosConv2d(*shape), nn.Conv2d(*shape, bias=False)
    peer = PeerConv(*shape)
    peer.linear.weight.data.copy_(ours.linear.weight)
    plain.weight.data.copy_(ours.linear.weight)
    return ours.to(device), peer.to(device), plain.to(device)


def measure(ours: nn.Module, peer: nn.Module, plain: nn.Module, x: Tensor, options: Options) -> Timings:
    """Training and inference of the three, interleaved."""
    entry = x.clone().requires_grad_()
    g = torch.randn_like(ours(x))

    def step(module: nn.Module) -> None:
        module.zero_grad(set_to_none=True)
        entry.grad = None
        module(entry).backward(g)

    @torch.no_grad()
    def infer(module: nn.Module) -> Tensor:
        return run_chain([module.eval()], x)

    named = {"ours": ours, "peer": peer, "plain": plain}
    train = {name: lambda module=module: step(module.train()) for name, module in named.items()}
    evaluate = {f"{name} infer": lambda module=module: infer(module) for name, module in named.items()}
    return interleave(train | evaluate, options, repeats=3)


def saved_bytes(module: nn.Module, x: Tensor) -> int:
    """Bytes of distinct storages that autograd keeps, the parameters not counted."""
    own = {parameter.untyped_storage().data_ptr() for parameter in module.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = module.train()(x.clone().requires_grad_())
    del out
    return sum(kept.values())


def parity(layer: Layer, device: torch.device) -> float:
    """Largest relative difference of output, input gradient and filter gradient, in float64 on a small map."""
    ours, peer, _ = (module.double() for module in modules(layer, device))
    x = torch.rand(2, layer.in_channels, 14, 14, dtype=torch.float64, device=device)
    results = []
    for module in (ours, peer):
        entry = x.clone().requires_grad_()
        out = module(entry)
        g = torch.linspace(-1, 1, out.numel(), dtype=out.dtype, device=device).view_as(out)
        results.append((out.detach(), *torch.autograd.grad(out, [entry, module.linear.weight], g)))
    return max(relative_error(a, b) for a, b in zip(*results, strict=True))


def _result(
    case: str, value: float, measure: str, target: float, error: float, detail: str, *, is_minimum: bool = True
) -> Result:
    return Result(
        bench="bcos_layer", case=case, value=value, measure=measure, target=target, is_minimum=is_minimum,
        error=error, tolerance=PARITY, detail=detail,
    )  # fmt: skip


def _geometric_mean(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))
