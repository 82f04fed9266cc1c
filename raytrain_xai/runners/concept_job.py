"""A concept run from the driver's side: what can be known to fail fails now, in one line; then its folder is filled.

The network goes into the folder of the run first, so that nothing outside of it is needed to go on or to use it, and
exported features that the configuration names are completed before training starts.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from raytrain_xai.concept_config import BatchTopKSection, ConceptRunConfig, TopKSection
from raytrain_xai.concept_runs.model import NETWORK
from raytrain_xai.concept_runs.network import AdoptedNetwork, adopt_network, store_network, stored_network
from raytrain_xai.data.dataset import open_dataset
from raytrain_xai.data.feature_store import FeaturePlan, check_place, is_finished
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.evaluation import check_classes
from raytrain_xai.features.plan import plan_features
from raytrain_xai.features.reservoir import check_workers
from raytrain_xai.insight_config import InsightRunConfig
from raytrain_xai.models.weights import is_named
from raytrain_xai.models.zoo import MODEL_NAMES
from raytrain_xai.run_folder import CONFIG, METRICS, read_json, run_location
from raytrain_xai.runners.concept_loop import train_concepts
from raytrain_xai.runners.concept_session import evaluated_data
from raytrain_xai.runners.export_features import export_features
from raytrain_xai.runners.job import Job, Launch
from raytrain_xai.runners.preflight import absolute
from raytrain_xai.runners.tracking import check_mlflow
from raytrain_xai.storage import Location, exists, locate

_TENSORS = 6  # of a checkpoint: two matrices of K x D, each with two moments
_BYTES = 4


def plan_concepts(config: ConceptRunConfig, stored: Location | None) -> Job:
    """Check a concept run, new or ``stored``, and say what to do for it.

    Raises:
        ConfigError: names the key to change.
        DataError: the data set or the feature store cannot be used.
        CheckpointError: the network cannot be used.
    """
    if stored is not None and exists(stored.child(METRICS)) and "imported" in read_json(stored.child(METRICS)):
        raise ConfigError(f"{stored.uri} was imported, not trained here: there is no training to go on with")
    config = absolute_paths(config)
    own = stored.child(NETWORK) if stored is not None and exists(stored.child(NETWORK, CONFIG)) else None
    adopted = adopt_network(config) if own is None else stored_network(own)
    config = config.model_copy(update={"data": absolute(evaluated_data(config, adopted))})
    check_concept_run(config, adopted)
    prepare = partial(_prepare, config, adopted if own is None else None)
    return Job(config, train_concepts, prepare)


def check_concept_run(config: ConceptRunConfig, adopted: AdoptedNetwork) -> None:
    """Check that network, data, features, dictionary and resources of a run fit together.

    Raises:
        ConfigError, DataError: names what to change.
    """
    check_mlflow(config.tracking.mlflow)
    if config.workers == 0 and config.resources.gpus_per_worker > 0 and not torch.cuda.is_available():
        raise ConfigError("resources.gpus_per_worker is set but this machine has no CUDA device; set it to 0")
    path = evaluated_data(config, adopted)
    info = open_dataset(path)
    check_classes(config.network, adopted.about["classes"], path, info.classes)
    for split in (config.features.split, "val"):
        if not info.splits.get(split):
            raise DataError(f"{path} has no samples in its {split} split (it has {info.splits}); prepare it with one")
    plan = plan_features(config, adopted, config.layer)
    _check_dictionary(config, plan)
    if config.features.store is not None:
        check_place(locate(config.features.store).child(config.layer), plan)
    else:
        check_workers(config, plan.num_images)
    check_disk(config, plan)


def _check_dictionary(config: ConceptRunConfig, plan: FeaturePlan) -> None:
    sae = config.sae
    if isinstance(sae, TopKSection | BatchTopKSection) and sae.k >= plan.dim:
        raise ConfigError(
            f"sae.k={sae.k} active latents are no sparse code of the {plan.dim} channels that {plan.network_name} has "
            f"at {plan.tap}; set sae.k well below that"
        )
    check_batch(config, plan)


def check_batch(config: ConceptRunConfig | InsightRunConfig, plan: FeaturePlan) -> None:
    """Refuse a run whose epochs have no step.

    Raises:
        ConfigError: an epoch has less than one batch.
    """
    if plan.num_vectors < config.batch_size:
        raise ConfigError(
            f"batch_size {config.batch_size} is more than the {plan.num_vectors} vectors of an epoch "
            f"({plan.num_images} images, {plan.per_image} positions each); set a smaller batch_size, or "
            "features.per_image"
        )


def check_disk(config: ConceptRunConfig | InsightRunConfig, plan: FeaturePlan) -> None:
    """Checkpoints of a run on this machine's disk, the best one and one that is being written besides those kept.

    Raises:
        ConfigError: they will not fit.
    """
    at = run_location(config)
    if not at.is_local:
        return
    existing = next(folder for folder in (Path(at.path), *Path(at.path).parents) if folder.exists())
    each = _TENSORS * config.sae.latents * plan.dim * _BYTES
    needed, free = (config.checkpoint.keep + 2) * each, shutil.disk_usage(existing).free
    if needed > free:
        raise ConfigError(
            f"checkpoints of {config.sae.latents} x {plan.dim} latents take {needed / 1e9:.1f} GB, {existing} has "
            f"{free / 1e9:.1f} GB left; set storage, or a smaller sae.latents"
        )


def _prepare(config: ConceptRunConfig, adopted: AdoptedNetwork | None, launch: Launch) -> None:
    """Fill the folder of the run with what training reads; ``adopted`` is None where its network is there."""
    if adopted is not None:
        store_network(run_location(config).child(NETWORK), adopted)
    store = config.features.store
    if store is None or is_finished(locate(store).child(config.layer)):
        return
    own = config.model_copy(update={"network": run_location(config).child(NETWORK).uri})  # the other may be gone by now
    export_features(own, [config.layer], launch)


def absolute_paths(config: ConceptRunConfig) -> ConceptRunConfig:
    """The same configuration with absolute local paths: Ray workers have a working directory of their own."""
    name, equals, weights = config.network.partition("=")
    features = config.features
    if features.store is not None:
        features = features.model_copy(update={"store": absolute(features.store)})
    if equals and name in MODEL_NAMES:
        network = config.network if is_named(weights) else f"{name}={absolute(weights)}"
    else:
        network = absolute(config.network)
    changes: Mapping[str, object] = {"storage": absolute(config.storage), "network": network, "features": features}
    return config.model_copy(update=dict(changes))
