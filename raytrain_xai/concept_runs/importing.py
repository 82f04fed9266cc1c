"""Published concept layers of FaCT as concept runs."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from raytrain_xai.checkpoint import Checkpoint, write_checkpoint
from raytrain_xai.concept_config import ConceptRunConfig, TopKSection
from raytrain_xai.concept_runs.model import NETWORK, build_sae, concept_state
from raytrain_xai.concept_runs.network import AdoptedNetwork, adopt_network, store_network
from raytrain_xai.concepts.fidelity import FidelitySums, fidelity_sums, summarise_fidelity
from raytrain_xai.concepts.layer import ConceptLayer
from raytrain_xai.concepts.sae import SparseAutoencoder
from raytrain_xai.data.loader import evaluation_batches
from raytrain_xai.errors import ConfigError
from raytrain_xai.models.convert import read_concept_layer
from raytrain_xai.models.network import Network
from raytrain_xai.run_folder import CHECKPOINTS, METRICS, create_run, write_json
from raytrain_xai.storage import locate, read_bytes

PROBED = 64  # validation images that show whether file, layer and network belong together


def import_concepts(source: str, config: ConceptRunConfig) -> tuple[str, dict[str, float]]:
    """Write the concept run ``config.storage``/``config.name`` around a published concept layer.

    The layer is u = TopK_k(ReLU(W F)), F' = V u on the raw features F: the factor they were divided by in training is
    not in the file, and not needed, as the code of αF is α times that of F.

    Args:
        source: file of :func:`~raytrain_xai.models.convert.read_concept_layer`.
        config: names network, layer and data; its ``sae`` is replaced by what the file holds.
    Returns:
        Address of the run, and what :func:`~raytrain_xai.concepts.fidelity.summarise_fidelity` says of the first
        validation images: a share of variance explained near or below 0 means that the file belongs to another layer
        or network.
    Raises:
        CheckpointError: the file is no concept layer.
        ConfigError: no such network or layer, its channels are not those of the file, or the name is taken.
        DataError: the data set cannot be read.
    """
    encoder, decoder, k = read_concept_layer(source)
    num_latents, dim = encoder.shape
    config = config.model_copy(update={"sae": TopKSection(latents=num_latents, k=k)})
    adopted = adopt_network(config)
    data, image_size = config.data or adopted.config.data.path, adopted.config.data.image_size
    channels = channels_of_taps(adopted.network, image_size)
    if channels[config.layer] != dim:
        fitting = ", ".join(tap for tap, width in channels.items() if width == dim and tap != "Input") or "none"
        raise ConfigError(
            f"{source} is for {dim} channels, {config.layer} of {adopted.network.name} has {channels[config.layer]}; "
            f"taps with {dim}: {fitting}"
        )
    sae = build_sae(config, dim)
    with torch.no_grad():
        sae.encoder.copy_(encoder)
        sae.dictionary.copy_(decoder.T)
    fidelity = _probe(adopted, sae, config.layer, data)
    at = create_run(config)
    store_network(at.child(NETWORK), adopted)
    digest = hashlib.sha256(read_bytes(locate(source))).hexdigest()
    state = {
        "step": 0, "epoch": 0, "step_in_epoch": 0, "history": [], "mlflow_id": None,
        "imported": {"file": source, "sha256": digest}, **concept_state(config, adopted.network, dim),
    }  # fmt: skip
    write_checkpoint(at.child(CHECKPOINTS), Checkpoint(0, sae.state_dict(), {}, state), lambda: None)
    write_json(at.child(METRICS), {"selected": {"step": 0, "epoch": 0}, "imported": state["imported"]})
    return at.uri, fidelity


@torch.no_grad()
def channels_of_taps(network: Network, image_size: int) -> dict[str, int]:
    """Tap -> number of channels of the map there."""
    x = network.encode(torch.zeros(1, 3, image_size, image_size, dtype=torch.uint8))
    widths = [x.shape[1]]
    stages: tuple[nn.Module, ...] = network.stages
    for stage in stages:
        x = stage(x)
        widths.append(x.shape[1])
    return {tap: widths[depth] for tap, depth in network.taps.items()}


def _probe(adopted: AdoptedNetwork, sae: SparseAutoencoder, tap: str, data: str) -> dict[str, float]:
    layer, prepared = ConceptLayer(sae).eval(), adopted.config.data
    sums = FidelitySums.empty(sae.dim, sae.num_latents, torch.device("cpu"))
    batches = evaluation_batches(
        data, "val", prepared.image_size, 16, shorter=prepared.eval_resize, max_images=PROBED
    )  # fmt: skip
    for batch in batches:
        sums = sums.merge(fidelity_sums(adopted.network, layer, tap, batch.images))
    return summarise_fidelity(sums)
