"""The training objective of a run, and for B-cosification where its network starts."""

from __future__ import annotations

from functools import partial

from torch import nn

from raytrain_xai.bcosification import build_plain, start
from raytrain_xai.config import RunConfig
from raytrain_xai.data.dataset import DatasetInfo
from raytrain_xai.guidance.distillation import FeatureDistillation
from raytrain_xai.guidance.objective import GuidanceObjective
from raytrain_xai.models.network import Network


def build_objective(network: Network, config: RunConfig, info: DatasetInfo) -> nn.Module:
    """Classification and guidance; with a section ``bcosify`` also distillation from the plain network.

    With that section and without ``model.weights`` the network is given its start here: a function of the
    configuration and the data alone, the same on every worker.
    """
    objective = partial(_guided, config)
    bcosify = config.bcosify
    if bcosify is None:
        return objective(network)
    plain = build_plain(network, bcosify)
    if config.model.weights is None:
        start(network, plain, bcosify, config.data.path, config.data.image_size)
    alone = bcosify.distil_epochs * (info.splits["train"] // config.batch_size)
    return FeatureDistillation(network, plain, objective, weight=bcosify.distil_weight, alone=alone)


def _guided(config: RunConfig, network: Network) -> nn.Module:
    return GuidanceObjective(network, config.guidance, config.seed, config.loss, config.mixing, compile=config.compile)
