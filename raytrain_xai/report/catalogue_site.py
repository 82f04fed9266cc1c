"""A concept catalogue as pages to browse: a folder of plain files that needs no server and no network.

``index.html`` opens with what its list needs (``data/concepts.js``); the details of a concept, its pictures and its
maps are files of their own, read when they come into view, so that 16 k concepts open in about the time of 16.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from raytrain_xai import __version__
from raytrain_xai.concept_runs.catalogue import MAP_PX
from raytrain_xai.concept_runs.catalogue_files import Catalogue
from raytrain_xai.concept_runs.catalogue_tables import CONCEPTS, EXAMPLES, IMAGES, PARTNERS
from raytrain_xai.report.pages import page_environment
from raytrain_xai.storage import write_files

PAGE = "index.html"
DATA = "data/concepts.js"
_CHUNK = 64  # concepts of one file of details
_PER_FOLDER = 1000  # pictures of one folder
_PER_EXAMPLE = ("activation", "contribution", "size")
_IN_LIST = 4  # examples of a card
_LEVELS = 16  # of a map: four bits a pixel
_WEAK, _STRONG = (255, 200, 0), (225, 0, 0)  # colours of a map
_OPAQUE = 235  # of 255, at the strongest part


def write_site(catalogue: Catalogue, given: Mapping[int, str]) -> str:
    """Write the pages of a catalogue into its folder; what was there of an earlier site is replaced.

    Args:
        catalogue: complete.
        given: names that people gave; the others have the proposed ones.
    Returns:
        Address of the page to open, which is written last.
    """
    rows = catalogue.table(CONCEPTS).to_pydict()
    names = [given.get(k) or proposed or "" for k, proposed in enumerate(rows["proposed"])]
    examples = catalogue.table(EXAMPLES)
    write_files(catalogue.at, _files(catalogue, rows, names, given, examples))
    write_files(catalogue.at, [(PAGE, _page(catalogue).encode())])
    return catalogue.at.child(PAGE).uri


def _files(
    catalogue: Catalogue, rows: Mapping[str, Any], names: Sequence[str], given: Mapping[int, str], examples: pa.Table
) -> Iterator[tuple[str, bytes]]:
    shown = _by_concept(examples, ("row", *_PER_EXAMPLE), len(names))
    images = catalogue.table(IMAGES)
    about = {
        row: (name, labels, answer)
        for row, name, labels, answer in zip(
            *(images[column].to_pylist() for column in ("row", "id", "labels", "answer")), strict=True
        )
    }
    yield DATA, _script("const CATALOGUE = ", _columns(catalogue, rows, names, given, shown), ";")
    partners = _by_concept(catalogue.table(PARTNERS), ("partner", "positions", "overlap"), len(names))
    for first in range(0, len(names), _CHUNK):
        number, last = first // _CHUNK, min(first + _CHUNK, len(names))
        content = _details(rows, shown, partners, about, range(first, last))
        yield f"data/detail-{number}.js", _script(f"detail({number}, ", content, ");")
    for row, jpeg in zip(images["row"].to_pylist(), images["jpeg"], strict=True):
        yield f"thumbs/{row // _PER_FOLDER}/{row}.jpg", jpeg.as_py()
    start = 0
    for k, own in enumerate(shown):
        if own:
            maps = [decode_map(value.as_py()) for value in examples["map"].slice(start, len(own))]
            yield f"maps/{k // _PER_FOLDER}/{k}.png", map_strip(maps)
        start += len(own)


def _columns(
    catalogue: Catalogue, rows: Mapping[str, Any], names: Sequence[str], given: Mapping[int, str],
    shown: Sequence[Sequence[Sequence[Any]]],
) -> dict[str, Any]:  # fmt: skip
    """What the list sorts, filters and shows: one array per property, short numbers."""
    columns = {
        "name": list(names),
        "given": [int(bool(given.get(k))) for k in range(len(names))],
        "images": rows["images"],
        "frequency": _short(rows["frequency"]),
        "activation": _short(rows["activation"]),
        "entropy": _short(rows["class_entropy"]),
        "label": [labels[0] if labels else -1 for labels in rows["labels"]],
        "share": [_rounded(shares[0]) if shares else None for shares in rows["label_shares"]],
        "top": [own[0] if own else -1 for own in rows["classes"]],
        "contribution": _short(rows["mean_contribution"]),
        "always": [int(value) for value in rows["always_on"]],
        "size": _short(rows["spatial_size"]),
        "shown": [[example[0] for example in own[:_IN_LIST]] for own in shown],
        "cells": [len(own) for own in shown],
    }
    return {
        "title": _title(catalogue), "classes": list(catalogue.classes), "chunk": _CHUNK, "mapSide": MAP_PX,
        "concepts": columns,
    }  # fmt: skip


def _details(
    rows: Mapping[str, Any], shown: Sequence[Sequence[Sequence[Any]]], partners: Sequence[Sequence[Sequence[Any]]],
    about: Mapping[int, tuple[Any, ...]], concepts: range,
) -> dict[str, Any]:  # fmt: skip
    details = [
        {
            "positions": rows["positions"][k],
            "answers": rows["answers"][k],
            "labels": _pairs(rows["labels"][k], rows["label_shares"][k]),
            "classes": _pairs(rows["classes"][k], rows["class_contributions"][k]),
            "partners": [[partner, positions, _rounded(overlap)] for partner, positions, overlap in partners[k]],
            "examples": [[row, *_short(numbers)] for row, *numbers in shown[k]],
        }
        for k in concepts
    ]
    used = sorted({example[0] for k in concepts for example in shown[k]})
    return {"concepts": details, "images": {row: about[row] for row in used}}


def map_strip(maps: Sequence[np.ndarray]) -> bytes:
    """Maps side by side as one PNG of 16 colours from clear over yellow to red.

    Args:
        maps: (S, S) uint8 each; an edge of one pixel is repeated around every map, so that a browser that enlarges one
            does not mix in its neighbour.
    """
    cells = np.concatenate([np.pad(values, 1, mode="edge") for values in maps], axis=1)
    levels = (cells.astype(np.uint16) * (_LEVELS - 1) + 127) // 255
    picture = Image.fromarray(levels.astype(np.uint8), mode="P")
    weights = [level / (_LEVELS - 1) for level in range(_LEVELS)]
    picture.putpalette([
        round((1 - w) * weak + w * strong) for w in weights for weak, strong in zip(_WEAK, _STRONG, strict=True)
    ])  # fmt: skip
    buffer = io.BytesIO()
    picture.save(
        buffer, format="PNG", optimize=True, bits=4, transparency=bytes(round(_OPAQUE * w**0.5) for w in weights)
    )
    return buffer.getvalue()


def decode_map(png: bytes) -> np.ndarray:
    """(S, S) uint8 of a stored map."""
    return np.asarray(Image.open(io.BytesIO(png)))


def _page(catalogue: Catalogue) -> str:
    environment = page_environment()
    subject, totals = catalogue.subject, catalogue.totals
    about = (
        f"{totals['alive']:,} of {subject.concepts:,} concepts at {subject.layer} contribute on {totals['images']:,} "
        f"images of split {subject.split}; {totals['concepts_per_image']:.0f} are active in an image, "
        f"{totals['concepts_for_80_percent']:.0f} carry 80 % of the positive contribution to an answer, "
        f"{totals['always_on']:,} are always on and have {100 * totals['always_on_share']:.0f} % of it."
    )
    template = environment.get_template("catalogue.html.j2")
    return template.render(title=_title(catalogue), about=about, layer=subject.layer, version=__version__)


def _title(catalogue: Catalogue) -> str:
    return catalogue.subject.run.partition("?")[0].rstrip("/").rpartition("/")[2]


def _by_concept(table: pa.Table, columns: Sequence[str], num_concepts: int) -> list[list[tuple[Any, ...]]]:
    """Some columns of the rows of every concept, in their order."""
    found: list[list[tuple[Any, ...]]] = [[] for _ in range(num_concepts)]
    values = [table[name].to_pylist() for name in columns]
    for concept, *row in zip(table["concept"].to_pylist(), *values, strict=True):
        found[concept].append(tuple(row))
    return found


def _pairs(keys: Sequence[int], values: Sequence[float]) -> list[list[float | None]]:
    return [[key, _rounded(value)] for key, value in zip(keys, values, strict=True)]


def _short(values: Sequence[float | None]) -> list[float | None]:
    return [_rounded(value) for value in values]


def _rounded(value: float | None) -> float | None:
    """Four digits: more are not shown, and the file is read at once."""
    return None if value is None else float(f"{value:.4g}")


def _script(before: str, content: Any, after: str) -> bytes:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return f"{before}{text}{after}\n".encode()
