"""torchvision's vision transformers, cut into stages, with the linear views of their blocks.

State-dict keys are torchvision's. torchvision is imported when a network is built, so that the core works without it.

Taps: ``Input`` and ``conv_proj``, the embedded patches (B, D, h, w). Behind them a class token travels beside the map
and ends up holding the whole prediction, so the tokens of a later block are no map through which the logits pass, and
the names Mid1 to Final do not exist here.

Deviation: torchvision refuses images of another side than 224; here the position code is then interpolated, as
torchvision's own ``interpolate_embeddings`` does for fine-tuning at another resolution.
"""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raytrain_xai.models import torch_layers as torch_layers  # registers the rules of torch's layers
from raytrain_xai.models.architecture import Architecture, Cut, flat
from raytrain_xai.models.bcos_vit import require_whole_patches
from raytrain_xai.models.linearise import Pullback, linearise
from raytrain_xai.models.residual import linearise_residual

if TYPE_CHECKING:
    from torchvision.models.vision_transformer import EncoderBlock, VisionTransformer


def vit(name: str, num_classes: int) -> VisionTransformer:
    """torchvision's vision transformer of this name, random weights (its classifier starts at zero)."""
    from torchvision.models import vision_transformer

    _register_blocks()
    return getattr(vision_transformer, name)(weights=None, num_classes=num_classes)


def cut_vit(net: VisionTransformer) -> Cut:
    """Patches, tokens, blocks, classifier. The last norm acts per token, so only the class token goes through it."""
    entry = [WholePatches(net.patch_size), net.conv_proj, Tokens(net)]
    stages = flat(*entry, net.encoder.dropout, net.encoder.layers, ClassToken(), net.encoder.ln, net.heads)
    return Cut(stages, ends=[], blocks=[net.conv_proj])


class WholePatches(nn.Module):
    """Refuse images that the patch convolution would silently crop."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same.

        Raises:
            ConfigError: the sides of the image are no multiples of the patch.
        """
        require_whole_patches(x, self.side)
        return x


class Tokens(nn.Module):
    """Class token and patches in a row, with their position code: (B, D, h, w) -> (B, 1 + h·w, D)."""

    def __init__(self, net: VisionTransformer) -> None:
        super().__init__()
        self._net = (net,)  # a tuple: the parameters are registered once, inside the net

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, 1 + h·w, D)."""
        (net,) = self._net
        code = net.encoder.pos_embedding
        patches = x + self.code_of_patches(code[:, 1:], x)
        first = (net.class_token + code[:, :1]).expand(x.shape[0], -1, -1).to(x.dtype)
        return torch.cat([first, patches.flatten(2).transpose(1, 2)], dim=1)

    def code_of_patches(self, code: Tensor, x: Tensor) -> Tensor:
        """(1, n, D) of the square grid of the weights -> (1, D, h, w) of the grid at hand."""
        side = round(code.shape[1] ** 0.5)
        grid = code.transpose(1, 2).unflatten(2, (side, side))
        if grid.shape[2:] == x.shape[2:]:
            return grid.to(x.dtype)
        return F.interpolate(grid, x.shape[2:], mode="bicubic", align_corners=True).to(x.dtype)


class ClassToken(nn.Module):
    """The first token: (B, 1 + n, D) -> (B, D)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1 + n, D) -> (B, D)."""
        return x[:, 0]


@linearise.register(WholePatches)
def _(module: WholePatches, x: Tensor) -> tuple[Tensor, Pullback]:
    return module(x), lambda g, rows: g  # noqa: ARG005


@linearise.register(Tokens)
def _(module: Tokens, x: Tensor) -> tuple[Tensor, Pullback]:
    return module(x), lambda g, rows: g[:, 1:].transpose(1, 2).unflatten(2, x.shape[2:])  # noqa: ARG005


@linearise.register(ClassToken)
def _(module: ClassToken, x: Tensor) -> tuple[Tensor, Pullback]:
    return module(x), lambda g, rows: F.pad(g[:, None], (0, 0, 0, x.shape[1] - 1))  # noqa: ARG005


@cache  # a registration per process, made only once torchvision is known to be needed
def _register_blocks() -> None:
    from torchvision.models.vision_transformer import EncoderBlock

    linearise.register(EncoderBlock, _linearise_block)


def _linearise_block(block: EncoderBlock, x: Tensor) -> tuple[Tensor, Pullback]:
    middle, pull_attention = linearise_residual(x, [block.ln_1, block.self_attention, block.dropout], None, None)
    out, pull_mlp = linearise_residual(middle, [block.ln_2, block.mlp], None, None)
    return out, lambda g, rows: pull_attention(pull_mlp(g, rows), rows)


ARCHITECTURES = {
    name: Architecture(partial(vit, name), cut_vit, head="heads.head", is_bcos=False)
    for name in ("vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14")
}
