"""Simple vision transformers, B-cos and standard, with patches or with a convolutional stem.

Source: Beyer et al., "Better plain ViT baselines for ImageNet-1k" (arXiv 2205.01580); the stem is that of Xiao et al.,
NeurIPS 2021 (arXiv 2106.14881); the B-cos form is that of Böhle et al., TPAMI 2024 (arXiv 2306.10898): B-cos linear
layers without activation between them, norms without bias, and an attention whose matrix is a constant factor of the
explanation. Queries, keys and values come from a plain linear layer without bias, as published. State-dict keys are
those of the published checkpoints; the B-cos files have the prefix ``0.`` in front.

Between blocks the tokens are a map (B, D, h, w) in channels-last memory, so every tap is a map and the change to
(B, h, w, D), in which the layers work, costs nothing.

The position code is added to the tokens: B-cos transformers are affine, not linear, so Σ x·W(x) differs from the logit
without its bias by the share of the code (B-cos convolutional networks have no such rest).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from raytrain_xai.errors import ConfigError
from raytrain_xai.models import torch_layers as torch_layers  # registers the rules of torch's layers
from raytrain_xai.models.architecture import Architecture, Cut, flat
from raytrain_xai.models.attention import attend, dynamic_attention, standard_attention
from raytrain_xai.models.bcos_layers import BcosConv2d, BcosLinear, LogitLayer, class_prior_bias
from raytrain_xai.models.bcos_norms import GroupNorm1, LayerNorm
from raytrain_xai.models.chain import Chain, run_chain
from raytrain_xai.models.linearise import Pullback, linearise
from raytrain_xai.models.residual import linearise_residual

PERIOD = 10_000  # longest wave of the position code, in patches, over 2π


@dataclass(frozen=True)
class Size:
    """Width, number of blocks and heads, and widths of the convolutional stem (none: 16-pixel patches)."""

    dim: int
    depth: int
    num_heads: int
    stem: Sequence[int] = ()


@dataclass(frozen=True)
class Layers:
    """What a transformer is made of: the B-cos or the standard form of every layer."""

    is_bcos: bool
    linear: Callable[[int, int], nn.Module]
    projection: Callable[[int, int], nn.Module]
    norm: Callable[[int], nn.Module]
    convolution: Callable[[int, int, int], nn.Module]
    norm_of_map: Callable[[int], nn.Module]
    activation: Callable[[], nn.Module]


class SimpleViT(nn.Module):
    """Patches or stem, sin-cos position code, pre-norm blocks, mean over the tokens, linear classifier.

    Args:
        layers: B-cos or standard.
        size: see :class:`Size`.
        num_classes: K.
        patch: side of a patch in pixels of the image, or of the stem's output.
    """

    def __init__(self, layers: Layers, size: Size, num_classes: int, *, patch: int) -> None:
        super().__init__()
        colours = 6 if layers.is_bcos else 3
        width = size.stem[-1] if size.stem else colours
        self.to_patch_embedding = nn.Sequential()
        if size.stem:
            self.to_patch_embedding.add_module("conv_stem", _conv_stem(layers, colours, size.stem))
        self.to_patch_embedding.add_module("patches", Patches(patch))
        self.to_patch_embedding.add_module("linear", layers.linear(width * patch**2, size.dim))
        self.positional_embedding = PositionCode()
        self.transformer = Chain()
        for number in range(size.depth):
            self.transformer.add_module(f"encoder_{number}", Encoder(layers, size.dim, size.num_heads))
        self.pool = Chain(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.linear_head = Chain()
        self.linear_head.add_module("norm", layers.norm(size.dim))
        self.linear_head.add_module("linear", layers.linear(size.dim, num_classes))
        self.logit_layer = LogitLayer(bias=class_prior_bias(num_classes)) if layers.is_bcos else nn.Identity()

    def stages(self) -> list[nn.Module]:
        """Modules in forward order."""
        embedding = flat(*(part for part in self.to_patch_embedding))
        blocks, pool, head = flat(self.transformer), flat(self.pool), flat(self.linear_head)
        return [*embedding, self.positional_embedding, *blocks, *pool, *head, self.logit_layer]

    def forward(self, x: Tensor) -> Tensor:
        """(B, 6 or 3, H, W) encoded image -> (B, K) logits."""
        return run_chain(self.stages(), x)


class Patches(nn.Module):
    """Cut a map into patches: (B, C, H, W) -> (B, H/p, W/p, p·p·C), row by row, channels innermost."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, H/p, W/p, p·p·C).

        Raises:
            ConfigError: the sides of the map are no multiples of the patch.
        """
        require_whole_patches(x, self.side)
        x = x.unflatten(3, (-1, self.side)).unflatten(2, (-1, self.side))  # (B, C, h, p, w, p)
        return x.permute(0, 2, 4, 3, 5, 1).flatten(3)

    def inverse(self, patches: Tensor) -> Tensor:
        """(R, h, w, p·p·C) -> (R, C, H, W)."""
        x = patches.unflatten(3, (self.side, self.side, -1)).permute(0, 5, 1, 3, 2, 4)
        return x.flatten(4, 5).flatten(2, 3)


class PositionCode(nn.Module):
    """Add sines and cosines of the column and the row: (B, h, w, D) -> map (B, D, h, w). No parameters, any size."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, D) -> (B, D, h, w); D is a multiple of 4, at least 8."""
        height, width, dim = x.shape[1:]
        # In float32 as published, whatever the type of the network: the weights were trained with these numbers.
        octave = torch.arange(dim // 4, device=x.device, dtype=torch.float32) / (dim // 4 - 1)
        frequency = 1 / PERIOD**octave
        row = torch.arange(height, device=x.device)[:, None, None] * frequency
        column = torch.arange(width, device=x.device)[:, None] * frequency
        row, column = (wave.expand(height, width, -1) for wave in (row, column))
        code = torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], dim=-1)
        return _to_map(x + code.to(x.dtype))


