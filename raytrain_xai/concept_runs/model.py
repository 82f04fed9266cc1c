"""A trained network with its trained concept layers: what traces, catalogues, scores and services start from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from raytrain_xai.checkpoint import load_network, read_checkpoint_of
from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.concept_runs.names import read_names
from raytrain_xai.concepts.layer import ConceptLayer
from raytrain_xai.concepts.sae import BatchTopKSae, JumpReluSae, ReluSae, SparseAutoencoder, TopKSae
from raytrain_xai.config import parse_concept_config
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.explain import Explainer
from raytrain_xai.models.network import Network
from raytrain_xai.run_folder import open_run, read_config

NETWORK = "network"  # folder in a concept run: the network it was trained for, as a run folder of its own


@dataclass(frozen=True)
class ConceptModel:
    """A network and concept layers that were trained for it.

    Attributes:
        explainer: of the network without concepts: class names, image size, preparation of pictures, device.
        layers: tap -> concept layer on the device, in forward order.
        names: tap -> concept -> name, of the concepts that have one.
        configs: tap -> configuration of the concept run.
        origins: tap -> address of the concept run.
        data: data set the concepts were trained on.
    """

    explainer: Explainer
    layers: Mapping[str, ConceptLayer]
    names: Mapping[str, Mapping[int, str]]
    configs: Mapping[str, ConceptRunConfig]
    origins: Mapping[str, str]
    data: str

    @property
    def network(self) -> Network:
        """The network without concepts, in evaluation mode."""
        return self.explainer.network

    def name(self, tap: str, concept: int) -> str:
        """Name of a concept, ``concept 12`` where it has none."""
        return self.names[tap].get(concept, f"concept {concept}")


def load_concepts(runs: Sequence[str], *, which: str = "selected", device: torch.device | str = "cpu") -> ConceptModel:
    """Load one concept run, or several of the same network at different taps.

    Args:
        runs: concept runs, local or s3://.
        which: ``selected``, ``last`` or the name of a checkpoint.
        device: where network and concepts are put.
    Raises:
        ConfigError: not a concept run, runs of different networks, or two at one tap.
        CheckpointError: no such checkpoint, it is damaged, or does not fit the network.
    """
    explainer: Explainer | None = None
    fingerprint, data = "", ""
    layers: dict[str, ConceptLayer] = {}
    names: dict[str, Mapping[int, str]] = {}
    configs: dict[str, ConceptRunConfig] = {}
    origins: dict[str, str] = {}
    for run in runs:
        at = open_run(run)
        config = parse_concept_config(read_config(at), source=at.child("config.yaml").uri)
        checkpoint = read_checkpoint_of(at, which)
        if explainer is None:
            network, own, info, _ = load_network(at.child(NETWORK).uri, device=device)
            explainer = Explainer.of_run(network, own, info, origin=at.child(NETWORK).uri)
            fingerprint, data = network_fingerprint(network), config.data or own.data.path
        if checkpoint.state["network"]["fingerprint"] != fingerprint:
            raise ConfigError(
                f"the concepts of {run} belong to another network than those of {runs[0]}; give concept runs of one "
                "network"
            )
        if config.layer in layers:
            raise ConfigError(f"{run} and {origins[config.layer]} are both concepts of {config.layer}; give one")
        layers[config.layer] = (
            ConceptLayer(restore_sae(config, checkpoint.model, run, gain=checkpoint.state["gain"])).to(device).eval()
        )
        names[config.layer], configs[config.layer], origins[config.layer] = read_names(at), config, run
    if explainer is None:
        raise ConfigError("no concept run given; name one or more")
    order = sorted(layers, key=explainer.network.depth)
    return ConceptModel(explainer, {tap: layers[tap] for tap in order}, names, configs, origins, data)


def build_sae(config: ConceptRunConfig, dim: int) -> SparseAutoencoder:
    """The autoencoder of a configuration for vectors of length ``dim``, with random weights."""
    sae = config.sae
    match sae.kind:
        case "topk":
            return TopKSae(dim, sae.latents, sae.k)
        case "batch_topk":
            return BatchTopKSae(dim, sae.latents, sae.k)
        case "relu":
            return ReluSae(dim, sae.latents)
        case "jumprelu":
            return JumpReluSae(
                dim, sae.latents, bandwidth=sae.bandwidth, initial_threshold=sae.initial_threshold
            )  # fmt: skip


def restore_sae(config: ConceptRunConfig, weights: Mapping[str, Tensor], run: str, *, gain: float) -> SparseAutoencoder:
    """The autoencoder of a checkpoint, for use.

    Args:
        config: of its run.
        weights: of the checkpoint.
        run: its address, for messages.
        gain: length of the rows of the dictionary, 1 in training; see ``sae.keep_length``.
    Raises:
        CheckpointError: the weights do not fit the configuration.
    """
    sae = build_sae(config, weights["encoder"].shape[1])
    try:
        sae.load_state_dict({**weights, "dictionary": weights["dictionary"] * gain})
    except RuntimeError as error:
        raise CheckpointError(f"the weights of {run} do not fit its configuration: {error}") from error
    return sae


def network_fingerprint(network: Network | nn.Module) -> str:
    """SHA-256 of the weights of a network, independent of device and memory format."""
    net = network.net if isinstance(network, Network) else network
    digest = hashlib.sha256()
    for name, value in sorted(net.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        flat = torch.empty(value.numel(), dtype=value.dtype)  # whatever the strides of the value
        digest.update(flat.copy_(value.detach().flatten()).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def concept_state(config: ConceptRunConfig, network: Network, dim: int, *, gain: float = 1.0) -> dict[str, Any]:
    """What a checkpoint of a concept run states beside its position: layer, width, gain, and whose features it sees."""
    return {
        "layer": config.layer,
        "dim": dim,
        "gain": gain,
        "network": {"name": network.name, "fingerprint": network_fingerprint(network)},
        "config": config.model_dump(mode="json"),
    }
