"""Stochastic depth: in training, whole residual branches are left out at random, image by image.

Source: Huang et al., "Deep Networks with Stochastic Depth", ECCV 2016 (arXiv 1603.09382), in the form of torchvision's
row mode, which the published B-cos trainings use: a branch that stays is divided by the probability to stay, so that
evaluation needs no factor.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from raytrain_xai.errors import ConfigError
from raytrain_xai.models.linearise import Pullback, linearise, take_rows


class StochasticDepth(nn.Module):
    """Zero each image's branch with probability p in training; the identity in evaluation. No parameters.

    Args:
        p: probability to leave the branch out, 0 <= p < 1. See :func:`set_stochastic_depth`.
    """

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        self.p = p

    @property
    def is_active(self) -> bool:
        """False where the module changes nothing."""
        return self.training and self.p > 0

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> same."""
        return x * self.draw(x) if self.is_active else x

    def draw(self, x: Tensor) -> Tensor:
        """One factor per image, 0 or 1 / (1 - p), shaped (B, 1, ...) in the type of ``x``."""
        stays = torch.empty(x.shape[0], *[1] * (x.dim() - 1), dtype=x.dtype, device=x.device).bernoulli_(1 - self.p)
        return stays.div_(1 - self.p)

    def extra_repr(self) -> str:
        return f"p={self.p:.4g}"


def set_stochastic_depth(net: nn.Module, p: float) -> None:
    """Set the drop probabilities of a net: 0 in its first block, growing linearly to p in the last, as published.

    Args:
        net: changed in place; its blocks are taken in registration order, which is the forward order.
        p: probability of the last block, 0 <= p < 1.
    Raises:
        ConfigError: p outside the range, or p > 0 for a net without residual branches to drop.
    """
    if not 0 <= p < 1:
        raise ConfigError(f"stochastic depth is a probability, 0 <= p < 1, got {p}")
    drops = [module for module in net.modules() if isinstance(module, StochasticDepth)]
    if p > 0 and not drops:
        raise ConfigError(
            f"{type(net).__name__} has no blocks that stochastic depth could drop; set the probability to 0 "
            "(ResNets, ConvNeXts and their B-cos forms have such blocks)"
        )
    for position, module in enumerate(drops):
        module.p = p * position / max(len(drops) - 1, 1)


@linearise.register(StochasticDepth)
def _(module: StochasticDepth, x: Tensor) -> tuple[Tensor, Pullback]:
    if not module.is_active:
        return x, lambda g, rows: g  # noqa: ARG005
    factor = module.draw(x)
    return x * factor, lambda g, rows: g * take_rows(factor, rows)
