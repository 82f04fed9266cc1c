"""A concept run of an encoder from the driver's side: what can be known to fail fails now, in one line.

The encoder is not copied into the run, as it may be one of gigabytes that comes by name; its fingerprint is, and
whoever opens the run compares it.
"""

from __future__ import annotations

from functools import partial

import torch

from raytrain_xai.checkpoint import complete_steps, read_checkpoint_of
from raytrain_xai.data.feature_store import FeaturePlan, check_place, is_finished
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.features.patches import PATCHES, opened_data, plan_patches
from raytrain_xai.features.reservoir import check_workers
from raytrain_xai.insight.model import build_matryoshka, check_encoder
from raytrain_xai.insight_config import InsightRunConfig
from raytrain_xai.language.encoder import CLIP, DINOCLIP, EMBEDDED, SIGLIP, LanguageEncoder, load_encoder
from raytrain_xai.run_folder import CHECKPOINTS, METRICS, read_json
from raytrain_xai.runners.concept_job import check_batch, check_disk
from raytrain_xai.runners.export_features import export_features
from raytrain_xai.runners.insight_loop import train_insight
from raytrain_xai.runners.job import Job, Launch
from raytrain_xai.runners.preflight import absolute
from raytrain_xai.runners.tracking import check_mlflow
from raytrain_xai.storage import Location, exists, locate


def plan_insight(config: InsightRunConfig, stored: Location | None) -> Job:
    """Check a concept run of an encoder, new or ``stored``, and say what to do for it.

    Raises:
        ConfigError: names the key to change.
        DataError: a data set or the feature store cannot be used.
        CheckpointError: the encoder cannot be used, or is not the one that a stored run was trained on.
    """
    if stored is not None and exists(stored.child(METRICS)) and "imported" in read_json(stored.child(METRICS)):
        raise ConfigError(f"{stored.uri} was imported, not trained here: there is no training to go on with")
    config = absolute_insight(config)
    encoder = load_encoder(config.encoder)
    if stored is not None and complete_steps(stored.child(CHECKPOINTS)):
        check_encoder(read_checkpoint_of(stored, "last").state["encoder"], encoder, stored.uri)
    check_insight_run(config, encoder)
    return Job(config, partial(train_insight, encoder.fingerprint), partial(_prepare, config))


def check_insight_run(config: InsightRunConfig, encoder: LanguageEncoder) -> None:
    """Check that encoder, data, features, dictionary and resources of a run fit together.

    Raises:
        ConfigError, DataError: names what to change.
    """
    check_mlflow(config.tracking.mlflow)
    if config.workers == 0 and config.resources.gpus_per_worker > 0 and not torch.cuda.is_available():
        raise ConfigError("resources.gpus_per_worker is set but this machine has no CUDA device; set it to 0")
    plan = plan_patches(config, encoder)
    if not any(info.splits.get("val") for info in opened_data(config).values()):
        raise DataError(f"none of {', '.join(config.data)} has a val split to measure on; prepare one with it")
    _check_dictionary(config, plan)
    if config.features.store is not None:
        check_place(locate(config.features.store).child(PATCHES), plan)
    else:
        check_workers(config, plan.num_images)
    check_disk(config, plan)


def _check_dictionary(config: InsightRunConfig, plan: FeaturePlan) -> None:
    if config.sae.k >= plan.dim:
        raise ConfigError(
            f"sae.k={config.sae.k} active latents are no sparse code of the {plan.dim} values of a patch of "
            f"{plan.network_name}; set sae.k well below that"
        )
    build_matryoshka(config, 1)  # refuses groups that would be empty
    check_batch(config, plan)


def _prepare(config: InsightRunConfig, launch: Launch) -> None:
    """Complete the exported patches that the configuration names."""
    store = config.features.store
    if store is not None and not is_finished(locate(store).child(PATCHES)):
        export_features(config, [PATCHES], launch)


def absolute_insight(config: InsightRunConfig) -> InsightRunConfig:
    """The same configuration with absolute local paths: Ray workers have a working directory of their own."""
    features = config.features
    if features.store is not None:
        features = features.model_copy(update={"store": absolute(features.store)})
    changes = {
        "storage": absolute(config.storage), "features": features, "encoder": absolute_encoder(config.encoder),
        "data": tuple(absolute(path) for path in config.data),
    }  # fmt: skip
    return config.model_copy(update=changes)


def absolute_encoder(encoder: str) -> str:
    """The name of an encoder with absolute local paths; see :mod:`raytrain_xai.language.encoder`."""
    if encoder == EMBEDDED:
        return encoder
    prefix = next((prefix for prefix in (CLIP, DINOCLIP, SIGLIP) if encoder.startswith(prefix)), None)
    if prefix is None:
        return absolute(encoder)
    architecture, equals, files = encoder.removeprefix(prefix).partition("=")
    weights, at, dinoiser = files.partition("@")
    local = absolute(weights) if weights and exists(locate(weights)) else weights  # or a tag of the library
    return f"{prefix}{architecture}{equals}{local}{at}{absolute(dinoiser) if dinoiser else ''}"
