"""Pictures of attribution maps: signed heatmaps over a dimmed photograph, boxes, and their encoding.

Blue speaks against the class, white is neutral, red speaks for it. The scale is symmetric and one number per map (the
99.5 % percentile of the absolute values), so that a colour means the same share of a map's strongest evidence in every
picture. A map is never stretched to its own minimum: an unremarkable map stays pale.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.nn import functional

PERCENTILE = 0.995
DIMMED_BLACK = 0.45  # grey level that black becomes, so that colours stay visible on dark pictures
BOX_COLOUR = (255, 214, 0)
BOX_EDGE = (0, 0, 0)
JPEG_QUALITY = 88


def signed_scale(attr: Tensor) -> Tensor:
    """Value that is drawn in full colour, per map.

    Args:
        attr: (B, H, W) float, signed, any scale.
    Returns:
        (B,) float, the 99.5 % percentile of the absolute values; of a map so sparse that this is 0, its largest
        absolute value; 1 for an empty map.
    Source: methods of B-cos networks (Boehle et al., CVPR 2022), contribution heatmap; the sparse case is ours:
        Grad-CAM maps can be zero nearly everywhere.
    """
    magnitude = attr.abs().flatten(1)
    rank = max(1, round(PERCENTILE * magnitude.shape[1]))
    scale = magnitude.kthvalue(rank, dim=1).values
    scale = torch.where(scale > 0, scale, magnitude.amax(1))
    return torch.where(scale > 0, scale, torch.ones_like(scale))


def signed_colours(values: Tensor) -> Tensor:
    """Blue (-1), white (0), red (+1), linear in between.

    Args:
        values: (...) float; clipped to [-1, 1].
    Returns:
        (..., 3) float, RGB in [0, 1].
    """
    values = values.clamp(-1, 1)
    red = 1 + values.clamp(max=0)
    blue = 1 - values.clamp(min=0)
    return torch.stack([red, torch.minimum(red, blue), blue], dim=-1)


def overlay_heatmap(images: Tensor, attr: Tensor) -> Tensor:
    """Signed maps in colour over grey, lightened photographs.

    The colour multiplies the photograph: where the map is zero the grey picture is left alone.

    Args:
        images: (B, 3, H, W) uint8, RGB.
        attr: (B, h, w) float, signed; resized bilinearly to (H, W) before the scale is taken.
    Returns:
        (B, H, W, 3) uint8.
    Raises:
        ValueError: the two batches differ in length, or ``images`` is not uint8.
    """
    if images.dtype != torch.uint8 or images.shape[0] != attr.shape[0]:
        raise ValueError(f"expected uint8 images and one map each, got {images.dtype}, {len(images)} and {len(attr)}")
    attr = functional.interpolate(attr[:, None].float(), size=images.shape[-2:], mode="bilinear")[:, 0]
    weights = torch.tensor([0.299, 0.587, 0.114], device=images.device)  # ITU-R BT.601 luma
    grey = torch.einsum("bchw,c->bhw", images.float() / 255, weights)
    dimmed = DIMMED_BLACK + (1 - DIMMED_BLACK) * grey
    colours = signed_colours(attr / signed_scale(attr)[:, None, None])
    return (dimmed[..., None] * colours * 255).round().to(torch.uint8)


def to_picture(pixels: Tensor) -> Image.Image:
    """(H, W, 3) or (H, W, 4) uint8 as a Pillow picture, RGB or RGBA."""
    return Image.fromarray(pixels.contiguous().cpu().numpy())


def draw_boxes(picture: Image.Image, boxes: Sequence[Sequence[float]]) -> Image.Image:
    """A copy with boxes drawn as yellow frames inside a thin black edge, readable on any background.

    Args:
        picture: RGB.
        boxes: (x0, y0, x1, y1) in pixels of ``picture``, half-open; boxes empty after rounding are left out.
    """
    drawn = picture.copy()
    pen = ImageDraw.Draw(drawn)
    width = max(1, round(min(picture.size) / 112))
    for x0, y0, x1, y1 in boxes:
        left, top, right, bottom = round(x0), round(y0), round(x1) - 1, round(y1) - 1
        if right < left or bottom < top:
            continue
        pen.rectangle((left - 1, top - 1, right + 1, bottom + 1), outline=BOX_EDGE, width=1)
        pen.rectangle((left, top, right, bottom), outline=BOX_COLOUR, width=width)
    return drawn


def on_white(rgba: Image.Image) -> Image.Image:
    """An RGBA picture as it looks on white paper, RGB."""
    paper = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
    return Image.alpha_composite(paper, rgba.convert("RGBA")).convert("RGB")


def data_uri(picture: Image.Image) -> str:
    """A JPEG of an RGB picture as a ``data:`` address, for pages without other files."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
