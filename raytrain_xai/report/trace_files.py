"""Concept traces of image files as JSON and one page in a folder: what ``raytrain-xai trace`` writes."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from raytrain_xai.concept_runs.traces import ClassTrace, Origins, PixelTrace, Rest, Share, Trace
from raytrain_xai.concept_runs.tracing import ConceptTracer
from raytrain_xai.errors import ConfigError
from raytrain_xai.report.explanation_files import check_output, read_picture
from raytrain_xai.report.trace_page import ImageView, image_view, render_traces

FORMAT_VERSION = 1
INDEX, PAGE = "trace.json", "trace.html"
_BATCH = 8  # images traced together, fewer when much is shown of each
_SHOWN_AT_ONCE = 256  # concepts of the images that are traced together: each has two maps and pictures in memory
_EXACT = (
    "contributions and the bias sum to the logit, and the concepts of a layer to the activations of the next one, each "
    "up to its residual. The sum of a pixel map misses a traced value by its pixels_missing: rounding in convolutional "
    "networks; in transformers the share of the position code and class token, which belong to no pixel"
)
_PERCENT = "of the sum of all positive contributions to the same logit or activation"


def write_traces(
    tracer: ConceptTracer, files: Sequence[Path], out: Path, *, names: Sequence[str], classes: int, top: int
) -> dict[str, Any]:
    """Trace pictures and write ``trace.json`` and ``trace.html``; nothing is written before all are traced.

    Args:
        tracer: network and concept layers.
        files: pictures that :func:`~raytrain_xai.report.explanation_files.collect_images` returned.
        out: folder, made when absent; files of the two names are replaced.
        names: classes explained for every image.
        classes: besides, that many of the strongest classes of each image.
        top: concepts shown one by one, >= 1.
    Returns:
        The content of ``trace.json``.
    Raises:
        ConfigError: ``out`` is a file or a folder the pictures are read from, or a class is unknown.
        DataError: a picture cannot be read.
        CheckpointError: the network answers with non-finite logits.
    """
    check_output(out, files)
    if top < 1:
        raise ConfigError(f"the number of concepts shown must be at least 1, got {top}")
    records: list[dict[str, Any]] = []
    step = max(1, min(_BATCH, _SHOWN_AT_ONCE // (top * max(1, len(names) + classes))))

    def views() -> Iterator[ImageView]:
        """One image after the other, so that the pictures of a long page are never in memory together."""
        for start in range(0, len(files), step):
            chunk = files[start : start + step]
            pictures = [read_picture(file) for file in chunk]
            traces = tracer(pictures, names=names, classes=classes, top=top)
            for file, picture, trace in zip(chunk, pictures, traces, strict=True):
                records.append(_image_record(file, picture.size, tracer.model.explainer.classes, trace))
                yield image_view(file.name, tracer.model.explainer.visible(picture), trace)

    with tempfile.TemporaryFile("w+", encoding="utf-8") as page:
        for text in render_traces(tracer.model, [file.name for file in files], views()):
            page.write(text)
        index = _index(tracer, records)
        out.mkdir(parents=True, exist_ok=True)
        (out / INDEX).write_text(json.dumps(index, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        page.seek(0)
        with (out / PAGE).open("w", encoding="utf-8") as written:
            shutil.copyfileobj(page, written)
    return index


def _index(tracer: ConceptTracer, images: list[dict[str, Any]]) -> dict[str, Any]:
    model = tracer.model
    return {
        "format_version": FORMAT_VERSION,
        "model": model.network.name,
        "weights": model.explainer.origin,
        "concept_runs": dict(model.origins),
        "layers": list(model.layers),
        "image_size": model.explainer.image_size,
        "classes": list(model.explainer.classes),
        "percent": _PERCENT,
        "exact": _EXACT,
        "images": images,
    }


def _image_record(file: Path, size: tuple[int, int], classes: Sequence[str], trace: Trace) -> dict[str, Any]:
    return {
        "file": str(file),
        "width": size[0],
        "height": size[1],
        "logits": dict(zip(classes, trace.logits.tolist(), strict=True)),
        "probabilities": dict(zip(classes, trace.probabilities.tolist(), strict=True)),
        "active_concepts": dict(trace.active),
        "classes": [_class_record(explained) for explained in trace.classes],
    }


def _class_record(explained: ClassTrace) -> dict[str, Any]:
    concepts = [
        _share_record(share) | {"weighted_pixels_missing": weighted.missing}
        for share, weighted in zip(explained.concepts, explained.weighted, strict=True)
    ]
    return {
        "class": explained.name,
        "logit": explained.logit,
        "probability": explained.probability,
        "logit_without_concepts": explained.logit_without_concepts,
        "bias": explained.bias,
        "residual": explained.residual,
        "positive_contribution": explained.positive,
        "concepts_for_80_percent": explained.concepts_for_80_percent,
        "concepts": concepts,
        "rest": _rest_record(explained.rest) | _pixels_record(explained.rest_pixels),
        **_pixels_record(explained.pixels),
    }


def _share_record(share: Share) -> dict[str, Any]:
    concept = share.concept
    return {
        "id": concept.id,
        "name": concept.name,
        "layer": concept.layer,
        "contribution": share.contribution,
        "percent": share.percent,
        "activation": concept.activation,
        **_pixels_record(concept.pixels),
        "made_of": None if concept.origins is None else _origins_record(concept.origins),
    }


def _origins_record(origins: Origins) -> dict[str, Any]:
    return {
        "layer": origins.layer,
        "residual": origins.residual,
        "concepts": [_share_record(share) for share in origins.concepts],
        "rest": _rest_record(origins.rest),
    }


def _rest_record(rest: Rest) -> dict[str, Any]:
    return {
        "count": rest.count,
        "contribution": rest.contribution,
        "percent": rest.percent,
        "positive": rest.positive,
        "negative": rest.negative,
    }


def _pixels_record(pixels: PixelTrace) -> dict[str, float]:
    return {"pixels_missing": pixels.missing}
