"""Linearisation of residual blocks, shared by the B-cos, X-DNN and torchvision networks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from raytrain_xai.models.linearise import Pullback, linearise, linearise_chain


def linearise_residual(
    x: Tensor, branch: Sequence[nn.Module], shortcut: nn.Module | None, activation: nn.Module | None
) -> tuple[Tensor, Pullback]:
    """Linearise ``activation(branch(x) + shortcut(x))``.

    The pullback sends the gradient through the branch and through the shortcut and adds the two, the adjoint of
    copying ``x`` to both.

    Args:
        x: (B, D, h, w) input of the block.
        branch: modules of the residual branch in forward order.
        shortcut: the down-sampling module, None for the identity.
        activation: what follows the addition, None for nothing (B-cos).
    Returns:
        The block's output (B, D', h', w') and its pullback, (R, D', h', w') -> (R, D, h, w).
    """
    residual, pull_branch = linearise_chain(branch, x)
    skip, pull_skip = (x, None) if shortcut is None else linearise(shortcut, x)
    y = residual + skip
    pull_activation = None
    if activation is not None:
        y, pull_activation = linearise(activation, y)

    def pullback(g: Tensor, rows: Tensor | None) -> Tensor:
        if pull_activation is not None:
            g = pull_activation(g, rows)
        return pull_branch(g, rows) + (g if pull_skip is None else pull_skip(g, rows))

    return y, pullback


def linearise_scaled_residual(
    x: Tensor, branch: nn.Module, layer_scale: Tensor, stochastic_depth: nn.Module
) -> tuple[Tensor, Pullback]:
    """Linearise ``x + stochastic_depth(layer_scale * branch(x))``, the block of a ConvNeXt.

    Args:
        x: (B, D, h, w) input of the block.
        branch: keeps the shape.
        layer_scale: (D, 1, 1).
        stochastic_depth: multiplies whole images, in training only.
    Returns:
        The block's output and its pullback, both (., D, h, w).
    """
    residual, pull_branch = linearise(branch, x)
    scaled, pull_depth = linearise(stochastic_depth, layer_scale * residual)

    def pullback(g: Tensor, rows: Tensor | None) -> Tensor:
        return g + pull_branch(pull_depth(g, rows) * layer_scale, rows)

    return x + scaled, pullback
