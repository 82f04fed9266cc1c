"""Results of the localisation benchmark as JSON, a picture and a self-contained page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from raytrain_xai import __version__
from raytrain_xai.localisation.benchmark import Plan, Protocol, Result, Score
from raytrain_xai.report.curves import Box, box_chart, colour_of
from raytrain_xai.report.overlay import data_uri, draw_boxes, overlay_heatmap, to_picture
from raytrain_xai.report.pages import page_environment
from raytrain_xai.storage import Location, write_bytes

FORMAT_VERSION = 1
INDEX, PAGE, PICTURE = "localisation.json", "localisation.html", "localisation.png"
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_SHOWN_PX = 336  # side of the mosaics on the page; divisible by 2 and 3
Measured = tuple[Result, Plan]
_AXIS = "positive share in the own tile"


@dataclass(frozen=True)
class Summary:
    """The scores of one method on one model: mean, its standard error, quantiles (see ``QUANTILES``)."""

    mean: float
    standard_error: float | None
    quantiles: tuple[float, ...]


def summarise_shares(shares: Tensor) -> Summary:
    """Statistics over all n * G scores.

    Args:
        shares: (G, n) in [0, 1].
    Returns:
        The standard error is that of the mean over mosaics, whose n scores are not independent; None for one mosaic.
    """
    per_grid = shares.double().mean(dim=1)
    error = float(per_grid.std() / len(per_grid) ** 0.5) if len(per_grid) > 1 else None
    spread = torch.quantile(shares.double().flatten(), torch.tensor(QUANTILES, dtype=torch.float64))
    return Summary(float(per_grid.mean()), error, tuple(spread.tolist()))


def write_localisation(
    folder: Location, protocol: Protocol, results: Sequence[Measured], classes: Sequence[str]
) -> None:
    """Write ``localisation.json``, ``.html`` and ``.png`` into a folder (local or s3://); old ones are replaced.

    Raises:
        DataError: the folder cannot be written.
    """
    svg, png = _chart(results, protocol)
    index = _index(protocol, results, classes)
    write_bytes(folder.child(INDEX), (json.dumps(index, indent=1, allow_nan=False) + "\n").encode())
    write_bytes(folder.child(PICTURE), png)
    write_bytes(folder.child(PAGE), render_localisation(protocol, results, classes, svg).encode())


def render_localisation(protocol: Protocol, results: Sequence[Measured], classes: Sequence[str], svg: str) -> str:
    """The page as text; ``svg`` is the box plot."""
    environment = page_environment()
    best = max(float(f"{score.shares.mean():.3f}") for result, _ in results for score in result.scores)
    return environment.get_template("localisation.html.j2").render(
        version=__version__,
        protocol=protocol,
        models=[_model(position, *measured, best) for position, measured in enumerate(results)],
        examples=[_examples(result, protocol, classes) for result, _ in results],
        chart=svg,
    )


def _index(protocol: Protocol, results: Sequence[Measured], classes: Sequence[str]) -> dict[str, Any]:
    return {
        "format_version": FORMAT_VERSION,
        "protocol": asdict(protocol),
        "chance": 1 / protocol.num_tiles,
        "models": [
            {
                "model": result.label,
                "tile_size": result.tile_size,
                "single_label_images": result.drawn.num_single,
                "usable_images": result.drawn.num_usable,
                "mosaics": [
                    {"images": own, "classes": [classes[k] for k in targets]}
                    for own, targets in zip(result.ids, result.drawn.grids.targets.tolist(), strict=True)
                ],
                "methods": [_record(score) for score in result.scores],
                "skipped": plan.skipped,
            }
            for result, plan in results
        ],
    }


def _record(score: Score) -> dict[str, Any]:
    summary = summarise_shares(score.shares)
    return {
        "method": score.method.name,
        "layer": score.method.layer,
        "mean": summary.mean,
        "standard_error": summary.standard_error,
        "quantiles": {f"{100 * q:g}": value for q, value in zip(QUANTILES, summary.quantiles, strict=True)},
        "empty_maps": score.empty_maps,
        "seconds_per_map": score.seconds_per_map,
        "shares": [[round(value, 6) for value in row] for row in score.shares.tolist()],
    }


def _chart(results: Sequence[Measured], protocol: Protocol) -> tuple[str, bytes]:
    boxes: list[Box] = []
    for position, (result, _) in enumerate(results):
        for score in result.scores:
            summary = summarise_shares(score.shares)
            label = f"{result.label}, {score.method}" if len(results) > 1 else str(score.method)
            boxes.append(Box(label, position, summary.quantiles, summary.mean))
    return box_chart("Box plots of the score of every model and method", boxes, _AXIS, 1 / protocol.num_tiles)


def _model(position: int, result: Result, plan: Plan, best: float) -> dict[str, Any]:
    rows: list[dict[str, Any]] = []
    for score in result.scores:
        summary = summarise_shares(score.shares)
        rows.append(
            {
                "method": str(score.method),
                "mean": f"{100 * summary.mean:.1f}",
                "error": "–" if summary.standard_error is None else f"{100 * summary.standard_error:.1f}",
                "median": f"{100 * summary.quantiles[2]:.1f}",
                "spread": f"{100 * summary.quantiles[1]:.0f} – {100 * summary.quantiles[3]:.0f}",
                "empty": f"{100 * score.empty_maps:.1f}",
                "time": f"{1000 * score.seconds_per_map:.0f}",
                "is_best": float(f"{score.shares.mean():.3f}") == best,
            }
        )
    skipped = ", ".join(plan.skipped) or "none"
    return {"label": result.label, "colour": colour_of(position), "result": result, "rows": rows, "skipped": skipped}


def _examples(result: Result, protocol: Protocol, classes: Sequence[str]) -> list[dict[str, Any]]:
    """The first mosaics: photograph with the names of its tiles, and one heatmap per method for one of the tiles."""
    frames = [_frame(number % protocol.num_tiles, protocol.side) for number in range(len(result.mosaics))]
    overlays = [overlay_heatmap(result.mosaics, score.examples) for score in result.scores]
    return [
        {
            "target": classes[result.drawn.grids.targets[number, number % protocol.num_tiles]],
            "photo": _picture(to_picture(mosaic.permute(1, 2, 0)), frames[number]),
            "tiles": [
                {
                    "method": str(score.method),
                    "picture": _picture(to_picture(overlay[number]), frames[number]),
                    "share": f"{100 * score.shares[number, number % protocol.num_tiles]:.0f}",
                }
                for score, overlay in zip(result.scores, overlays, strict=True)
            ],
        }
        for number, mosaic in enumerate(result.mosaics)
    ]


def _frame(position: int, side: int) -> tuple[float, float, float, float]:
    """Corners of a tile on the page."""
    column, row = divmod(position, side)
    size = _SHOWN_PX / side
    return column * size, row * size, (column + 1) * size, (row + 1) * size


def _picture(picture: Image.Image, frame: tuple[float, float, float, float]) -> str:
    shown = picture.resize((_SHOWN_PX, _SHOWN_PX), Image.Resampling.BILINEAR)
    return data_uri(draw_boxes(shown, [frame]))
