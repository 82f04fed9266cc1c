"""The page of concept traces: one decision after the other, from the logit down to the pixels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from raytrain_xai import __version__
from raytrain_xai.concept_runs.model import ConceptModel
from raytrain_xai.concept_runs.traces import ClassTrace, Origins, PixelTrace, Rest, Share, Trace
from raytrain_xai.report.overlay import data_uri, on_white, overlay_heatmap, to_picture
from raytrain_xai.report.pages import page_environment

_LARGE_PX, _TILE_PX, _SMALL_PX = 336, 176, 96  # longer side of a photograph, of a concept and of one it is made of
_WORTH_SAYING = 0.1  # percent that the pixels of a map may miss before the page says so: rounding is far below


@dataclass(frozen=True)
class Views:
    """The two pictures of one traced value as ``data:`` addresses, and the percentage its pixels do not show."""

    rgba: str
    heat: str
    missing: str


@dataclass(frozen=True)
class Bar:
    """One step from 0 to the logit.

    Attributes:
        label: what is added.
        anchor: id of its tile; empty without.
        value, percent: as text; ``percent`` is empty for the bias and the logit.
        left, width: of the bar, percent of the chart.
        kind: ``for``, ``against``, ``bias`` or ``total``.
    """

    label: str
    anchor: str
    value: str
    percent: str
    left: float
    width: float
    kind: str


@dataclass(frozen=True)
class ConceptTile:
    """A concept with its part in something.

    Attributes:
        name: contains the number where that is all there is.
        number: in the dictionary.
        percent, contribution: as text.
        pixels: of its activation.
        weighted: of its contribution; None below another concept.
        made_of: concepts of the layer before; None in the first one.
    """

    name: str
    number: int
    percent: str
    contribution: str
    pixels: Views
    weighted: Views | None
    made_of: Branches | None


@dataclass(frozen=True)
class Branches:
    """The concepts that a concept is made of, the others in words, and the error of the sum relative to it."""

    layer: str
    concepts: tuple[ConceptTile, ...]
    rest: str
    residual: str


@dataclass(frozen=True)
class ClassView:
    """One class of one image; numbers as text."""

    name: str
    logit: str
    probability: str
    logit_without_concepts: str
    residual: str
    concepts_for_80_percent: int
    layer: str
    pixels: Views
    bars: tuple[Bar, ...]
    zero: float
    concepts: tuple[ConceptTile, ...]
    rest: str
    rest_percent: str
    rest_pixels: Views | None


@dataclass(frozen=True)
class ImageView:
    """One image: its photograph as a ``data:`` address, how many concepts act in it, and the explained classes."""

    name: str
    photo: str
    active: dict[str, int]
    classes: tuple[ClassView, ...]


def render_traces(model: ConceptModel, names: Sequence[str], images: Iterable[ImageView]) -> Iterator[str]:
    """The page in pieces, each image asked for when its turn comes.

    Args:
        model: what made the traces.
        names: of the images, for the list at the top.
        images: as many.
    """
    environment = page_environment()
    return environment.get_template("trace.html.j2").generate(
        version=__version__,
        network=model.network.name,
        origins=model.origins,
        layers=list(model.layers),
        exclusive=model.explainer.exclusive,
        names=names,
        images=images,
    )


def image_view(name: str, picture: Image.Image, trace: Trace) -> ImageView:
    """One image for the page.

    Args:
        name: heading.
        picture: RGB, the part that the network saw.
        trace: of this image.
    """
    photos = {side: _thumbnail(picture, side) for side in (_LARGE_PX, _TILE_PX, _SMALL_PX)}
    classes = tuple(_class_view(photos, explained) for explained in trace.classes)
    return ImageView(name, data_uri(photos[_LARGE_PX]), dict(trace.active), classes)


def waterfall(explained: ClassTrace) -> tuple[tuple[Bar, ...], float]:
    """The steps from 0 over bias and contributions to the logit, and where 0 lies on the chart in percent."""
    rest = explained.rest
    steps: list[tuple[str, str, float, str]] = [("bias of the class", "", explained.bias, "bias")]
    for share in explained.concepts:
        sign = "for" if share.contribution >= 0 else "against"
        steps.append((share.concept.name, str(share.concept.id), share.contribution, sign))
    if rest.positive:
        steps.append(("others that speak for it", "rest", rest.positive, "for"))
    if rest.negative:
        steps.append(("others that speak against it", "rest", rest.negative, "against"))
    ends = np.cumsum([0.0] + [value for _, _, value, _ in steps])
    low, high = float(ends.min()), float(ends.max())
    scale = 100 / (high - low) if high > low else 0.0
    bars = [
        Bar(
            label, anchor, _signed(value), "" if kind == "bias" else _share_of(value, explained.positive),
            scale * (min(start, end) - low), scale * abs(end - start), kind,
        )
        for (label, anchor, value, kind), start, end in zip(steps, ends[:-1], ends[1:], strict=True)
    ]  # fmt: skip
    logit = float(ends[-1])
    bars.append(
        Bar("logit", "", _signed(explained.logit), "", scale * (min(0, logit) - low), scale * abs(logit), "total")
    )
    return tuple(bars), -scale * low


def _class_view(photos: dict[int, Image.Image], explained: ClassTrace) -> ClassView:
    bars, zero = waterfall(explained)
    shares, rest = explained.concepts, explained.rest
    whole = explained.positive
    weighted = _views(photos[_TILE_PX], explained.weighted, [whole] * len(shares))
    return ClassView(
        name=explained.name,
        logit=_signed(explained.logit),
        probability=f"{100 * explained.probability:.1f}",
        logit_without_concepts=_signed(explained.logit_without_concepts),
        residual=_error(explained.residual),
        concepts_for_80_percent=explained.concepts_for_80_percent,
        layer=shares[0].concept.layer if shares else "",
        pixels=_views(photos[_LARGE_PX], [explained.pixels], [whole])[0],
        bars=bars,
        zero=zero,
        concepts=_tiles(photos, _TILE_PX, shares, weighted),
        rest=f"{_signed(rest.contribution)} · {_others(rest)}",
        rest_percent=_plain(rest.percent),
        rest_pixels=_views(photos[_TILE_PX], [explained.rest_pixels], [whole])[0] if rest.count else None,
    )


def _tiles(
    photos: dict[int, Image.Image], side: int, shares: Sequence[Share], weighted: Sequence[Views] | None
) -> tuple[ConceptTile, ...]:
    pixels = _views(photos[side], [s.concept.pixels for s in shares], [s.concept.activation for s in shares])
    return tuple(
        ConceptTile(
            name=share.concept.name,
            number=share.concept.id,
            percent=_plain(share.percent),
            contribution=_signed(share.contribution),
            pixels=own,
            weighted=None if weighted is None else weighted[position],
            made_of=None
            if share.concept.origins is None
            else _branches(photos, share.concept.origins, share.concept.activation),
        )
        for position, (share, own) in enumerate(zip(shares, pixels, strict=True))
    )


def _branches(photos: dict[int, Image.Image], origins: Origins, activation: float) -> Branches:
    concepts = _tiles(photos, _SMALL_PX, origins.concepts, None)
    rest = f"{_others(origins.rest)}: {_plain(origins.rest.percent)} %"
    return Branches(origins.layer, concepts, rest, _error(origins.residual / activation))


def _views(photo: Image.Image, traces: Sequence[PixelTrace], wholes: Sequence[float]) -> list[Views]:
    """Pictures of traces of one image; ``wholes`` are the values that a missing part is a share of."""
    if not traces:
        return []
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
    overlays = overlay_heatmap(pixels.expand(len(traces), -1, -1, -1), torch.stack([trace.map for trace in traces]))
    found: list[Views] = []
    for trace, overlay, whole in zip(traces, overlays, wholes, strict=True):
        rgba = to_picture(trace.rgba).resize(photo.size, Image.Resampling.BICUBIC)
        share = 100 * trace.missing / whole if whole > 0 else 0.0
        missing = _plain(share) if abs(share) > _WORTH_SAYING else ""
        found.append(Views(data_uri(on_white(rgba)), data_uri(to_picture(overlay)), missing))
    return found


def _thumbnail(picture: Image.Image, side: int) -> Image.Image:
    shown = picture.convert("RGB")
    shown.thumbnail((side, side))
    return shown


def _others(rest: Rest) -> str:
    return f"{rest.count} other concept{'' if rest.count == 1 else 's'}"


def _signed(value: float) -> str:
    text = f"{value:+.2f}" if abs(value) >= 0.01 or value == 0 else f"{value:+.0e}"
    return text.replace("-", "\u2212")


def _error(value: float) -> str:
    return f"{value:.0e}" if value else "0"


def _plain(value: float) -> str:
    return f"{value:.1f}".replace("-", "\u2212")


def _share_of(value: float, positive: float) -> str:
    return _plain(100 * value / positive) if positive > 0 else ""
