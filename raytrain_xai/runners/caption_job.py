"""A caption run from the driver's side: its corpus is made once and lies in the folder of the run."""

from __future__ import annotations

from functools import partial

import torch

from raytrain_xai.caption_config import CaptionRunConfig
from raytrain_xai.captioning.corpus import has_corpus, write_corpus
from raytrain_xai.captioning.gathering import gather_corpus
from raytrain_xai.captioning.scenes import category_names
from raytrain_xai.data.dataset import open_dataset
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.language.encoder import EMBEDDED, load_encoder
from raytrain_xai.run_folder import run_location
from raytrain_xai.runners.caption_loop import train_captions
from raytrain_xai.runners.job import Job, Launch
from raytrain_xai.runners.preflight import absolute
from raytrain_xai.runners.tracking import check_mlflow
from raytrain_xai.storage import Location


def plan_captions(config: CaptionRunConfig, stored: Location | None) -> Job:
    """Check a caption run, new or ``stored``, and say what to do for it.

    Raises:
        ConfigError: names the key to change.
        DataError: a data set cannot be used.
        CheckpointError: the encoder cannot be used.
    """
    config = absolute_paths(config)
    check_mlflow(config.tracking.mlflow)
    if config.workers == 0 and config.resources.gpus_per_worker > 0 and not torch.cuda.is_available():
        raise ConfigError("resources.gpus_per_worker is set but this machine has no CUDA device; set it to 0")
    if stored is not None and has_corpus(stored):
        return Job(config, train_captions)
    _check_data(config)
    load_encoder(config.encoder)  # fails now rather than in the folder of a run
    return Job(config, train_captions, partial(_prepare, config))


def _check_data(config: CaptionRunConfig) -> None:
    infos = [open_dataset(source.path) for source in config.data]
    for source, info in zip(config.data, infos, strict=True):
        category_names(info.classes, source.names)
        if not info.splits.get("train"):
            raise DataError(f"{source.path} has no samples in its train split (it has {info.splits})")
    if not any(info.splits.get("val") for info in infos):
        raise DataError("no data set has samples in its val split, by which a decoder is judged; prepare one with it")


def _prepare(config: CaptionRunConfig, launch: Launch) -> None:  # noqa: ARG001 - one process is enough
    device = "cuda" if torch.cuda.is_available() and config.resources.gpus_per_worker > 0 else "cpu"
    write_corpus(run_location(config), gather_corpus(config, load_encoder(config.encoder, device=device)))


def absolute_paths(config: CaptionRunConfig) -> CaptionRunConfig:
    """The same configuration with absolute local paths: Ray workers have a working directory of their own."""
    data = tuple(source.model_copy(update={"path": absolute(source.path)}) for source in config.data)
    is_named = config.encoder == EMBEDDED or ":" in config.encoder
    encoder = config.encoder if is_named else absolute(config.encoder)
    return config.model_copy(update={"storage": absolute(config.storage), "data": data, "encoder": encoder})
