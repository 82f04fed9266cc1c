"""From maps over patches to maps over pixels, and back.

An upsampler is linear in the maps and gives a pixel a weighted mean of patches: so what is exact for patches, such as
a score as a sum of contributions of concepts, is exact for pixels. Its weights may depend on the image. Upsampling the
maps of concepts and decoding them is the same as upsampling the reconstruction; here the cosines are upsampled, so
that a patch is brought to unit length before it is mixed with others, and nothing of the size pixels x D is made.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Upsample = Callable[[Tensor, Tensor, tuple[int, int]], Tensor]
"""(images (R, 3, H, W) uint8, maps (R, C, h, w) float, (H', W')) -> (R, C, H', W'), linear in the maps, with weights
that add up to 1 at every pixel; the images show the area of the maps."""


def bilinear(images: Tensor, maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Interpolated between the centres of patches; see :data:`Upsample`. What the images show changes nothing."""
    del images
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def transposed(linear: Callable[[Tensor], Tensor], shape: tuple[int, ...], pixels: Tensor) -> Tensor:
    """The transpose of a linear function: with A x = ``linear(x)``, this is Aᵀ pixels.

    Args:
        linear: from ``shape`` to the shape of ``pixels``; differentiable.
        pixels: float.
    """
    with torch.inference_mode(False), torch.enable_grad():
        start = pixels.new_zeros(shape).requires_grad_()
        (back,) = torch.autograd.grad(linear(start), start, pixels.detach().clone())
    return back
