"""The training objective of a run, and for B-cosification where its network starts."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from raytrain_xai.config import BcosifyConfig, RunConfig
from raytrain_xai.data.dataset import DatasetInfo, StoredSplit
from raytrain_xai.data.loader import load_samples
from raytrain_xai.guidance.distillation import FeatureDistillation
from raytrain_xai.guidance.objective import GuidanceObjective
from raytrain_xai.models.bcosify import PREFIX
from raytrain_xai.models.bcosify_start import calibrate, start_from
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network


def build_objective(network: Network, config: RunConfig, info: DatasetInfo) -> nn.Module:
    """Classification and guidance; with a section ``bcosify`` also distillation from the plain network.

    With that section and without ``model.weights`` the network is given its start here: a function of the
    configuration and the data alone, the same on every worker.
    """
    objective = partial(_guided, config)
    if config.bcosify is None:
        return objective(network)
    plain = build_plain(network, config.bcosify)
    if config.model.weights is None:
        _start(network, plain, config, config.bcosify)
    steps_per_epoch = info.splits["train"] // config.batch_size
    return FeatureDistillation(
        network, plain, objective, weight=config.bcosify.distil_weight,
        alone=config.bcosify.distil_epochs * steps_per_epoch,
    )  # fmt: skip


def build_plain(network: Network, bcosify: BcosifyConfig) -> Network:
    """The plain counterpart of a B-cosified network with its weights, on the same device."""
    plain = build_network(network.name.removeprefix(PREFIX), network.num_classes, weights=bcosify.weights)
    return plain.to(next(network.net.parameters()).device).eval()


def _guided(config: RunConfig, network: Network) -> nn.Module:
    return GuidanceObjective(network, config.guidance, config.seed, config.loss, config.mixing)


def _start(network: Network, plain: Network, config: RunConfig, bcosify: BcosifyConfig) -> None:
    start_from(network, plain, bcosify.fold)
    number = bcosify.calibration_images
    if number:
        calibrate(network, plain, calibration_images(config.data.path, number, config.data.image_size))


def calibration_images(path: str, number: int, size: int) -> torch.Tensor:
    """(N, 3, size, size) uint8, ``number`` images spread evenly over the training split, or all it has."""
    total = len(StoredSplit(path, "train"))
    rows = torch.linspace(0, total - 1, min(number, total)).long().tolist()
    return load_samples(path, "train", rows, size)[0].images
