"""Input x gradient, at the input or at any tap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raytrain_xai.attribution.tapped import contract_channels

if TYPE_CHECKING:
    from torch import Tensor

    from raytrain_xai.attribution.tapped import TappedPass


def input_x_gradient(tapped: TappedPass, target: Tensor, rows: Tensor | None = None) -> Tensor:
    """Sum over channels of features times gradient.

    Args:
        tapped: forward pass with the tap to explain at.
        target: (R,) int64, class of each row.
        rows: (R,) int64, image of each row; None: the whole batch in order.
    Returns:
        (R, h, w) float, signed, in units of the logit. For bias-free networks it sums to the logit minus the
        classifier's bias; for others it need not.
    Source: Shrikumar et al., "Not Just a Black Box", 2016 (arXiv 1605.01713). At the input the features are the
    normalised image, not the image in [0, 1], as in Rao et al., ICCV 2023.
    """
    return contract_channels(tapped.rows_of_features(rows), tapped.gradient(target, rows))
