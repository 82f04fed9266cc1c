"""One forward pass with a tap: logits, the features at a layer, and gradients of logits with respect to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import one_hot

if TYPE_CHECKING:
    from raytrain_xai.models.linearise import Pullback
    from raytrain_xai.models.network import Network


@dataclass(frozen=True)
class TappedPass:
    """Result of :func:`tapped_pass`. B images, C classes, R explained (image, class) pairs.

    Attributes:
        logits: (B, C) float.
        features: (B, D, h, w) float, values at the tap.
        pullback: gradient at the logits (R, C), rows (R,) int64 or None -> gradient at the features (R, D, h, w).
    """

    logits: Tensor
    features: Tensor
    pullback: Pullback

    def gradient(self, target: Tensor, rows: Tensor | None = None) -> Tensor:
        """Gradient of one logit per row with respect to the features; for B-cos networks the dynamic linear map W(x).

        Args:
            target: (R,) int64, class of each row.
            rows: (R,) int64, image of each row, repeats allowed; None: the whole batch in order (R = B).
        Returns:
            (R, D, h, w), with a graph to the parameters unless gradients are disabled.
        Raises:
            ValueError: ``target`` and ``rows`` differ in length.
        """
        num_rows = (self.logits if rows is None else rows).shape[0]  # len() would fix the batch size of an export
        if target.shape != (num_rows,):
            raise ValueError(f"target must have one class per row, ({num_rows},), got {tuple(target.shape)}")
        selected = one_hot(target, self.logits.shape[1]).to(self.logits.dtype)
        return self.pullback(selected, rows)

    def rows_of_features(self, rows: Tensor | None) -> Tensor:
        """(R, D, h, w) features of the explained rows."""
        return self.features if rows is None else self.features.index_select(0, rows)


def tapped_pass(network: Network, images: Tensor, layer: str) -> TappedPass:
    """Run ``network`` once: below the tap as an ordinary forward pass, above it with the records a pullback needs.

    Args:
        images: (B, 3, H, W) uint8, or float in [0, 1].
        layer: name of a tap; at ``Input`` the features are the encoded images.
    Raises:
        ConfigError: the network has no such layer.
    """
    features = network.features(images, layer)
    logits, pullback = network.linearise_from(features, layer)
    return TappedPass(logits, features, pullback)


def contract_channels(left: Tensor, right: Tensor) -> Tensor:
    """Sum of left * right over channels, (R, D, h, w) and what broadcasts with it -> (R, h, w).

    In float32 at least: a sum of many signed terms loses its small ones in bfloat16. Not a batched matrix product,
    which copies both operands into another layout (8x slower for six channels) and is narrowed by autocast.
    """
    wide = torch.promote_types(torch.promote_types(left.dtype, right.dtype), torch.float32)
    return (left.to(wide) * right.to(wide)).sum(dim=1)
