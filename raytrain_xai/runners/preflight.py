"""Checks on the driver, before any worker starts: what can be known to fail fails now, in one line."""

from __future__ import annotations

import os

import torch
from torch import nn

from raytrain_xai.attribution.attribute import check_attribution
from raytrain_xai.bcosification import build_plain
from raytrain_xai.config import BcosifyConfig, DistillConfig, RunConfig
from raytrain_xai.data.annotation_order import annotation_budget
from raytrain_xai.data.dataset import DatasetInfo, StoredSplit
from raytrain_xai.data.run_data import open_run_data
from raytrain_xai.data.teacher_store import check_store
from raytrain_xai.distill.baselines import build_baseline
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.guidance.distillation import TAP
from raytrain_xai.models.network import Network
from raytrain_xai.models.stochastic_depth import set_stochastic_depth
from raytrain_xai.models.weights import is_named
from raytrain_xai.models.zoo import MODEL_NAMES, build_network
from raytrain_xai.runners.tracking import check_mlflow
from raytrain_xai.runners.tutor import build_tutor, check_same_teacher
from raytrain_xai.storage import locate

_RAY_COPY = "/runtime_resources/working_dir_files/"  # where Ray unpacks what came with a job


def resolve_paths(config: RunConfig) -> RunConfig:
    """The same configuration with absolute local paths: Ray workers have a working directory of their own."""
    weights = config.model.weights
    if weights is not None and not is_named(weights):
        weights = absolute(weights)
    bcosify = config.bcosify
    if bcosify is not None and not is_named(bcosify.weights):
        bcosify = bcosify.model_copy(update={"weights": absolute(bcosify.weights)})
    data = {"path": absolute(config.data.path), "measured": _absolute_or_none(config.data.measured)}
    guidance = {"annotation_order": _absolute_or_none(config.guidance.annotation_order)}
    return config.model_copy(
        update={
            "bcosify": bcosify,
            "distill": None if config.distill is None else _resolve_teacher(config.distill),
            "storage": absolute(config.storage),
            "data": config.data.model_copy(update=data),
            "guidance": config.guidance.model_copy(update=guidance),
            "model": config.model.model_copy(update={"weights": weights}),
        }
    )


def _resolve_teacher(distill: DistillConfig) -> DistillConfig:
    name, equals, weights = distill.teacher.partition("=")
    if equals and name in MODEL_NAMES:
        teacher = distill.teacher if is_named(weights) else f"{name}={absolute(weights)}"
    else:
        teacher = absolute(distill.teacher)
    return distill.model_copy(update={"teacher": teacher, "cache": _absolute_or_none(distill.cache)})


def check_run(config: RunConfig, *, is_new: bool, teacher: str | None = None) -> DatasetInfo:
    """Open the data, build the model once, and check that they and the resources fit together.

    Args:
        is_new: the weights the run starts from are loaded too; a resumed run has its own.
        teacher: fingerprint of the teacher that a resumed distillation has learned from so far.

    Raises:
        ConfigError: names the key to change.
        DataError: the data set cannot be used.
        CheckpointError: ``model.weights`` cannot be used, or ``distill.teacher`` is another one by now.
    """
    info = open_run_data(config.data, config.seed)
    _check_splits(config, info)
    check_mlflow(config.tracking.mlflow)
    if config.workers == 0 and config.resources.gpus_per_worker > 0 and not torch.cuda.is_available():
        raise ConfigError("resources.gpus_per_worker is set but this machine has no CUDA device; set it to 0")
    network = build_network(
        config.model.name,
        len(info.classes),
        weights=config.model.weights if is_new else None,
        norm_statistics=config.model.norm_statistics,
    )
    starts_at_random = is_new and config.model.weights is None and config.bcosify is None
    if starts_at_random and network.frozen_norms and network.norms():
        raise ConfigError(
            f"model.norm_statistics=frozen keeps the statistics that come with pretrained weights, but {network.name} "
            "starts from random ones; set model.norm_statistics=batch or give model.weights"
        )
    if config.bcosify is not None:
        check_bcosify(network, config.bcosify)
    check_teacher(network, config, info, teacher)
    if config.model.stochastic_depth > 0:
        set_stochastic_depth(network.net, config.model.stochastic_depth)
    method = config.guidance.attribution or network.default_attribution
    check_attribution(network, method, config.guidance.layer)
    if config.workers > 1 and config.model.norm_statistics == "batch":
        _refuse_local_statistics(network)
    return info


