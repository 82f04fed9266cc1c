"""Integrated Gradients from a zero baseline, at any tap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from raytrain_xai.attribution.tapped import TappedPass, contract_channels
from raytrain_xai.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from raytrain_xai.models.network import Network

ROWS_AT_ONCE = 128  # images on the path that run together; bounds memory without a graph, keeps the batches large


def integrated_gradients(
    network: Network, tapped: TappedPass, layer: str, target: Tensor, rows: Tensor | None = None, *, steps: int = 8
) -> Tensor:
    """Features times the mean gradient along the straight path from zero to them, summed over channels.

    The integral is taken by the midpoint rule, alpha = (i + 1/2) / steps. For positively homogeneous networks (X-DNN)
    the gradient is constant along the path and every number of steps gives input x gradient.

    Args:
        network: the network of ``tapped``, in evaluation mode or with frozen normalisation statistics.
        tapped: forward pass with the tap to explain at.
        layer: that tap.
        target: (R,) int64, class of each row.
        rows: (R,) int64, image of each row; None: the whole batch in order.
        steps: points on the path, >= 1.
    Returns:
        (R, h, w) float, signed; sums to logit(x) - logit(features 0) up to the error of the rule. Differentiable with
        respect to parameters and features.
    Raises:
        ConfigError: a normalisation layer uses batch statistics, which would mix the points of a path.
        ValueError: steps < 1.
    Source: Sundararajan et al., ICML 2017 (arXiv 1703.01365). At a tap other than ``Input`` the baseline is a feature
    map of zeros, not the features of a black image; at ``Input`` zero is the mean colour of ImageNet.
    """
    if steps < 1:
        raise ValueError(f"Integrated Gradients needs at least one step, got {steps}")
    _refuse_batch_statistics(network)
    explained = tapped.rows_of_features(rows)
    # An image explained for several classes walks the same path: run it once when that is fewer points.
    if rows is None or len(rows) <= len(tapped.features):
        ends, end_of_row = explained, torch.arange(len(explained), device=explained.device)
    else:
        ends, end_of_row = tapped.features, rows
    alphas = (torch.arange(steps, device=ends.device, dtype=ends.dtype) + 0.5) / steps
    total = torch.zeros_like(explained)
    for part in alphas.split(max(1, ROWS_AT_ONCE // max(1, len(ends)))):
        total = total + _gradient_sum(network, ends, part, end_of_row, (layer, target))
    return contract_channels(explained, total / steps)


def _gradient_sum(
    network: Network, ends: Tensor, alphas: Tensor, end_of_row: Tensor, explain: tuple[str, Tensor]
) -> Tensor:
    """Sum over ``alphas`` (S,) of the gradients at alpha * ends (E, D, h, w), for each row (R, D, h, w)."""
    layer, target = explain
    num_alphas, num_ends = len(alphas), len(ends)
    path = (alphas.view(-1, 1, 1, 1, 1) * ends).flatten(0, 1)
    logits, pullback = network.linearise_from(path, layer)
    offsets = torch.arange(num_alphas, device=ends.device).unsqueeze(1) * num_ends
    rows = (offsets + end_of_row).flatten()
    gradient = TappedPass(logits, path, pullback).gradient(target.repeat(num_alphas), rows)
    return gradient.unflatten(0, (num_alphas, -1)).sum(dim=0)


def _refuse_batch_statistics(network: Network) -> None:
    if any(isinstance(module, _BatchNorm) and module.training for module in network.net.modules()):
        raise ConfigError(
            f"Integrated Gradients on {network.name} needs stored normalisation statistics, but they are taken from "
            "the batch, where the points of a path would mix; set model.norm_statistics=frozen"
        )
