"""Patch features of a SigLIP model (Zhai et al., ICCV 2023; Tschannen et al., 2025) in the space of its texts.

SigLIP has no class token: a learned query attends over all patches, and what it gathers goes through a projection and
an MLP. Its authors publish the model and the embedding of whole images; the dense features here are ours, by the idea
of MaskCLIP (Zhou et al., ECCV 2022): every patch goes through the head as if the query saw that patch alone, so that an
image of one patch has exactly the feature of the whole image. How well such patches localise has not been measured
here.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from raytrain_xai.language.value_path import resize_positions


def siglip_patches(visual: Any, x: Tensor) -> Tensor:
    """Dense features of images.

    Args:
        visual: ``open_clip.timm_model.TimmModel`` in eval mode around a vision transformer of timm without class token
            and with an attention pool of one query.
        x: (B, 3, H, W) float, normalised; H and W multiples of the side of a patch, of any size.
    Returns:
        (B, D, h, w) float32, not normalised.
    """
    trunk = visual.trunk
    grid = trunk.patch_embed.proj(x)
    size = (grid.shape[2], grid.shape[3])
    code = resize_positions(trunk.pos_embed[0], trunk.patch_embed.grid_size, size)
    tokens = trunk.norm_pre(trunk.patch_embed.norm(grid.flatten(2).transpose(1, 2)) + code)
    tokens = trunk.norm(trunk.blocks(tokens))
    pool = trunk.attn_pool
    values = pool.proj(F.linear(tokens, pool.kv.weight.chunk(2)[1], pool.kv.bias.chunk(2)[1]))
    pooled = values + pool.mlp(pool.norm(values))
    vectors = visual.head(trunk.head(trunk.fc_norm(pooled)))
    return vectors.transpose(1, 2).unflatten(2, size)
