"""A page of pictures with answers about them, each with the concepts that its score is the sum of."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from PIL import Image
from torch import Tensor

from raytrain_xai.report.overlay import data_uri
from raytrain_xai.report.pages import page_environment


@dataclass(frozen=True)
class Part:
    """A term of a sum.

    Attributes:
        label: of the concept, the other concepts together, or the bias.
        value: signed.
        concept: number of the concept; None for the others.
    """

    label: str
    value: float
    concept: int | None = None


@dataclass(frozen=True)
class Answer:
    """One score.

    Attributes:
        title: what the score is for.
        detail: the score in words.
        parts: their values sum to the score.
        colour: of its area in the picture; None where it has none.
    """

    title: str
    detail: str
    parts: tuple[Part, ...]
    colour: str | None = None


@dataclass(frozen=True)
class Entry:
    """A picture with its answers; ``pictures`` are pairs of a picture and what it shows."""

    name: str
    pictures: tuple[tuple[Image.Image, str], ...]
    answers: tuple[Answer, ...]


def parts_of(concept: Tensor, bias: float, name: Callable[[int], str], top: int) -> tuple[Part, ...]:
    """A score as a sum: its strongest concepts of either sign, the other ones together, and the bias.

    Args:
        concept: (K,) float, signed contributions.
        bias: that of the decoder.
        name: of a concept.
        top: concepts shown one by one, >= 0.
    """
    number = min(top, int(concept.count_nonzero()))
    indices = concept.abs().topk(number).indices
    chosen = concept[indices]
    pairs = zip(indices.tolist(), chosen.tolist(), strict=True)
    shown = sorted((Part(name(k), value, k) for k, value in pairs), key=lambda part: -part.value)
    others = int(concept.count_nonzero()) - number
    rest = (Part(f"{others} others", float(concept.sum() - chosen.sum())),) if others else ()
    return (*shown, *rest, Part("bias", bias))


def parts_record(parts: Iterable[Part]) -> list[dict[str, Any]]:
    """For JSON: label, value, and id of a concept."""
    return [{"id": part.concept, "label": part.label, "value": part.value} for part in parts]


def render_answers(title: str, origin: str, reading: str, entries: Iterable[Entry]) -> str:
    """The page as text.

    Args:
        title: of the page.
        origin: run that answers.
        reading: what pictures and bars mean.
        entries: consumed one by one.
    """
    environment = page_environment()
    environment.filters["data_uri"] = data_uri
    return environment.get_template("answers.html.j2").render(
        title=title, origin=origin, reading=reading, entries=map(_view, entries)
    )


def _view(entry: Entry) -> dict[str, Any]:
    widest = max((abs(part.value) for answer in entry.answers for part in answer.parts), default=0) or 1
    return {
        "name": entry.name,
        "pictures": entry.pictures,
        "answers": [
            {
                "title": answer.title,
                "detail": answer.detail,
                "colour": answer.colour,
                "bars": [
                    {
                        "label": part.label,
                        "value": f"{part.value:+.3f}",
                        "left": 50 + min(0.0, 50 * part.value / widest),
                        "width": 50 * abs(part.value) / widest,
                        "kind": "rest" if part.concept is None else "for" if part.value > 0 else "against",
                    }
                    for part in answer.parts
                ],
            }
            for answer in entry.answers
        ],
    }
