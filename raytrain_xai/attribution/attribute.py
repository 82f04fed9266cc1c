"""Attribution methods by name, and which networks they are for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raytrain_xai.attribution.bcos import bcos_contribution
from raytrain_xai.attribution.gradcam import gradcam
from raytrain_xai.attribution.input_x_gradient import input_x_gradient
from raytrain_xai.attribution.integrated_gradients import integrated_gradients
from raytrain_xai.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from raytrain_xai.attribution.tapped import TappedPass
    from raytrain_xai.models.network import Network

BCOS_METHODS = ("bcos",)
STANDARD_METHODS = ("ixg", "gradcam", "intgrad")


def attribute(
    network: Network,
    tapped: TappedPass,
    target: Tensor,
    rows: Tensor | None = None,
    *,
    method: str,
    layer: str,
    intgrad_steps: int = 8,
) -> Tensor:
    """Attribution maps of (image, class) pairs at a tap, in one walk back through the network.

    Args:
        network: the network of ``tapped``.
        tapped: forward pass with the tap ``layer``.
        target: (R,) int64, class of each row.
        rows: (R,) int64, image of each row, repeats allowed; None: the whole batch in order.
        method: one that :func:`check_attribution` accepts for this network.
        layer: the tap of ``tapped``.
        intgrad_steps: points on the path; read by ``intgrad`` only.
    Returns:
        (R, h, w) float32 or wider, at the resolution of the tap; signed, for ``gradcam`` >= 0. Differentiable with
        respect to the parameters unless gradients are disabled.
    Raises:
        ConfigError: the method is unknown, or ``intgrad`` meets batch statistics.
    """
    match method:
        case "bcos":
            return bcos_contribution(tapped, target, rows)
        case "ixg":
            return input_x_gradient(tapped, target, rows)
        case "gradcam":
            return gradcam(tapped, target, rows)
        case "intgrad":
            return integrated_gradients(network, tapped, layer, target, rows, steps=intgrad_steps)
        case _:
            raise ConfigError(f"unknown attribution {method!r}; choices: {', '.join(BCOS_METHODS + STANDARD_METHODS)}")


def check_attribution(network: Network, method: str, layer: str) -> None:
    """Refuse a method or layer that does not fit a network, before anything runs.

    B-cos networks take ``bcos`` only: their pullback is the explanation, not the gradient that the other methods are
    defined by. Other networks have no dynamic linear map that ``bcos`` could show.

    Raises:
        ConfigError: names the methods or layers that fit.
    """
    allowed = BCOS_METHODS if network.is_bcos else STANDARD_METHODS
    if method not in allowed:
        kind = "is a B-cos network" if network.is_bcos else "is not a B-cos network"
        raise ConfigError(
            f"attribution {method!r} does not fit {network.name}, which {kind}; choices: {', '.join(allowed)}"
        )
    network.depth(layer)  # raises for an unknown layer