class Attention(nn.Module):
    """Norm, multi-head self-attention over all positions, output projection: (B, h, w, D) -> same."""

    def __init__(self, layers: Layers, dim: int, num_heads: int) -> None:
        super().__init__()
        self.is_bcos = layers.is_bcos
        self.num_heads = num_heads
        self.norm = layers.norm(dim)
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = layers.projection(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, h, w, D) -> same."""
        qkv = self.to_qkv(self.norm(x))
        return self.to_out(attend(qkv.flatten(1, 2), self.num_heads).view(x.shape))


class Encoder(nn.Module):
    """One block: attention and feed-forward, each added to its input."""

    def __init__(self, layers: Layers, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attn = Attention(layers, dim, num_heads)
        self.ff = Chain()
        self.ff.add_module("net", _feed_forward(layers, dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> same."""
        tokens = _to_tokens(x)
        tokens = tokens + self.attn(tokens)
        return _to_map(tokens + self.ff(tokens))


def cut(net: SimpleViT) -> Cut:
    """Stem or patches, blocks, classifier; Mid1 to Mid3 end a quarter, a half and three quarters of the blocks."""
    blocks = flat(net.transformer)
    ends = [blocks[-(-len(blocks) * quarter // 4) - 1] for quarter in (1, 2, 3, 4)]
    return Cut(net.stages(), ends=ends, blocks=blocks)


def require_whole_patches(x: Tensor, side: int) -> None:
    """Check that a map (B, C, H, W) can be cut into square patches.

    Raises:
        ConfigError: H or W is no multiple of ``side``.
    """
    height, width = x.shape[2:]
    if height % side or width % side:
        raise ConfigError(
            f"an image of {height} x {width} pixels cannot be cut into patches of {side}; "
            f"set data.image_size to a multiple of {side}"
        )


@linearise.register(Patches)
def _(module: Patches, x: Tensor) -> tuple[Tensor, Pullback]:
    return module(x), lambda g, rows: module.inverse(g)  # noqa: ARG005


@linearise.register(PositionCode)
def _(module: PositionCode, x: Tensor) -> tuple[Tensor, Pullback]:
    return module(x), lambda g, rows: _to_tokens(g)  # noqa: ARG005


@linearise.register(Attention)
def _(module: Attention, x: Tensor) -> tuple[Tensor, Pullback]:
    normed, pull_norm = linearise(module.norm, x)
    qkv = module.to_qkv(normed).flatten(1, 2)
    view = dynamic_attention if module.is_bcos else standard_attention
    mixed, pull_attention = view(qkv, module.num_heads)
    out, pull_out = linearise(module.to_out, mixed)
    weight = module.to_qkv.weight.chunk(3)[2] if module.is_bcos else module.to_qkv.weight

    def pullback(g: Tensor, rows: Tensor | None) -> Tensor:
        g = pull_attention(pull_out(g.flatten(1, 2), rows), rows)
        return pull_norm((g @ weight.to(g.dtype)).unflatten(1, x.shape[1:3]), rows)

    return out.view(x.shape), pullback


@linearise.register(Encoder)
def _(module: Encoder, x: Tensor) -> tuple[Tensor, Pullback]:
    tokens, pull_attention = linearise_residual(_to_tokens(x), [module.attn], None, None)
    out, pull_feed_forward = linearise_residual(tokens, [module.ff], None, None)

    def pullback(g: Tensor, rows: Tensor | None) -> Tensor:
        return _to_map(pull_attention(pull_feed_forward(_to_tokens(g), rows), rows))

    return _to_map(out), pullback


def _to_tokens(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def _to_map(tokens: Tensor) -> Tensor:
    return tokens.permute(0, 3, 1, 2)


def _feed_forward(layers: Layers, dim: int) -> Chain:
    """Norm and two linear layers, four times as wide between them."""
    chain = Chain()
    chain.add_module("norm", layers.norm(dim))
    chain.add_module("linear1", layers.linear(dim, 4 * dim))
    chain.add_module("act", layers.activation())
    chain.add_module("linear2", layers.linear(4 * dim, dim))
    return chain


def _conv_stem(layers: Layers, channels: int, widths: Sequence[int]) -> Chain:
    """3x3 convolutions, each with norm and activation, that halve the map wherever they widen it."""
    stem = Chain()
    for width in widths:
        stem.append(layers.convolution(channels, width, 2 if width > channels else 1))
        stem.append(layers.norm_of_map(width))
        stem.append(layers.activation())
        channels = width
    return stem


def _bcos_convolution(channels: int, width: int, stride: int) -> nn.Module:
    return BcosConv2d(channels, width, 3, stride, padding=1)


def _convolution(channels: int, width: int, stride: int) -> nn.Module:
    return nn.Conv2d(channels, width, 3, stride, padding=1)


BCOS = Layers(True, BcosLinear, BcosLinear, LayerNorm, _bcos_convolution, GroupNorm1, nn.Identity)
STANDARD = Layers(
    False, nn.Linear, partial(nn.Linear, bias=False), nn.LayerNorm, _convolution, partial(nn.GroupNorm, 1), nn.GELU
)
PATCHES = {"ti": Size(192, 12, 3), "s": Size(384, 12, 6), "b": Size(768, 12, 12), "l": Size(1024, 14, 16)}
STEMS = {  # a block less, in exchange for the stem
    "ti": Size(192, 11, 3, (24, 48, 96, 192)),
    "s": Size(384, 11, 6, (48, 96, 192, 384)),
    "b": Size(768, 11, 12, (64, 128, 128, 256, 256, 512)),
    "l": Size(1024, 13, 16, (64, 128, 128, 256, 256, 512)),
}


def _architectures(layers: Layers, prefix: str) -> dict[str, Architecture]:
    family = {f"{prefix}simple_vit_{name}_patch16_224": (size, 16) for name, size in PATCHES.items()}
    family |= {f"{prefix}vitc_{name}_patch1_14": (size, 1) for name, size in STEMS.items()}
    return {
        name: Architecture(
            partial(SimpleViT, layers, size, patch=patch), cut, head="linear_head.linear", is_bcos=layers.is_bcos
        )
        for name, (size, patch) in family.items()
    }


ARCHITECTURES = _architectures(BCOS, "bcos_") | _architectures(STANDARD, "")
