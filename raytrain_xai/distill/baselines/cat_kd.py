"""Class attention transfer (CAT-KD): the map of every class is to look like the teacher's.

Source: Guo et al., CVPR 2023 (arXiv 2304.12777), section 3: class activation maps by moving the classifier in front of
global pooling, and L_CAT on maps that are pooled and brought to length 1. Its experiments with binarised maps ask what
a map says, and are no part of the method; the benchmarks of the released code leave the length of the maps as it is,
with weights that are tuned for every pair of networks, and the equation is what is done here.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from raytrain_xai.distill.baselines.baseline import Baseline, same_taps
from raytrain_xai.distill.features import tap_shapes
from raytrain_xai.errors import ConfigError
from raytrain_xai.models.chain import run_chain
from raytrain_xai.models.network import Network, evaluation_mode
from raytrain_xai.types import Batch

TAP = "Final"
RESOLUTION = 2  # side of the maps that are compared: the released code's default, small maps did best in the paper
_PROBE = 3  # side of the random map by which a head is examined


def class_maps(network: Network, features: Tensor) -> Tensor:
    """Class activation maps: what every position adds to the mean that a logit is.

    The head is applied to each position by itself. Where it is linear behind pooling this is the sum of the features
    times the weights of the class, the published map; B-cos heads stand in front of pooling in any case.

    Args:
        network: one that :func:`check_head` accepts.
        features: (B, D, h, w) at the tap ``Final``.
    Returns:
        (B, C, h, w) in the type of the head, signed; the mean over the positions is the logit without its bias (the
        score of features that are 0).
    """
    size, stages = features.shape[2:], network.stages[network.depth(TAP) :]
    positions = features.permute(0, 2, 3, 1).flatten(0, 2)[:, :, None, None]
    none = features.new_zeros(1, features.shape[1], 1, 1)
    scores = run_chain(stages, torch.cat([positions, none]))
    return (scores[:-1] - scores[-1]).unflatten(0, (-1, *size)).permute(0, 3, 1, 2)


def class_attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """L_CAT: mean over the classes of the squared distance between the maps, pooled and of length 1.

    The released code takes the mean over the positions besides, so its weights (400 by default) are four times those
    that do the same here.

    Args:
        student: (B, C, h, w) float, class activation maps.
        teacher: (B, C, h', w') float.
    Returns:
        (B,) in [0, 4].
    """
    own, other = (F.normalize(F.adaptive_avg_pool2d(x, RESOLUTION).flatten(2), dim=2) for x in (student, teacher))
    return (own - other).square().sum(dim=2).mean(dim=1)


class ClassAttentionTransfer(Baseline):
    """:func:`class_attention_loss` of the class activation maps; no parameters of its own.

    The heads of both networks are run a second time; the networks belong to whoever trains them, and are no part of
    this module.
    """

    def __init__(self, student: Network, teacher: Network, size: int) -> None:
        """
        Args:
            size: side of the training images, pixels.
        Raises:
            ConfigError: no class activation maps can be had from a network, or they are too small.
        """
        super().__init__(same_taps(student, teacher, (TAP,)))
        for network in (student, teacher):
            check_head(network, size)
        self._networks = (student, teacher)  # in a tuple: not registered

    def forward(self, student: Mapping[str, Tensor], teacher: Mapping[str, Tensor], batch: Batch, step: int) -> Tensor:  # noqa: ARG002
        """(B,), see :class:`~raytrain_xai.distill.baselines.baseline.Baseline`."""
        learner, guide = self._networks
        with torch.no_grad():
            goal = class_maps(guide, teacher[TAP].to(guide.dtype))
        maps = class_maps(learner, student[TAP])
        wide = torch.promote_types(maps.dtype, torch.float32)
        return class_attention_loss(maps.to(wide), goal.to(wide))


@torch.no_grad()
def check_head(network: Network, size: int) -> None:
    """Refuse a network whose logits are no mean over positions, which a random map of features tells.

    Raises:
        ConfigError: says what the head has that is in the way, or that the map is too small.
    """
    channels, *sides = tap_shapes(network, (TAP,), size)[TAP]
    if min(sides) < RESOLUTION:
        raise ConfigError(
            f"distill.baseline=cat_kd compares maps of {RESOLUTION} x {RESOLUTION}, and {network.name} has "
            f"{sides[0]} x {sides[1]} for images of {size} pixels; raise data.image_size or choose another baseline"
        )
    stages = network.stages[network.depth(TAP) :]
    keeps_statistics = any(name.endswith("running_var") for stage in stages for name, _ in stage.named_buffers())
    if keeps_statistics or not _is_mean(network, channels):
        raise ConfigError(
            f"distill.baseline=cat_kd needs logits that are means of class activation maps, by a head without running "
            f"statistics; behind its last features {network.name} has "
            f"{', '.join(type(stage).__name__ for stage in stages)}; choose another network or baseline"
        )


def _is_mean(network: Network, channels: int) -> bool:
    weight = next(network.net.parameters())
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(2, channels, _PROBE, _PROBE, generator=generator).to(weight)
    with evaluation_mode(network):
        logits = run_chain(network.stages[network.depth(TAP) :], torch.cat([features, torch.zeros_like(features[:1])]))
        maps = class_maps(network, features)
    expected = logits[:-1] - logits[-1]
    close = 10 * torch.finfo(weight.dtype).eps ** 0.5 * expected.abs().max()
    return bool((maps.mean(dim=(2, 3)) - expected).abs().max() <= close)