def check_bcosify(network: Network, bcosify: BcosifyConfig) -> None:
    """Check that a network can learn the features of its plain counterpart, and that this one's weights can be read.

    Raises:
        ConfigError, CheckpointError: names the key to change.
    """
    if TAP not in network.taps:
        raise ConfigError(
            f"{network.name} has no map behind its blocks whose features could be distilled; write its start with "
            "`raytrain-xai models bcosify`, give it as model.weights and leave the section bcosify out"
        )
    build_plain(network, bcosify)


def check_teacher(network: Network, config: RunConfig, info: DatasetInfo, before: str | None) -> None:
    """Check that a network can learn from the teacher of a run, live or stored; nothing without one.

    Args:
        before: fingerprint of the teacher so far, None at the start.
    Raises:
        ConfigError, CheckpointError: no such teacher, another one than before, other classes, nothing that could be
            compared.
        DataError: the stored answers are missing, or are not those of this teacher about this data.
    """
    distill, tutor = config.distill, build_tutor(network, config, info, torch.device("cpu"))
    if distill is None or tutor is None:
        return
    if before is not None:
        check_same_teacher(before, tutor)
    if distill.cache is not None:
        kind = tutor.measures.kind if distill.explanation_weight > 0 else None
        check_store(locate(distill.cache), config, info, tutor.fingerprint, kind=kind)
    if distill.baseline is not None:
        size = config.data.train_size or config.data.image_size
        build_baseline(config, network, tutor.network, torch.arange(2), size)  # a memory of two: rows decide only size


def _check_splits(config: RunConfig, info: DatasetInfo) -> None:
    for split, path in (("train", config.data.path), ("val", config.data.evaluated)):
        if not info.splits.get(split):
            raise DataError(f"{path} has no samples in its {split} split (it has {info.splits}); prepare it with one")
    path = config.data.path
    if config.batch_size > info.splits["train"]:
        raise ConfigError(
            f"batch_size {config.batch_size} is more than the {info.splits['train']} training samples of {path}; "
            "set a smaller batch_size"
        )
    if config.loss.name == "cross_entropy" and info.task != "multiclass":
        raise ConfigError(
            f"loss.name is cross_entropy, whose classes compete, but images of {config.data.evaluated} have several "
            "labels; set loss.name=bce"
        )
    _check_annotations(config, info)


def _check_annotations(config: RunConfig, info: DatasetInfo) -> None:
    guidance, path = config.guidance, config.data.path
    if guidance.weight == 0 and guidance.annotation_order is None:
        return  # reading the annotations of a large data set takes a while
    stored = StoredSplit(path, "train")
    annotation_budget(stored, guidance, config.seed)
    if guidance.weight > 0 and guidance.annotation == "masks" and not info.has_masks:
        raise ConfigError(f"guidance.annotation is masks but {path} has none; set guidance.annotation=boxes")
    if guidance.weight > 0 and not stored.annotations.has_box.any():
        raise ConfigError(
            f"guidance.weight is {guidance.weight} but no training sample of {path} has a box; set it to 0"
        )


def _refuse_local_statistics(network: Network) -> None:
    """torch's BatchNorm would normalise by the share of each worker, another model than the one on the joint batch.

    Its synchronised version has no second derivative, which guidance needs, and no CPU implementation.
    """
    if any(isinstance(module, nn.BatchNorm2d) for module in network.net.modules()):
        raise ConfigError(
            f"model.norm_statistics=batch with several workers is not possible for {network.name}, whose BatchNorm "
            "would see only a worker's share of the batch; set model.norm_statistics to local if that is meant, or to "
            "frozen, or workers=1"
        )


def _absolute_or_none(path: str | None) -> str | None:
    return None if path is None else absolute(path)


def absolute(path: str) -> str:
    """A local path made absolute; other addresses as they are.

    Raises:
        ConfigError: in a Ray job, a relative path to something that was not uploaded with it: data that stayed behind,
            or a place for results that Ray would delete.
    """
    if "://" in path:
        return path
    place = os.path.abspath(locate(path).path)
    is_relative = not os.path.isabs(os.path.expanduser(path))
    if is_relative and _RAY_COPY in place and not os.path.exists(place):
        raise ConfigError(
            f"{path} is relative: in this Ray job it would lie in Ray's copy of the working directory, which "
            "is deleted after the job; give a path that every node sees, from the root on, or s3://"
        )
    return place
