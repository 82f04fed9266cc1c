"""An alignment run from the driver's side: what can be known to fail fails now, in one line."""

from __future__ import annotations

import torch

from raytrain_xai.align_config import AlignRunConfig, AlignSource
from raytrain_xai.data.dataset import DatasetInfo, StoredSplit, open_dataset
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.language.backbone import load_backbone
from raytrain_xai.language.minilm import check_minilm
from raytrain_xai.language.prompts import find_family
from raytrain_xai.language.terms import SHIPPED, terms_of
from raytrain_xai.runners.align_loop import train_align
from raytrain_xai.runners.job import Job
from raytrain_xai.runners.preflight import absolute
from raytrain_xai.runners.tracking import check_mlflow


def plan_align(config: AlignRunConfig) -> Job:
    """Check an alignment run and say what to do for it.

    Raises:
        ConfigError: names the key to change, or the package to install.
        DataError: a data set cannot be used, or a table lacks a class.
    """
    config = absolute_paths(config)
    check_mlflow(config.tracking.mlflow)
    if config.workers == 0 and config.resources.gpus_per_worker > 0 and not torch.cuda.is_available():
        raise ConfigError("resources.gpus_per_worker is set but this machine has no CUDA device; set it to 0")
    check_minilm()
    load_backbone(config.backbone)
    find_family(config.templates)
    for source in config.sources:
        _check_source(source)
    _check_evaluated(config)
    return Job(config, train_align)


def absolute_paths(config: AlignRunConfig) -> AlignRunConfig:
    """The same configuration with absolute local paths: Ray workers have a working directory of their own."""
    sources = tuple(
        source.model_copy(update={"path": absolute(source.path), "terms": _absolute_table(source.terms)})
        for source in config.sources
    )
    evaluation = config.evaluation.model_copy(
        update={"path": absolute(config.evaluation.path), "terms": _absolute_table(config.evaluation.terms)}
    )
    features = None if config.features is None else absolute(config.features)
    changes = {"storage": absolute(config.storage), "features": features, "sources": sources, "evaluation": evaluation}
    return config.model_copy(update=changes)


def _check_source(source: AlignSource) -> None:
    info = open_dataset(source.path)
    if not info.splits.get("train"):
        raise DataError(f"{source.path} has no images in its train split (it has {info.splits})")
    if source.images > info.splits["train"]:
        raise ConfigError(
            f"sources: {source.images} images of a step are more than the {info.splits['train']} that {source.path} "
            "has for training; set fewer"
        )
    terms_of(info.classes, source.terms)


def _check_evaluated(config: AlignRunConfig) -> None:
    evaluation = config.evaluation
    info = open_dataset(evaluation.path)
    if not info.splits.get("val"):
        raise DataError(f"{evaluation.path} has no images in its val split (it has {info.splits})")
    if info.task != "multilabel":
        raise ConfigError(
            f"evaluation.path {evaluation.path} has one label an image; give a set whose images have several, for "
            "which mean average precision is meant"
        )
    terms_of(info.classes, evaluation.terms)
    _check_covered(info, config)


def _check_covered(info: DatasetInfo, config: AlignRunConfig) -> None:
    evaluation = config.evaluation
    for split in ("val", "test"):
        if info.splits.get(split):
            labels = StoredSplit(evaluation.path, split).annotations
            most = max((labels.labels == label).sum() for label in range(len(info.classes)))
            if most < evaluation.min_images:
                raise ConfigError(
                    f"evaluation.min_images is {evaluation.min_images}, but no class has more than {most} images in "
                    f"the {split} split of {evaluation.path}; set it lower"
                )


def _absolute_table(table: str | None) -> str | None:
    return table if table is None or table in SHIPPED else absolute(table)
