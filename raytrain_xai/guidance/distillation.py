"""Feature distillation beside another objective: a network learns to have the features of a fixed one.

Used to B-cosify: with the filters of a pretrained network but other units, its features are what is worth keeping, and
pictures teach them without labels. D of an image = mean over the positions of a map of 1 - cosine(f, t), plus
``SIZE_WEIGHT`` · log²(‖f‖/‖t‖) with norms over the whole map. B-cos networks are homogeneous, so the cosines leave the
size of the features open; without the second term it drifts by orders of magnitude.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raytrain_xai.models.linearise import Pullback, linearise
from raytrain_xai.models.network import Network
from raytrain_xai.types import Batch, StepOutput

TAP = "Final"
SIZE_WEIGHT = 0.1
_MIN_NORM = 1e-12


class FeatureDistillation(nn.Module):
    """loss = objective + weight · mean over images of D, see the head of this file.

    During the first ``alone`` steps the objective has no weight and only the features learn.

    Args:
        network: to be trained.
        plain: fixed; its last map has the shape of the network's.
        objective: of a network -> module as :class:`~raytrain_xai.guidance.objective.GuidanceObjective`.
        weight: of D.
        alone: number of steps.
    """

    def __init__(
        self, network: Network, plain: Network, objective: Callable[[Network], nn.Module], *, weight: float, alone: int
    ) -> None:
        super().__init__()
        self.recorder = Recorder()
        self.objective = objective(_with_recorder(network, self.recorder))
        self.weight = weight
        self.alone = alone
        self._plain = [plain.eval().requires_grad_(requires_grad=False)]  # in a list: no part of what is trained

    def forward(self, batch: Batch, step: int, world_size: int) -> StepOutput:
        """As the objective's; the sums have ``distil_sum`` (over images) besides."""
        output: StepOutput = self.objective(batch, step, world_size)
        with torch.no_grad():
            target = self._plain[0].features(batch.images, TAP)
        distil_sum = feature_distance(self.recorder.take(), target).sum()
        share = 0.0 if step < self.alone else 1.0  # a factor: with DDP every parameter needs a gradient
        loss = output.loss * share + distil_sum * (self.weight * world_size / batch.step_size)
        return StepOutput(loss, output.sums | {"distil_sum": distil_sum.detach()})


class Recorder(nn.Module):
    """A stage that changes nothing and keeps what passes until it is taken."""

    def __init__(self) -> None:
        super().__init__()
        self._passed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> the same tensor."""
        self._passed = x
        return x

    def take(self) -> Tensor:
        """What passed last; it is forgotten."""
        assert self._passed is not None
        passed, self._passed = self._passed, None
        return passed


def feature_distance(features: Tensor, target: Tensor) -> Tensor:
    """D of each image, see the head of this file.

    Args:
        features, target: (B, D, h, w) float.
    Returns:
        (B,) in float32 or wider, >= 0; 0 means equal.
    """
    wide = torch.promote_types(features.dtype, torch.float32)
    features, target = features.to(wide), target.to(wide)
    direction = 1 - F.cosine_similarity(features, target, dim=1).mean(dim=(1, 2))
    sizes = [torch.linalg.vector_norm(x.flatten(1), dim=1).clamp_min(_MIN_NORM) for x in (features, target)]
    return direction + SIZE_WEIGHT * (sizes[0] / sizes[1]).log().square()


def _with_recorder(network: Network, recorder: Recorder) -> Network:
    """The same network, its parameters shared, with the recorder behind :data:`TAP`."""
    depth = network.depth(TAP)
    stages = [*network.stages[:depth], recorder, *network.stages[depth:]]
    taps = {name: below if below <= depth else below + 1 for name, below in network.taps.items()}
    recorded = Network(
        network.net, encode=network.encoder, stages=stages, taps=taps, name=network.name,
        num_classes=network.num_classes, is_bcos=network.is_bcos, head=network.head, frozen_norms=network.frozen_norms,
    )  # fmt: skip
    return recorded.train(network.training)  # a new network is in training mode, and takes what it shares along


@linearise.register(Recorder)
def _(module: Recorder, x: Tensor) -> tuple[Tensor, Pullback]:
    return module(x), lambda g, rows: g  # noqa: ARG005
