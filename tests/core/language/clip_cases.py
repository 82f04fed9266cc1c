"""Small models of OpenCLIP with random weights, in the form of its published folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

WIDTH, DIM, PATCH, SIDE = 32, 16, 8, 32
VISION = {"image_size": SIDE, "patch_size": PATCH, "width": WIDTH, "head_width": 8, "layers": 4}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
CONFIG = {"embed_dim": DIM, "vision_cfg": VISION, "text_cfg": TEXT}


def small_clip(**vision: Any) -> Any:
    """Weights large enough that attention and positions matter, and no bias is zero."""
    model: Any = open_clip.model.CLIP(DIM, {**VISION, **vision}, TEXT).eval().requires_grad_(False)
    return shake(model)


def shake(model: Any) -> Any:
    """Random values where initialisation leaves constants."""
    generator = torch.Generator().manual_seed(1)
    for value in model.parameters():
        if value.dim():
            value.data.add_(torch.randn(value.shape, generator=generator), alpha=0.2)
    return model


def write_folder(folder: Path, weights: dict[str, Tensor], config: dict[str, Any] | None = None) -> str:
    """A folder as OpenCLIP publishes them; its address."""
    folder.mkdir(parents=True, exist_ok=True)
    stated = {"model_cfg": config or CONFIG, "preprocess_cfg": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}}
    (folder / "open_clip_config.json").write_text(json.dumps(stated))
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / "open_clip_model.safetensors")
    return str(folder)


def write_dinoiser(file: Path, width: int = WIDTH) -> dict[str, Tensor]:
    """A file with the keys of the authors' ``last.pt``; its weights."""
    projection, decoder = nn.Conv2d(width, 6, 3), nn.Conv2d(width, 1, 1)
    state = {
        "obj_proj.bias": projection.bias.detach(), "obj_proj.weight": projection.weight.detach(),
        "bkg_decoder.bias": decoder.bias.detach(), "bkg_decoder.weight": decoder.weight.detach(),
    }  # fmt: skip
    torch.save({"epoch": 2, "model_state_dict": state}, file)
    return state


def normalised(images: Tensor) -> Tensor:
    """Images as the folders say."""
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
    return (images.float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)


def plain_dense(visual: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """Dense features with the forward pass and the attention of the library, at the size the model is made for.

    The last block runs with a mask that lets every token see itself alone.
    """
    seen: dict[str, Tensor] = {}
    hooks = [
        visual.transformer.resblocks[-2].register_forward_hook(lambda _m, _i, out: seen.update(block=out)),
        visual.transformer.resblocks[-3].ln_2.register_forward_hook(lambda _m, _i, out: seen.update(middle=out)),
    ]
    visual(x)
    for hook in hooks:
        hook.remove()
    tokens = seen["block"]
    mask = torch.full((tokens.shape[1],) * 2, -torch.inf).fill_diagonal_(0)
    alone = visual.transformer.resblocks[-1](tokens, attn_mask=mask)
    size = visual.grid_size
    patches = (visual.ln_post(alone) @ visual.proj)[:, 1:].transpose(1, 2).unflatten(2, size)
    return patches, seen["middle"][:, 1:].transpose(1, 2).unflatten(2, size)
