"""RISE: what a network says while random parts of its input are hidden. Any network, forward passes only."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import interpolate

NUM_MASKS = 500  # as in the published localisation benchmark of B-cos networks
CELLS = 7  # of the paper, per side
KEPT = 0.5  # of the paper: probability that a cell is visible
SEED = 0  # of the masks: every mosaic and every network is seen through the same ones
IMAGES_AT_ONCE = 128  # masked images that run together


@torch.no_grad()
def rise(forward: Callable[[Tensor], Tensor], inputs: Tensor, targets: Tensor, *, num_masks: int = NUM_MASKS) -> Tensor:
    """How much the logit of a class rises when a position is visible; all classes of an image share the passes.

    Args:
        forward: network input (B, D, H, W) -> logits (B, C).
        inputs: (G, D, H, W), network inputs; hidden positions become 0.
        targets: (G, n) int64, classes explained for each.
        num_masks: M >= 2, masks and passes of each image.
    Returns:
        (G, n, H, W) float32 or wider, signed, in units of the logit: mean of (logit - its mean) * mask / p over masks.
    Source: Petsiuk et al., BMVC 2018 (arXiv 1806.07421), equation 6 and the masks of section 3.2.

    Deviation: the paper weights the masks with probabilities, which are never negative, so that its maps stand on a
    plateau of (mean score) * (mean mask); it only ranks positions, for which a plateau does not matter. The share of
    mass in a region would mostly measure the plateau, hence the mean is subtracted, and logits make this meaningful
    for networks with sigmoid and with softmax outputs.
    """
    if num_masks < 2:
        raise ValueError(f"RISE compares masks, so it needs two or more, got {num_masks}")
    num_images, _, height, width = inputs.shape
    chunk = max(1, IMAGES_AT_ONCE // num_images)
    wide = torch.promote_types(inputs.dtype, torch.float32)
    weighted = inputs.new_zeros((targets.numel(), height * width), dtype=wide)
    seen, scores = inputs.new_zeros(height * width, dtype=wide), inputs.new_zeros(targets.numel(), dtype=wide)
    for masks in _mask_chunks(num_masks, (height, width), chunk):
        visible = masks.to(inputs.device, inputs.dtype)
        logits = forward((inputs[:, None] * visible[None, :, None]).flatten(0, 1)).unflatten(0, (num_images, -1))
        own = logits.gather(2, targets[:, None].expand(-1, logits.shape[1], -1)).transpose(1, 2).flatten(0, 1).to(wide)
        weighted += own @ visible.flatten(1).to(wide)  # (G * n, m) x (m, H * W)
        seen += visible.flatten(1).sum(dim=0, dtype=wide)
        scores += own.sum(dim=1)
    maps = (weighted - scores[:, None] / num_masks * seen) / (num_masks * KEPT)
    return maps.view(*targets.shape, height, width)


def random_masks(count: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Smooth random masks: a coarse binary raster, enlarged and cut out at a random place.

    Args:
        count: M.
        size: (H, W), pixels.
    Returns:
        (M, H, W) float32 in [0, 1] with mean ``KEPT``.
    """
    height, width = size
    cell = (-(-height // CELLS), -(-width // CELLS))  # rounded up, so that the raster covers the image
    coarse = (torch.rand((count, 1, CELLS, CELLS), generator=generator) < KEPT).float()
    large = interpolate(coarse, size=((CELLS + 1) * cell[0], (CELLS + 1) * cell[1]), mode="bilinear")[:, 0]
    top = torch.randint(cell[0], (count, 1), generator=generator) + torch.arange(height)
    left = torch.randint(cell[1], (count, 1), generator=generator) + torch.arange(width)
    return large[torch.arange(count)[:, None, None], top[:, :, None], left[:, None, :]]


def _mask_chunks(num_masks: int, size: tuple[int, int], chunk: int) -> Iterator[Tensor]:
    """The same masks whatever the chunk: they are drawn in blocks of fixed size and cut from those."""
    generator = torch.Generator().manual_seed(SEED)
    for start in range(0, num_masks, IMAGES_AT_ONCE):
        yield from random_masks(min(IMAGES_AT_ONCE, num_masks - start), size, generator).split(chunk)
