"""Explanations of image files as pictures and JSON in a folder: what ``raytrain-xai explain`` writes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from raytrain_xai.data.decode import decode_rgb
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.explain import Explainer
from raytrain_xai.report.overlay import overlay_heatmap, signed_scale, to_picture
from raytrain_xai.types import ClassExplanation, Explanation

FORMAT_VERSION = 1
INDEX = "explanations.json"
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
_MAX_SIDE = 1024  # pixels of a written picture's longer side
_BATCH = 16  # images explained together


def collect_images(paths: Sequence[str]) -> list[Path]:
    """Files as given and the pictures directly inside folders, each decoded once: a bad one is known before any work.

    Args:
        paths: files, which must be pictures, and folders, of which the files with a picture's suffix are taken in
            order of their names.
    Returns:
        Every file once.
    Raises:
        DataError: a path is missing, a folder holds no picture, or a file is not a whole picture; lists them all.
    """
    files: list[Path] = []
    problems: list[str] = []
    for path in map(Path, paths):
        inside = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        files.extend(inside)
        if not inside:
            problems.append(f"{path}: a folder without pictures ({', '.join(SUFFIXES)})")
    files = list(dict.fromkeys(files))
    for file in files:
        try:
            read_picture(file)
        except DataError as error:
            problems.append(str(error))
    if problems:
        raise DataError(f"nothing was explained, {len(problems)} bad inputs: {'; '.join(problems)}")
    return files


def write_explanations(
    explainer: Explainer, files: Sequence[Path], out: Path, *, names: Sequence[str], top: int
) -> dict[str, Any]:
    """Explain pictures and write one overlay per image and class, B-cos explanations in colour, and an index.

    Args:
        explainer: the network.
        files: pictures that :func:`collect_images` returned.
        out: folder, made when absent; files of the same names are replaced.
        names: classes explained for every image.
        top: besides, the strongest classes of each image.
    Returns:
        The content of ``explanations.json``.
    Raises:
        ConfigError: ``out`` is a file or a folder the pictures are read from, or a class is unknown.
        DataError: a picture cannot be read.
    """
    check_output(out, files)
    out.mkdir(parents=True, exist_ok=True)
    stems = distinct_names([file.stem for file in files])
    class_stems = distinct_names(explainer.classes)
    images: list[dict[str, Any]] = []
    for file, picture, explanation in _explained(explainer, files, names, top):
        stem = stems[len(images)]
        written = [
            _write_class(out, f"{stem}.{class_stems[explained.index]}", explainer.visible(picture), explained)
            for explained in explanation.classes
        ]
        images.append(_image_record(file, picture, explainer.classes, explanation, written))
    index = {
        "format_version": FORMAT_VERSION,
        "model": explainer.network.name,
        "weights": explainer.origin,
        "attribution": {"method": explainer.method, "layer": explainer.layer},
        "image_size": explainer.image_size,
        "classes": list(explainer.classes),
        "images": images,
    }
    (out / INDEX).write_text(json.dumps(index, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return index


def check_output(out: Path, files: Sequence[Path]) -> None:
    """Refuse a folder for results in which they would mix with the pictures.

    Raises:
        ConfigError: ``out`` is a file, or a folder that holds one of ``files``.
    """
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out} is a file; give a folder")
    if any(file.parent.resolve() == out.resolve() for file in files):
        raise ConfigError(f"--out {out} holds the pictures to explain; give another folder")


def distinct_names(texts: Sequence[str]) -> list[str]:
    """File-name stems for arbitrary texts, in order and all different also where case is ignored.

    Letters, digits, ``-`` and ``_`` stay, the rest becomes ``_``; a stem that was taken gets ``-2``, ``-3`` …
    """
    taken: set[str] = set()
    stems: list[str] = []
    for text in texts:
        stem = base = re.sub(r"[^\w-]+", "_", text) or "_"
        number = 1
        while stem.casefold() in taken:
            number += 1
            stem = f"{base}-{number}"
        taken.add(stem.casefold())
        stems.append(stem)
    return stems


def _explained(
    explainer: Explainer, files: Sequence[Path], names: Sequence[str], top: int
) -> Iterator[tuple[Path, Image.Image, Explanation]]:
    for start in range(0, len(files), _BATCH):
        chunk = files[start : start + _BATCH]
        pictures = [read_picture(file) for file in chunk]
        yield from zip(chunk, pictures, explainer(pictures, names=names, top=top), strict=True)


def _write_class(out: Path, stem: str, picture: Image.Image, explained: ClassExplanation) -> dict[str, Any]:
    shown = picture.copy()
    shown.thumbnail((_MAX_SIDE, _MAX_SIDE))
    pixels = torch.from_numpy(np.array(shown)).permute(2, 0, 1)
    overlay = overlay_heatmap(pixels[None], explained.attribution[None])[0]
    to_picture(overlay).save(out / f"{stem}.png")
    rgba = None
    if explained.rgba is not None:
        rgba = f"{stem}.rgba.png"
        to_picture(explained.rgba).resize(shown.size, Image.Resampling.BICUBIC).save(out / rgba)
    return {
        "class": explained.name,
        "logit": explained.logit,
        "probability": explained.probability,
        "positive_share": explained.positive_share,
        "full_colour_at": float(signed_scale(explained.attribution[None])),
        "completeness_residual": explained.completeness_residual,
        "overlay": f"{stem}.png",
        "rgba": rgba,
    }


def _image_record(
    file: Path, picture: Image.Image, classes: Sequence[str], explanation: Explanation, written: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "file": str(file),
        "width": picture.width,
        "height": picture.height,
        "logits": dict(zip(classes, explanation.logits.tolist(), strict=True)),
        "probabilities": dict(zip(classes, explanation.probabilities.tolist(), strict=True)),
        "explanations": written,
    }


def read_picture(file: Path) -> Image.Image:
    """An RGB picture, decoded as the images of data sets are.

    Raises:
        DataError: unreadable, not a picture, truncated or too large; the message names the file.
    """
    try:
        return Image.fromarray(decode_rgb(file.read_bytes()))
    except OSError as error:
        raise DataError(f"{file}: {error.strerror or error}") from error
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
