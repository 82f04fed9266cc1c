"""Consistency of concepts that were found elsewhere, from folders of images and activation maps.

A folder is one concept. It holds for every image ``id_<n>_act_<value>.jpg`` (or .png), with the activation in its
name, and ``id_<n>_actmap.npy`` or ``.pt`` (weights only, nothing in it is executed) with the activation map (h, w) of
any size: what the stand-alone script of FaCT reads (Parchami-Araghi et al., NeurIPS 2025). As there, nothing is
centred and no baseline is taken off: the numbers are raw consistencies, to be compared with each other only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from raytrain_xai.concepts.c2 import ConsistencySums
from raytrain_xai.concepts.weighted_features import Upsampling, weighted_features
from raytrain_xai.data.decode import decode_rgb
from raytrain_xai.data.transforms import centre_image
from raytrain_xai.errors import DataError
from raytrain_xai.features.models import FeatureModel, read_array
from raytrain_xai.models.weight_files import parse_torch
from raytrain_xai.storage import Location, list_names, locate, read_bytes

_IMAGE = re.compile(r"id_(\d+)_act_([0-9]+(?:\.[0-9]+)?)\.(?:jpg|jpeg|png)", re.IGNORECASE)
_IMAGES_AT_ONCE = 32
_SIDE = 224  # to which maps are brought where the features come from files and no image is read


@dataclass(frozen=True)
class FolderScore:
    """One concept.

    Attributes:
        folder: as it was given.
        consistency: in [-1, 1].
        images: how many it was computed from.
    """

    folder: str
    consistency: float
    images: int


@dataclass(frozen=True)
class _Example:
    """An image in which the concept is active: its name without ending, file, map file and activation."""

    stem: str
    image: Location
    map: Location
    activation: float


def score_folder(folder: str, model: FeatureModel, upsampling: Upsampling = "bilinear") -> FolderScore:
    """Consistency of the concept in a folder; images whose map has no positive value are left out.

    Args:
        folder: see the module; local or s3://.
        model: features of the images; ``files:`` models are asked for ``id_<n>``.
        upsampling: see :func:`~raytrain_xai.concepts.weighted_features.weighted_features`.
    Raises:
        DataError: no such images, an activation of 0, a map is missing or damaged, or fewer than two images count.
    """
    examples = _list_examples(folder)
    device = torch.device("cpu")
    sums: ConsistencySums | None = None
    for start in range(0, len(examples), _IMAGES_AT_ONCE):
        part = examples[start : start + _IMAGES_AT_ONCE]
        size = model.image_size
        images = None if size is None else torch.stack([_read_image(example.image, size) for example in part])
        features = model(images, [example.stem for example in part]).to(device)
        maps = torch.stack([_read_map(example.map, size or _SIDE) for example in part])
        means = weighted_features(features, maps, torch.arange(len(part)), upsampling)
        there = means.isfinite().all(dim=1)
        sums = sums or ConsistencySums.empty(1, features.shape[1])
        weight = torch.tensor([example.activation for example in part], dtype=torch.float64)
        concept = torch.zeros(int(there.sum()), dtype=torch.int64)
        if len(concept):
            sums.add(concept, means[there], weight[there])
    number = 0 if sums is None else int(sums.count)
    if sums is None or number < 2:
        raise DataError(f"{folder} has {number} image(s) with a positive map; a consistency needs two or more")
    return FolderScore(folder, float(sums.consistency()), number)


def _list_examples(folder: str) -> list[_Example]:
    at = locate(folder)
    names = list_names(at)
    found: list[_Example] = []
    for name in names:
        match = _IMAGE.fullmatch(name)
        if match is None:
            continue
        stem = f"id_{match[1]}"
        maps = [f"{stem}_actmap{ending}" for ending in (".npy", ".pt") if f"{stem}_actmap{ending}" in names]
        if not maps:
            raise DataError(
                f"{at.child(name).uri} has no map; {stem}_actmap.npy or {stem}_actmap.pt should be beside it"
            )
        if float(match[2]) <= 0:
            raise DataError(f"{at.child(name).uri}: an activation of {match[2]}; images must have a positive one")
        found.append(_Example(stem, at.child(name), at.child(maps[0]), float(match[2])))
    if not found:
        raise DataError(f"{folder} has no image named id_<number>_act_<activation>.jpg; give the folder of one concept")
    return found


def _read_image(at: Location, size: int) -> Tensor:
    """(3, size, size) uint8; squeezed to a square."""
    try:
        pixels = decode_rgb(read_bytes(at))
    except DataError as error:
        raise DataError(f"{at.uri}: {error}") from error
    return centre_image(torch.from_numpy(pixels.copy()).permute(2, 0, 1), size, None)


def _read_map(at: Location, size: int) -> Tensor:
    """(size, size) float32, >= 0."""
    if at.path.endswith(".npy"):
        value = read_array(at, num_dims=2)
    else:
        value = parse_torch(read_bytes(at), at.uri)
        if not isinstance(value, Tensor) or value.dim() != 2 or not bool(value.isfinite().all()):
            raise DataError(f"{at.uri} holds no map; expected one tensor (height, width) of finite numbers")
        value = value.float()
    return interpolate(value.clamp(min=0)[None, None], size=(size, size), mode="bilinear", align_corners=False)[0, 0]
