"""A run that is asked about images of a data set of its classes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from raytrain_xai.checkpoint import checkpoint_name, load_network
from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.evaluation import check_classes
from raytrain_xai.explain import Explainer


@dataclass(frozen=True)
class Asked:
    """What is asked.

    Attributes:
        explainer: the network of the run and the attribution it is measured with.
        name: of the run.
        checkpoint: name of the one that was loaded.
        batch_size: images that are asked about together.
    """

    explainer: Explainer
    name: str
    checkpoint: str
    batch_size: int


def ask(run: str, stored: StoredSplit, *, which: str, device: torch.device | str) -> Asked:
    """Load a run, for images with its classes.

    Raises:
        ConfigError: not a run folder.
        CheckpointError: no such checkpoint, or it is damaged.
        DataError: the images have other classes.
    """
    network, config, info, _ = load_network(run, which=which, device=torch.device(device))
    check_classes(run, info["classes"], stored.location.uri, stored.info.classes)
    explainer = Explainer.of_run(network, config, info, origin=run)
    return Asked(explainer, config.name, checkpoint_name(info["step"]), config.evaluation.batch_size)
