"""Images that show a concept, or that a text describes.

By concept: images in the order of the largest value of the concept over their patches. By text t: in the order of the
mean cosine of their patches with t, which is a sum over concepts (:mod:`.contributions`) and so can be had from the
index alone, without an image or the encoder's image side:

    mean_p cos(x_p, t) = Σ_k share_k (v_k·t) + bias (b·t),   share_k = mean_p z_pk / ‖x_p‖, bias = mean_p 1 / ‖x_p‖.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from raytrain_xai.errors import ConfigError, DataError, NotFoundError
from raytrain_xai.insight.image_index import ImageIndex
from raytrain_xai.insight.model import InsightModel


@dataclass(frozen=True)
class Hit:
    """One image.

    Attributes:
        data, id: data set and id there.
        score: largest value of the concept, or mean cosine with the text.
        concepts: concept -> what it adds to the score, largest first; by concept: the value itself.
        box: (x0, y0, x1, y1) in [0, 1] of the sides, the patch where the first of ``concepts`` is strongest.
    """

    data: str
    id: str
    score: float
    concepts: Mapping[int, float]
    box: tuple[float, float, float, float]


def search_concept(index: ImageIndex, concepts: list[int], count: int = 20) -> list[Hit]:
    """Images that show one of some concepts most strongly, best first.

    Args:
        concepts: one, or several of the same meaning, of which the strongest in an image counts.
        count: at most.
    Raises:
        NotFoundError: no such concept.
        ConfigError: no concept, or a count below 1.
    """
    if not concepts or count < 1:
        raise ConfigError(f"a search needs a concept and a count of 1 or more, got {concepts} and {count}")
    if not 0 <= min(concepts) <= max(concepts) < index.about.concepts:
        raise NotFoundError(f"no concept {max(concepts)}; there are 0 to {index.about.concepts - 1}")
    found = index.postings(concepts=concepts).sort_by([("peak", "descending"), ("image", "ascending")])
    _, first = np.unique(found["image"].to_numpy(), return_index=True)
    best = found.take(np.sort(first)[:count])
    return [_hit(index, row["image"], row["peak"], [(row, row["peak"])]) for row in best.to_pylist()]


def concepts_named(names: Mapping[int, str], name: str) -> list[int]:
    """Concepts with a name, whatever its case.

    Raises:
        NotFoundError: none; lists names that look alike.
    """
    wanted = name.casefold().strip()
    found = [concept for concept, own in names.items() if own.casefold() == wanted]
    if not found:
        known = sorted({own.casefold() for own in names.values()})
        near = difflib.get_close_matches(wanted, known, n=5)
        hint = f"there are {', '.join(near)}" if near else f"{len(known)} names are known"
        raise NotFoundError(f"no concept is named {name!r}; {hint}; search by --text for anything else")
    return found


@torch.no_grad()
def search_text(index: ImageIndex, model: InsightModel, text: Tensor, count: int = 20, *, top: int = 5) -> list[Hit]:
    """Images whose concepts say what a text says, best first; exact, over all images of the index.

    Args:
        model: that wrote the index.
        text: (D,) unit text vector of its encoder.
        count: at most.
        top: concepts named for each, those that add most.
    Raises:
        CheckpointError: an index of another model.
        DataError: a text of another encoder.
        ConfigError: counts below 1.
    """
    if count < 1 or top < 1:
        raise ConfigError(f"counts must be 1 or more, got {count} and {top}")
    index.check(model)
    if text.shape != (model.sae.dim,):
        raise DataError(f"the text vector has shape {tuple(text.shape)}, expected ({model.sae.dim},)")
    match = (model.sae.dictionary @ text.to(model.sae.dictionary)).double().cpu().numpy()
    bias = float(model.sae.decoder_bias @ text.to(model.sae.dictionary))
    rows = index.postings()
    added = rows["share"].to_numpy() * match[rows["concept"].to_numpy()]
    scores = np.bincount(rows["image"].to_numpy(), added, minlength=index.about.images)
    scores = scores + index.images["bias"].to_numpy() * bias
    best = np.argsort(-scores, kind="stable")[:count]
    reasons = _reasons(index.postings(images=best.tolist()), match, top)
    return [_hit(index, image, float(scores[image]), reasons.get(image, [])) for image in best.tolist()]


def _reasons(rows: pa.Table, match: np.ndarray, top: int) -> dict[int, list[tuple[dict[str, float], float]]]:
    """Image -> postings that add most to its score, with what they add."""
    found: dict[int, list[tuple[dict[str, float], float]]] = {}
    for row in rows.to_pylist():
        found.setdefault(row["image"], []).append((row, row["share"] * float(match[row["concept"]])))
    return {image: sorted(own, key=lambda pair: -pair[1])[:top] for image, own in found.items()}


def _hit(index: ImageIndex, image: int, score: float, reasons: list[tuple[dict[str, float], float]]) -> Hit:
    height, width = index.about.grid
    row, column = divmod(int(reasons[0][0]["patch"]), width) if reasons else (0, 0)
    whole = (0.0, 0.0, 1.0, 1.0)
    box = (column / width, row / height, (column + 1) / width, (row + 1) / height) if reasons else whole
    listed = {int(posting["concept"]): value for posting, value in reasons}
    return Hit(index.images["data"][image].as_py(), index.images["id"][image].as_py(), score, listed, box)
