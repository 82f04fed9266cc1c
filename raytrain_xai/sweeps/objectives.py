"""Which metrics a run measures on its validation split, as far as its configuration and its data tell."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.config import AnyRunConfig, RunConfig, parse_config
from raytrain_xai.data.dataset import StoredSplit, open_dataset
from raytrain_xai.errors import ConfigError
from raytrain_xai.insight_config import InsightRunConfig
from raytrain_xai.run_folder import open_run, read_config
from raytrain_xai.sweep_config import FifoScheduler, SweepConfig

CLASSIFICATION = ("f1", "precision", "recall", "accuracy", "map", "top5", "worst_group")
LOCALISATION = ("epg", "iou", "on_object", "empty_maps")
AGREEMENT = ("agreement", "decision_agreement", "similarity", "empty_explanations", "divergence")
CONCEPTS = ("variance_explained", "l0", "image_l0", "carriers", "dead", "always_on", "residual")
RECONSTRUCTION = ("variance_explained", "cosine", "l0", "image_l0", "dead", "always_on")
"""Of concepts of an encoder."""
_GROUP = "group_"  # of a sub-population by name
_TOP = 5


def metrics_in_use(config: SweepConfig) -> tuple[str, ...]:
    """Metrics that a sweep compares trials by: its objectives and that of its scheduler."""
    scheduler = config.scheduler
    own = () if isinstance(scheduler, FifoScheduler) else (scheduler.metric,)
    return tuple(dict.fromkeys([*config.objectives, *own]))


def refusal(metric: str, run: AnyRunConfig) -> str | None:
    """Why a run cannot report a metric, by its configuration alone; None when it can."""
    if isinstance(run, InsightRunConfig):
        choice = ", ".join(RECONSTRUCTION)
        return None if metric in RECONSTRUCTION else f"metric {metric} is not of concepts of an encoder: {choice}"
    if not isinstance(run, RunConfig | ConceptRunConfig):
        return f"job: {run.job} is not swept; a sweep trains classifiers and concepts"
    own = CONCEPTS if isinstance(run, ConceptRunConfig) else AGREEMENT
    known = (*CLASSIFICATION, *LOCALISATION, *own)
    if metric in CONCEPTS and metric not in known:
        return f"metric {metric} is of concept runs (job: concepts)"
    if metric in AGREEMENT and (metric not in known or (run.job == "classify" and run.distill is None)):
        return f"metric {metric} compares with a teacher; set distill.teacher"
    if metric not in known and not metric.startswith(_GROUP):
        near = difflib.get_close_matches(metric, known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"metric {metric} is not measured; {hint}there are {', '.join(known)} and group_<name>"
    if metric in ("f1", "precision", "recall") and run.job == "classify" and not run.fixes_logits:
        return (
            f"metric {metric} is decided at logit 0, but this training fixes only differences of logits "
            f"(loss.name={run.loss.name}{'' if run.distill is None else f', distill.form={run.distill.form}'}); "
            "take accuracy"
        )
    return None


def check_on_data(config: SweepConfig, runs: Sequence[AnyRunConfig]) -> None:
    """Refuse metrics that the validation data of some run cannot give; opens every data set once.

    Args:
        config: of the sweep.
        runs: its trials.
    Raises:
        ConfigError: lists every metric and data set that do not fit.
        DataError, CheckpointError: a data set, or the run of a network, cannot be read.
    """
    problems: list[str] = []
    labelled = (run for run in runs if isinstance(run, RunConfig | ConceptRunConfig))
    for path in dict.fromkeys(_measured_on(run) for run in labelled):
        given = data_metrics(path)
        known = (*CLASSIFICATION, *LOCALISATION, "decision_agreement")
        for metric in metrics_in_use(config):
            if metric not in given and (metric in known or metric.startswith(_GROUP)):
                problems.append(f"metric {metric} is not measured on {path}: {_lacks(metric)}")
    if problems:
        raise ConfigError("; ".join([*problems, "choose others as objectives, and for the scheduler"]))


def data_metrics(path: str) -> set[str]:
    """Metrics of classification and localisation that the validation split of a stored data set gives.

    Raises:
        DataError: no such data set, or no validation split.
    """
    info, split = open_dataset(path), StoredSplit(path, "val")
    given = {"f1", "precision", "recall", "accuracy", "map"}
    if info.task == "multilabel":
        given |= {"decision_agreement"}
    elif len(info.classes) > _TOP:
        given |= {"top5"}
    if split.annotations.has_box.any():
        given |= {"epg", "iou", "empty_maps"} | ({"on_object"} if info.has_masks else set())
    groups = [(info.groups or ())[group] for group in sorted(set(split.annotations.groups.tolist())) if group >= 0]
    if groups and info.task == "multiclass":
        given |= {"worst_group", *(f"{_GROUP}{name}" for name in groups)}
    return given


def _lacks(metric: str) -> str:
    if metric in LOCALISATION:
        return "no validation image has a " + ("class mask" if metric == "on_object" else "box")
    if metric == "decision_agreement":
        return "its images have one label each"
    if metric == "top5":
        return f"it has no more than {_TOP} classes, or several labels in an image"
    return "there is no such group of its images, or they have several labels"


def _measured_on(run: RunConfig | ConceptRunConfig) -> str:
    if not isinstance(run, ConceptRunConfig):
        return run.data.evaluated
    if run.data is not None:
        return run.data
    at = open_run(run.network)
    return parse_config(read_config(at), source=at.uri).data.evaluated
