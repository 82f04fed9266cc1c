"""The images to annotate next on a page: what the network sees in them, and how to annotate them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from raytrain_xai import __version__
from raytrain_xai.annotation.asked import Asked
from raytrain_xai.annotation.looks import Look, look_at
from raytrain_xai.annotation.task_files import CONFIG, CVAT_LABELS, IMAGES, TASKS, write_task_files
from raytrain_xai.data.annotation_order import Order, write_order
from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.data.decode import decode_rgb
from raytrain_xai.errors import ConfigError
from raytrain_xai.explain import Explainer
from raytrain_xai.report.overlay import data_uri, draw_boxes, overlay_heatmap, to_picture
from raytrain_xai.report.pages import page_environment
from raytrain_xai.storage import Location, exists, write_bytes

PAGE, ORDER = "suggestions.html", "order.json"
NUM_SHOWN = 50
_SHOWN_PX = 224  # longer side of a picture
_MEANINGS = {
    "random": "Drawn at random: what the other strategies are to be compared with.",
    "class_balanced": "Classes take turns: each image is the next one of the class with the fewest images so far.",
    "lowest_confidence": "Score: probability that the network does not give to a class which the image shows, of "
    "several classes the worst.",
    "attribution_entropy": "Score: entropy of the positive part of the explanation, 1 for evidence spread equally over "
    "all places, of several classes the worst.",
    "disagreement": "Score: 1 − cosine between the explanations at two layers or by two methods, 1 when they name no "
    "common place, of several classes the worst.",
    "k_centre": "Each image is the one whose features are furthest from all images before it. Score: the largest "
    "distance that any training image then has to its nearest chosen one.",
}


def write_suggestions(folder: Location, order: Order, asked: Asked, stored: StoredSplit, *, with_boxes: bool) -> None:
    """Write all that is needed to annotate the images of an order: page, images, task files, and ``order.json`` last.

    Args:
        folder: local or s3://, without suggestions.
        order: of :func:`raytrain_xai.annotation.suggest.suggest`.
        asked: the run whose explanations are shown.
        stored: split of the images.
        with_boxes: give Label Studio a predicted box for each class that the network finds, and draw them on the page.
    Raises:
        ConfigError: the folder holds suggestions.
        DataError: a stored image is damaged, or the folder cannot be written.
    """
    check_is_free(folder)
    looks: dict[str, Look] = {}
    examples: list[dict[str, Any]] = []
    for look, maps in look_at(asked, stored, order.ids if with_boxes else order.ids[:NUM_SHOWN]):
        looks[look.id] = look
        if len(examples) < NUM_SHOWN:
            score = None if order.scores is None else order.scores[len(examples)]
            examples.append(_example(asked, stored, look, maps, score, with_boxes=with_boxes))
    write_task_files(folder, order, stored, looks if with_boxes else None, f"{asked.name} {asked.checkpoint}")
    page = page_environment().get_template("suggestions.html.j2")
    text = page.render(
        version=__version__,
        order=order,
        meaning=_MEANINGS[order.strategy],
        data=stored.location.uri,
        asked=asked,
        examples=examples,
        with_boxes=with_boxes,
        is_local=folder.is_local,
        parts={"images": IMAGES, "labels": CVAT_LABELS, "tasks": TASKS, "config": CONFIG},
    )
    write_bytes(folder.child(PAGE), text.encode())
    write_order(folder.child(ORDER), order)


def check_is_free(folder: Location) -> None:
    """Refuse a folder whose images would be mixed with others.

    Raises:
        ConfigError: there is an ``order.json``.
    """
    if exists(folder.child(ORDER)):
        raise ConfigError(f"{folder.uri} holds suggestions already; give another folder")


def _example(
    asked: Asked, stored: StoredSplit, look: Look, maps: Tensor, score: float | None, *, with_boxes: bool
) -> dict[str, Any]:
    picture = Image.fromarray(decode_rgb(stored.encoded(look.row)[0]))
    photo, scale = _visible(asked.explainer, picture)
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
    overlays = overlay_heatmap(pixels.expand(len(maps), -1, -1, -1), maps)
    left, top, *_ = asked.explainer.seen(*picture.size)
    boxes = ((look.boxes - torch.tensor([left, top, left, top])) * scale).tolist()
    return {
        "id": look.id,
        "score": None if score is None else f"{score:.3f}",
        "photo": data_uri(photo),
        "tiles": [
            {
                "name": stored.info.classes[label],
                "probability": look.probabilities[number],
                "picture": data_uri(
                    draw_boxes(
                        to_picture(overlays[number]), [boxes[number]] if with_boxes and look.is_found(number) else []
                    )
                ),
            }
            for number, label in enumerate(look.labels)
        ],
    }


def _visible(explainer: Explainer, picture: Image.Image) -> tuple[Image.Image, float]:
    """The part that the network sees, for the page, and by how much it was scaled."""
    seen = explainer.visible(picture)
    scale = _SHOWN_PX / max(seen.size)
    size = (max(1, round(seen.width * scale)), max(1, round(seen.height * scale)))
    return seen.resize(size, Image.Resampling.BILINEAR), scale
