"""The network a concept run is for, kept inside its folder so that concepts and network never part.

``<run>/network`` is a run folder like any other: every command works on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from raytrain_xai.checkpoint import Checkpoint, load_network, write_checkpoint
from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.config import RunConfig, parse_config
from raytrain_xai.data.dataset import open_dataset
from raytrain_xai.errors import ConfigError
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import MODEL_NAMES, build_network
from raytrain_xai.run_folder import CHECKPOINTS, METRICS, write_config, write_json
from raytrain_xai.storage import Location, locate


@dataclass(frozen=True)
class AdoptedNetwork:
    """A trained network and how it looks at images.

    Attributes:
        network: in evaluation mode.
        config: of its run, or what such a run would have had.
        about: classes, task, groups, fingerprint of its data, and step and epoch of its checkpoint.
    """

    network: Network
    config: RunConfig
    about: dict[str, Any]


def adopt_network(config: ConceptRunConfig, *, device: torch.device | str = "cpu") -> AdoptedNetwork:
    """Load the network that ``config.network`` names.

    Raises:
        ConfigError: no such run or architecture, it is not B-cos, it has no such tap, or NAME=WEIGHTS without data.
        CheckpointError: its weights cannot be used.
        DataError: the data set cannot be read.
    """
    name, equals, weights = config.network.partition("=")
    if equals and name in MODEL_NAMES:
        adopted = _of_weights(config, name, weights, device)
    else:
        adopted = stored_network(locate(config.network), device=device)
        if config.image_size is not None:
            data = adopted.config.data.model_copy(
                update={"image_size": config.image_size, "eval_resize": config.eval_resize}
            )
            own = adopted.config.model_copy(update={"data": data})
            adopted = AdoptedNetwork(adopted.network, own, adopted.about)
    if not adopted.network.is_bcos:
        raise ConfigError(
            f"network={config.network} is no B-cos network, its logits are no sums of contributions; B-cosify it first"
        )
    check_layer(adopted.network, config.layer)
    return adopted


def check_layer(network: Network, layer: str) -> None:
    """Make sure that a tap has features.

    Raises:
        ConfigError: no such tap, or it is the input.
    """
    if network.depth(layer) == 0:
        raise ConfigError("layer=Input is the image itself; give a tap inside the network, such as Final")


def stored_network(at: Location, *, device: torch.device | str = "cpu") -> AdoptedNetwork:
    """The network of a run folder, such as ``network`` in that of a concept run; see :func:`adopt_network`."""
    network, own, about, _ = load_network(at.uri, device=device)
    return AdoptedNetwork(network, own, about)


def store_network(at: Location, adopted: AdoptedNetwork) -> None:
    """Write the network as a finished run folder at ``at``, its configuration last."""
    step, epoch = int(adopted.about["step"]), int(adopted.about["epoch"])
    data = {key: adopted.about[key] for key in ("classes", "task", "groups", "fingerprint")}
    state = {
        "step": step, "epoch": epoch, "step_in_epoch": 0, "history": [], "data": data, "mlflow_id": None,
        "config": adopted.config.model_dump(mode="json"),
    }  # fmt: skip
    content = Checkpoint(step, adopted.network.net.state_dict(), {}, state)
    write_checkpoint(at.child(CHECKPOINTS), content, lambda: None)
    write_json(at.child(METRICS), {"selected": {"step": step, "epoch": epoch}})
    write_config(at, adopted.config)


def _of_weights(config: ConceptRunConfig, name: str, weights: str, device: torch.device | str) -> AdoptedNetwork:
    if config.data is None:
        raise ConfigError(f"network={config.network} does not say which data it is for; set data to a prepared one")
    info = open_dataset(config.data)
    network = build_network(name, len(info.classes), weights=weights).to(device).eval()
    own = parse_config({
        "name": name, "epochs": 1, "model": {"name": name},
        "data": {"path": config.data, "image_size": config.image_size or 224, "eval_resize": config.eval_resize},
    })  # fmt: skip
    about = {
        "classes": list(info.classes), "task": info.task, "groups": info.groups, "fingerprint": info.fingerprint,
        "step": 0, "epoch": 0,
    }  # fmt: skip
    return AdoptedNetwork(network, own, about)
