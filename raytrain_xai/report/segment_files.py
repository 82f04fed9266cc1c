"""Segmented pictures as label images, JSON and one page in a folder: what ``raytrain-xai insight segment`` writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raytrain_xai.errors import ConfigError
from raytrain_xai.insight.model import InsightModel
from raytrain_xai.insight.segment import Background, Segmentation, segment
from raytrain_xai.insight.windows import Sliding
from raytrain_xai.report.answer_page import Answer, Entry, parts_of, parts_record, render_answers
from raytrain_xai.report.curves import COLOURS
from raytrain_xai.report.explanation_files import check_output, distinct_names, read_picture

FORMAT_VERSION = 1
INDEX, PAGE = "segments.json", "segments.html"
_LONGEST_PX = 512  # side of a picture that is segmented at once; it is shown at this size
_COLOUR_SHARE = 0.55  # of a label in the overlay
_LEAST_SHARE = 0.01  # of the pixels; smaller segments are in the JSON alone
_READING = (
    "Every pixel has the colour of the text that its patch is most like; grey is background. The score of a segment is "
    "the mean cosine of its pixels with its text. The bars are what concepts add to it (red) or take away (blue), and "
    "sum to it exactly."
)


def write_segments(
    model: InsightModel, files: Sequence[Path], out: Path, *, labels: Sequence[str], vectors: Tensor,
    background: Background | None, sliding: Sliding | None, top: int,
) -> dict[str, Any]:  # fmt: skip
    """Segment pictures and write ``segments.json``, ``segments.html`` and a label image (0 background) for each.

    Args:
        model: encoder and concepts.
        files: pictures that :func:`~raytrain_xai.report.explanation_files.collect_images` returned.
        out: folder, made when absent.
        labels: texts, C of them, at most 255.
        vectors: (C, D) of the labels.
        background, sliding: see :class:`~raytrain_xai.insight.segment.SegmentPlan`; with windows the shorter side of a
            picture is brought to that of a window.
        top: concepts of a segment that are shown one by one.
    Returns:
        The content of ``segments.json``.
    Raises:
        ConfigError: ``out`` is a file or holds the pictures, or there are too many labels for a label image.
        DataError: a picture cannot be read.
    """
    check_output(out, files)
    if len(labels) > 255:
        raise ConfigError(f"a label image has room for 255 labels, got {len(labels)}")
    out.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []
    stems = distinct_names([file.stem for file in files])

    def entries() -> Iterator[Entry]:
        for file, stem in zip(files, stems, strict=True):
            picture = _sized(read_picture(file), sliding)
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
            found = segment(model, pixels, vectors, background=background, sliding=sliding)
            label_image = Image.fromarray(found.labels[0].to(torch.uint8).cpu().numpy())
            label_image.putpalette([value for colour in _palette(len(labels)) for value in colour])
            label_image.save(out / f"{stem}.labels.png")
            segments = _segments(model, labels, found, top)
            records.append({"file": str(file), "labels": f"{stem}.labels.png", "segments": segments[0]})
            overlay = _overlay(picture, found.labels[0].cpu(), len(labels))
            yield Entry(file.name, ((picture, "the picture"), (overlay, "its segments")), segments[1])

    page = render_answers("Segments by text", model.origin, _READING, entries())
    index = {"format_version": FORMAT_VERSION, "run": model.origin, "texts": list(labels), "images": records}
    (out / PAGE).write_text(page, encoding="utf-8")
    (out / INDEX).write_text(json.dumps(index, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return index


def _segments(
    model: InsightModel, labels: Sequence[str], found: Segmentation, top: int
) -> tuple[list[dict[str, Any]], tuple[Answer, ...]]:
    """The segments of one image, largest first, for JSON and for the page."""
    segments = found.segments
    assert segments is not None  # of a model with concepts
    records: list[dict[str, Any]] = []
    answers: list[Answer] = []
    colours = _palette(len(labels))
    for row in segments.pixels.argsort(descending=True).tolist():
        label, score = int(segments.label[row]), float(segments.score[row])
        share = int(segments.pixels[row]) / found.labels[0].numel()
        bias = float(segments.contributions.bias[row])
        parts = parts_of(segments.contributions.concept[row], bias, model.name, top)
        records.append({"text": labels[label], "share": share, "score": score, "parts": parts_record(parts)})
        if share >= _LEAST_SHARE:
            colour = "#{:02x}{:02x}{:02x}".format(*colours[label + 1])
            answers.append(Answer(labels[label], f"{100 * share:.0f} %, score {score:.3f}", parts, colour))
    return records, tuple(answers)


def _sized(picture: Image.Image, sliding: Sliding | None) -> Image.Image:
    sides = picture.size
    factor = min(1, _LONGEST_PX / max(sides)) if sliding is None else sliding.size_px / min(sides)
    width, height = (max(1, round(side * factor)) for side in sides)
    return picture.resize((width, height), Image.Resampling.BICUBIC)


def _overlay(picture: Image.Image, labels: Tensor, num_labels: int) -> Image.Image:
    """Colours of labels over the grey picture."""
    grey = np.array(picture.convert("L"), dtype=np.float32)[..., None].repeat(3, axis=2)
    colours = np.array(_palette(num_labels), dtype=np.float32)[labels.numpy()]
    weight = np.where(labels.numpy() > 0, _COLOUR_SHARE, 0.0)[..., None]
    return Image.fromarray(((1 - weight) * grey + weight * colours).round().astype(np.uint8))


def _palette(num_labels: int) -> list[tuple[int, int, int]]:
    """Background grey, then a colour for each label: eight of them, then lighter and darker ones."""
    found = [(128, 128, 128)]
    for label in range(num_labels):
        turn, place = divmod(label, len(COLOURS))
        share = min(0.75, 0.25 * turn)
        towards = share * (255 if turn % 2 else 0)
        red, green, blue = (round((1 - share) * int(COLOURS[place][i : i + 2], 16) + towards) for i in (1, 3, 5))
        found.append((red, green, blue))
    return found
