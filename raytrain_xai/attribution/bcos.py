"""Contribution maps of B-cos networks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raytrain_xai.attribution.tapped import contract_channels

if TYPE_CHECKING:
    from torch import Tensor

    from raytrain_xai.attribution.tapped import TappedPass


def bcos_contribution(tapped: TappedPass, target: Tensor, rows: Tensor | None = None) -> Tensor:
    """Contribution of every position to a logit: sum over channels of x * W(x).

    The formula is that of input x gradient; what differs is the gradient. For B-cos layers the pullback is the adjoint
    of the dynamic linear map, in which the scales are factors, so the map is the network's own decomposition.

    Args:
        tapped: forward pass of a B-cos network with the tap to explain at.
        target: (R,) int64, class of each row.
        rows: (R,) int64, image of each row; None: the whole batch in order.
    Returns:
        (R, h, w) float, signed, in units of the logit; sums to the logit minus the logit bias at every tap.
    Source: Böhle et al., CVPR 2022 (arXiv 2205.10268), section 3.2.
    """
    return contract_channels(tapped.rows_of_features(rows), tapped.gradient(target, rows))
