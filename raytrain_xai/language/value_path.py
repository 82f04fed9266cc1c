"""Patch features of a CLIP vision transformer that live in the space of its texts.

What the last block mixes into the class token are the values of the patches; a patch that goes through the value path
alone, without the attention, therefore lands where texts are. This is MaskCLIP (Zhou et al., ECCV 2022) in the form
that CLIP-DINOiser (Wysoczanska et al., ECCV 2024) and CFM (2026) use: the residual connections and the MLP of the last
block stay.

Released code runs the whole network and then the last block once more by hand. Here the last block runs once, without
queries, keys and attention, and for patches alone: past the attention of the block before it every step works on one
token at a time, so the numbers are the same.

Deviation: layer scales of a block, which the published networks do not have, are applied where the block applies them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST_BLOCKS = 3


class DenseFeatures(NamedTuple):
    """What one pass yields.

    Attributes:
        patches: (B, D, h, w) float32, in the space of the texts, not normalised.
        middle: (B, C, h, w) float32, output of ``ln_2`` of the block before the last two; C is the width of the tower.
    """

    patches: Tensor
    middle: Tensor


def value_path(visual: Any, x: Tensor) -> DenseFeatures:
    """Dense features of images.

    Args:
        visual: ``open_clip.transformer.VisionTransformer`` in eval mode, of :data:`LEAST_BLOCKS` plain blocks or more,
            batch first.
        x: (B, 3, H, W) float, normalised; H and W multiples of the side of a patch, of any size.
    """
    *early, third_last, second_last, last = visual.transformer.resblocks
    tokens, (h, w) = embed_patches(visual, x)
    for block in early:
        tokens = block(tokens)
    tokens, normed = _open_block(third_last, tokens)
    tokens = second_last(tokens)[:, 1:]
    tokens = _value_of(last, tokens)
    patches = visual.ln_post(tokens) @ visual.proj  # (B, hw, D)
    middle = normed[:, 1:]
    return DenseFeatures(*(t.transpose(1, 2).unflatten(2, (h, w)) for t in (patches, middle)))


def embed_patches(visual: Any, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """Tokens that enter the first block, (B, 1 + hw, C) with the class token first, and (h, w)."""
    grid = visual.conv1(x)
    size = (grid.shape[2], grid.shape[3])
    tokens = grid.flatten(2).transpose(1, 2)
    first = visual.class_embedding.expand(len(x), 1, -1)
    code = visual.positional_embedding
    code = torch.cat([code[:1], resize_positions(code[1:], visual.grid_size, size)])
    return visual.ln_pre(torch.cat([first, tokens], dim=1) + code), size


def resize_positions(code: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Positional code for another grid, bicubic between the centres of patches and without antialiasing.

    Args:
        code: (h w, C), row by row.
        old, new: (h, w) that it is for, and that it is wanted for.
    Returns:
        (h' w', C).
    """
    if tuple(old) == tuple(new):
        return code
    image = code.T.unflatten(1, tuple(old))[None]
    return F.interpolate(image, new, mode="bicubic", align_corners=False)[0].flatten(1).T


def _open_block(block: Any, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Output of a block, and what its ``ln_2`` makes on the way."""
    tokens = tokens + block.ls_1(block.attention(q_x=block.ln_1(tokens)))
    normed = block.ln_2(tokens)
    return tokens + block.ls_2(block.mlp(normed)), normed


def _value_of(block: Any, tokens: Tensor) -> Tensor:
    """A block in which every token attends to itself alone."""
    attention = block.attn
    weight, bias = attention.in_proj_weight.chunk(3)[2], attention.in_proj_bias.chunk(3)[2]
    values = attention.out_proj(F.linear(block.ln_1(tokens), weight, bias))
    tokens = tokens + block.ls_1(values)
    return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))
