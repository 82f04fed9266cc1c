"""Grad-CAM at any tap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raytrain_xai.attribution.tapped import contract_channels

if TYPE_CHECKING:
    from torch import Tensor

    from raytrain_xai.attribution.tapped import TappedPass


def gradcam(tapped: TappedPass, target: Tensor, rows: Tensor | None = None) -> Tensor:
    """Positive part of the features weighted by their mean gradient per channel.

    Args:
        tapped: forward pass with the tap to explain at, normally ``Final``.
        target: (R,) int64, class of each row.
        rows: (R,) int64, image of each row; None: the whole batch in order.
    Returns:
        (R, h, w) float, >= 0; all zero where no position speaks for the class.
    Source: Selvaraju et al., ICCV 2017 (arXiv 1610.02391), equations 1 and 2. Not resized to the image here.
    """
    weights = tapped.gradient(target, rows).mean(dim=(2, 3), keepdim=True)
    return contract_channels(tapped.rows_of_features(rows), weights).relu()
