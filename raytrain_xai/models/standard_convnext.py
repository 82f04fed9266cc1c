"""torchvision's ConvNeXts, cut into stages, with the linear views of their blocks. State-dict keys are torchvision's.

Source: Liu et al., CVPR 2022 (arXiv 2201.03545).

Deviation: blocks are left out in training only after
:func:`~raytrain_xai.models.stochastic_depth.set_stochastic_depth`; torchvision does so by default, with probabilities
up to 0.1 (tiny), 0.4 (small) and 0.5 (base, large).
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from raytrain_xai.models import torch_layers  # noqa: F401  # pyright: ignore[reportUnusedImport]  rules of GELU, LayerNorm
from raytrain_xai.models.architecture import Architecture, Cut, flat
from raytrain_xai.models.linearise import Pullback, linearise, take_rows
from raytrain_xai.models.residual import linearise_scaled_residual
from raytrain_xai.models.stochastic_depth import StochasticDepth

if TYPE_CHECKING:
    from torchvision.models.convnext import CNBlock, ConvNeXt, LayerNorm2d
    from torchvision.ops import Permute


def build(name: str, num_classes: int) -> ConvNeXt:
    """A ConvNeXt of torchvision by its name there, random weights."""
    from torchvision.models import convnext

    return adapted(getattr(convnext, name)(weights=None, num_classes=num_classes))


def adapted(net: ConvNeXt) -> ConvNeXt:
    """The same net with our stochastic depth, and the linear views of its parts registered."""
    _register_blocks()
    for block in _blocks(net):
        setattr(block, "stochastic_depth", StochasticDepth())  # noqa: B010  declared as torchvision's
    return net


def cut(net: ConvNeXt) -> Cut:
    """Stem, blocks, downsampling, classifier; Mid1 to Final are the ends of the four groups of blocks."""
    groups = [cast("nn.Sequential", net.features[index]) for index in (1, 3, 5, 7)]
    stages = flat(*net.features, net.avgpool, net.classifier)
    return Cut(stages, ends=[group[-1] for group in groups], blocks=flat(*groups))


def _blocks(net: ConvNeXt) -> list[CNBlock]:
    from torchvision.models.convnext import CNBlock

    return [module for module in net.modules() if isinstance(module, CNBlock)]


@cache  # a registration per process, made only once torchvision is known to be needed
def _register_blocks() -> None:
    from torchvision.models.convnext import CNBlock, LayerNorm2d
    from torchvision.ops import Permute

    linearise.register(CNBlock, _linearise_block)
    linearise.register(LayerNorm2d, _linearise_layer_norm_2d)
    linearise.register(Permute, _linearise_permute)


def _linearise_block(block: CNBlock, x: Tensor) -> tuple[Tensor, Pullback]:
    return linearise_scaled_residual(x, block.block, block.layer_scale, block.stochastic_depth)


def _linearise_layer_norm_2d(module: LayerNorm2d, x: Tensor) -> tuple[Tensor, Pullback]:
    """Layer normalisation of the channels of every position; the gradient takes its statistics along."""
    weight, bias, shape = module.weight, module.bias, list(module.normalized_shape)
    last = x.permute(0, 2, 3, 1).contiguous().to(weight.dtype)  # the type autocast computes in
    out, mean, inverse_std = torch.native_layer_norm(last, shape, weight, bias, module.eps)

    def pullback(g: Tensor, rows: Tensor | None) -> Tensor:
        seed = g.permute(0, 2, 3, 1).to(last.dtype).contiguous()
        inputs, means, factors = (take_rows(record, rows) for record in (last, mean, inverse_std))
        gradient, _, _ = torch.ops.aten.native_layer_norm_backward(
            seed, inputs, shape, means, factors, weight, bias, (True, False, False)
        )
        return gradient.permute(0, 3, 1, 2)

    return out.permute(0, 3, 1, 2), pullback


def _linearise_permute(module: Permute, x: Tensor) -> tuple[Tensor, Pullback]:
    inverse = [module.dims.index(axis) for axis in range(len(module.dims))]  # no tensor: a trace could not read it
    return module(x), lambda g, rows: g.permute(inverse)  # noqa: ARG005


ARCHITECTURES = {
    name: Architecture(partial(build, name), cut, head="classifier.2", is_bcos=False)
    for name in ("convnext_tiny", "convnext_small", "convnext_base", "convnext_large")
}
