"""Pictures compared with texts as JSON and one page in a folder: what ``raytrain-xai insight classify`` writes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raytrain_xai.insight.classify import Classification, classify
from raytrain_xai.insight.model import InsightModel
from raytrain_xai.report.answer_page import Answer, Entry, parts_of, parts_record, render_answers
from raytrain_xai.report.explanation_files import check_output, read_picture
from raytrain_xai.report.overlay import overlay_heatmap, to_picture

FORMAT_VERSION = 1
INDEX, PAGE = "classes.json", "classes.html"
_LONGEST_PX = 512
_READING = (
    "The score of a picture for a text is the mean cosine of its patches with the text, those that match weighing "
    "more. The bars are what concepts add to it (red) or take away (blue), and sum to it exactly. The heatmap shows "
    "the cosines of the patches with the first text: red above 0, blue below."
)


def write_classes(
    model: InsightModel, files: Sequence[Path], out: Path, *, labels: Sequence[str], vectors: Tensor, classes: int,
    top: int,
) -> dict[str, Any]:  # fmt: skip
    """Compare pictures with texts and write ``classes.json`` and ``classes.html``.

    Args:
        model: encoder and concepts.
        files: pictures that :func:`~raytrain_xai.report.explanation_files.collect_images` returned.
        out: folder, made when absent.
        labels: texts, C of them.
        vectors: (C, D) of the labels.
        classes: best texts of each picture that are taken apart.
        top: concepts that are shown one by one.
    Returns:
        The content of ``classes.json``.
    Raises:
        ConfigError: ``out`` is a file or holds the pictures.
        DataError: a picture cannot be read.
    """
    check_output(out, files)
    out.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, Any]] = []

    def entries() -> Iterator[Entry]:
        for file in files:
            picture = read_picture(file)
            picture.thumbnail((_LONGEST_PX, _LONGEST_PX))
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
            found = classify(model, pixels, vectors, top=classes)
            answers = _answers(model, labels, found, top)
            scores = dict(zip(labels, found.scores[0].tolist(), strict=True))
            texts = [{"text": answer.title, "parts": parts_record(answer.parts)} for answer in answers]
            records.append({"file": str(file), "scores": scores, "texts": texts})
            yield Entry(file.name, _pictures(picture, pixels, found, answers[0].title), answers)

    page = render_answers("Pictures compared with texts", model.origin, _READING, entries())
    index = {"format_version": FORMAT_VERSION, "run": model.origin, "texts": list(labels), "images": records}
    (out / PAGE).write_text(page, encoding="utf-8")
    (out / INDEX).write_text(json.dumps(index, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return index


def _answers(model: InsightModel, labels: Sequence[str], found: Classification, top: int) -> tuple[Answer, ...]:
    answers: list[Answer] = []
    for row, label in enumerate(map(int, found.top[0])):
        bias = float(found.contributions.bias[row])
        parts = parts_of(found.contributions.concept[row], bias, model.name, top)
        score, chance = float(found.scores[0, label]), float(found.probabilities[0, label])
        answers.append(Answer(labels[label], f"{100 * chance:.0f} % among the texts, score {score:.3f}", parts))
    return tuple(answers)


def _pictures(
    picture: Image.Image, pixels: Tensor, found: Classification, text: str
) -> tuple[tuple[Image.Image, str], ...]:
    heat = to_picture(overlay_heatmap(pixels, found.maps[:, 0].cpu())[0])
    return (picture, "the picture"), (heat, f"patches that are like “{text}”")
