"""Traces of a few images as part of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL.Image import Image

from raytrain_xai.concept_runs.tracing import ConceptTracer
from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.data.loader import load_samples
from raytrain_xai.errors import DataError
from raytrain_xai.evaluation import check_classes
from raytrain_xai.explain import available_device
from raytrain_xai.report.overlay import to_picture
from raytrain_xai.report.selection import choose_images
from raytrain_xai.report.trace_page import ImageView, image_view

NUM_IMAGES = 2
NUM_CONCEPTS = 8
_SHOWN_PX = 448  # side of a square picture, which the network sees scaled down


@dataclass(frozen=True)
class TraceSection:
    """What ``trace_section.html.j2`` shows: images, whose traces they are, their split, whether classes compete."""

    images: tuple[ImageView, ...]
    origin: str
    split: str
    exclusive: bool


def build_trace_section(
    runs: Sequence[str], *, data: str | None = None, num_images: int = NUM_IMAGES, num_concepts: int = NUM_CONCEPTS
) -> TraceSection:
    """Trace images of the test split (validation where there is none) that are chosen without looking at a prediction.

    Args:
        runs: concept runs of one network.
        data: prepared data set; None: the one the concepts were trained on.
        num_images: see :func:`raytrain_xai.report.selection.choose_images`.
        num_concepts: shown one by one.
    Raises:
        ConfigError, CheckpointError: see :func:`~raytrain_xai.concept_runs.model.load_concepts`.
        DataError: the data set cannot be read, has other classes, or no labelled image.
    """
    tracer = ConceptTracer.load(runs, device=available_device())
    explainer, path = tracer.model.explainer, data or tracer.model.data
    split = "test" if StoredSplit(path, "val").info.splits.get("test") else "val"
    stored = StoredSplit(path, split)
    check_classes(runs[0], explainer.classes, path, stored.info.classes)
    rows = stored.annotations
    labels = [part.tolist() for part in np.split(rows.labels, rows.label_offsets[1:-1])]
    choices = choose_images(labels, rows.groups.tolist() if stored.info.groups else None, num_images)
    if not choices:
        raise DataError(f"split {split} of {path} has no labelled image to trace; give other data")
    names, pictures = _pictures(path, split, [choice.index for choice in choices])
    traces = tracer(pictures, top=num_concepts)
    views = tuple(
        image_view(name, explainer.visible(picture), trace)
        for name, picture, trace in zip(names, pictures, traces, strict=True)
    )
    return TraceSection(views, " and ".join(runs), split, explainer.exclusive)


def _pictures(data: str, split: str, rows: Sequence[int]) -> tuple[list[str], list[Image]]:
    batch, names = load_samples(data, split, rows, _SHOWN_PX)
    return names, [to_picture(image.permute(1, 2, 0)) for image in batch.images]
