"""Dense features of CLIP: the value path without the last block's attention, against running everything by hand.

The first peer does what the released code of CLIP-DINOiser does: the whole forward pass with hooks, then the last block
once more, all three of queries, keys and values through the output projection, for the class token too.
"""

from __future__ import annotations

from typing import Any

import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.timing import Options, Result, describe, interleave, relative_error
from raytrain_xai.language.value_path import value_path

TOLERANCE = 1e-5  # float32, twelve blocks
IMAGES = 2  # the products of matrices alone give 158 / 142 = 1.11 against the first peer, 142 / 144 of a plain pass


def run(options: Options) -> list[Result]:
    """ViT-B/16 at 224 pixels, with random weights."""
    visual = open_clip.model.CLIP(**open_clip.get_model_config("ViT-B-16")).visual.eval().requires_grad_(False)
    visual = visual.to(options.device)
    x = torch.randn(IMAGES, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(options.device)

    @torch.no_grad()
    def ours() -> Tensor:
        return value_path(visual, x).patches

    @torch.no_grad()
    def plain() -> Tensor:
        return visual(x)

    timings = interleave({"ours": ours, "by hand": lambda: _by_hand(visual, x), "plain": plain}, options)
    error = relative_error(ours(), _by_hand(visual, x))
    shared = {"bench": "value_path", "error": error, "tolerance": TOLERANCE}
    case = f"ViT-B/16, {IMAGES} images"
    return [
        Result(
            **shared, case=f"{case}, whole pass by hand", value=timings.ratio("by hand", "ours"), measure="speed-up",
            target=1.08, is_minimum=True, detail=describe(timings, "by hand", "ours"),
        ),
        Result(
            **shared, case=f"{case}, plain forward", value=timings.ratio("ours", "plain"), measure="/ plain forward",
            target=1.05, is_minimum=False, detail=describe(timings, "plain", "ours"),
        ),
    ]  # fmt: skip


@torch.no_grad()
def _by_hand(visual: Any, x: Tensor) -> Tensor:
    seen: list[Tensor] = []
    hook = visual.transformer.resblocks[-2].register_forward_hook(lambda _m, _i, out: seen.append(out))
    visual(x)
    hook.remove()
    block, tokens = visual.transformer.resblocks[-1], seen[0]
    batch, length, width = tokens.shape
    qkv = F.linear(block.ln_1(tokens), block.attn.in_proj_weight, block.attn.in_proj_bias)
    qkv = qkv.view(batch, length, 3, width).permute(2, 0, 1, 3).reshape(3 * batch, length, width)
    values = block.attn.out_proj(qkv)[2 * batch :] + tokens
    values = values + block.mlp(block.ln_2(values))
    patches = (visual.ln_post(values) @ visual.proj)[:, 1:]
    return patches.transpose(1, 2).unflatten(2, (x.shape[2] // 16, x.shape[3] // 16))
