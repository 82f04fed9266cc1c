"""Composed scenes: photographic cut-outs pasted on photographs, with exact boxes and masks, from a seed.

``scenes-birds``: one land or water bird on land or water, as Waterbirds (Sagawa et al., ICLR 2020): in train and val
the background matches the bird in a given share of the images, in test the four groups are equal in size.
``scenes-multi``: one to four objects of eight classes on any background, multi-label.

Everything about a scene is decided here, without pixels, as a frozen :class:`Scene`; ``compose.py`` draws it. A scene
is a function of the options and its number, so the number of processes does not change it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from raytrain_xai.data.compose import Placement, Scene
from raytrain_xai.data.records import SPLITS, Entry, Option, Source
from raytrain_xai.data.tables import read_table
from raytrain_xai.data.waterbirds import CLASSES, GROUPS
from raytrain_xai.errors import DataError

T = TypeVar("T")
Extent = tuple[float, float, float, float]  # x0, y0, x1, y1 as shares of the image side

_HABITATS = ("land", "water")
_UNSEEN_SHARE = 0.3  # of species and of backgrounds, kept for the test split when asked
_HOLLOW = ("sedan_police", "sedan_police_mirror")  # embedded cut-outs whose white body is transparent
_MAX_OVERLAP = 0.1  # of the smaller of two boxes, so that every object stays visible
_PLACEMENT_TRIES = 30


@dataclass(frozen=True)
class SceneOptions:
    """What the user may choose.

    Attributes:
        num_train: training images; val gets a quarter and test half of that.
        size: side of the square images, pixels.
        seed: of all choices.
        correlation: share of train and val birds on the background of their habitat (scenes-birds).
        unseen: test uses species and backgrounds that train and val do not show.
    """

    num_train: int = 800
    size: int = 128
    seed: int = 0
    correlation: float = 0.95
    unseen: bool = False

    def count(self, split: str) -> int:
        """Images of a split."""
        return {"train": self.num_train, "val": self.num_train // 4, "test": self.num_train // 2}[split]


@dataclass(frozen=True)
class CutOut:
    """One object on a transparent ground, with its class, habitat (birds) and size in pixels."""

    path: Path
    label: str
    habitat: str
    width: int
    height: int


def embedded_scenes() -> Path:
    """Folder of the cut-outs and backgrounds that come with the package."""
    return Path(__file__).with_name("assets") / "scenes"


def read_scenes_birds(src: str | None, options: SceneOptions) -> Source:
    """Plan the bird scenes.

    Raises:
        DataError: ``src`` lacks the tables or a habitat, or an option is out of range.
    """
    cutouts, backgrounds = _read_assets(src, options)
    birds = {h: [c for c in cutouts if c.label == "bird" and c.habitat == h] for h in _HABITATS}
    splits = {split: _bird_entries(split, birds, backgrounds, options) for split in SPLITS}
    return Source("scenes-birds", "multiclass", CLASSES, GROUPS, splits, _as_stored(options, birds=True))


def read_scenes_multi(src: str | None, options: SceneOptions) -> Source:
    """Plan the scenes with several objects; see :func:`read_scenes_birds`."""
    cutouts, backgrounds = _read_assets(src, options)
    classes = tuple(sorted({c.label for c in cutouts}))
    by_class = [[c for c in cutouts if c.label == name] for name in classes]
    pool = [b for habitat in _HABITATS for b in backgrounds[habitat]]
    splits: dict[str, list[Entry]] = {}
    for split in SPLITS:
        objects = [_for_split(group, split, options) for group in by_class]
        grounds = _for_split(pool, split, options)
        splits[split] = [_multi_entry(split, i, objects, grounds, options) for i in range(options.count(split))]
    return Source("scenes-multi", "multilabel", classes, None, splits, _as_stored(options, birds=False))


def _read_assets(src: str | None, options: SceneOptions) -> tuple[list[CutOut], dict[str, list[Path]]]:
    if options.num_train < 8:
        raise DataError(f"{options.num_train} training images, expected 8 or more so that every split has some")
    if not 0 <= options.correlation <= 1 or not 32 <= options.size <= 1024:
        raise DataError(f"correlation {options.correlation} or size {options.size} outside [0, 1] and [32, 1024]")
    root = embedded_scenes() if src is None else Path(src)
    if not (root / "cutouts.csv").is_file() or not (root / "backgrounds.csv").is_file():
        raise DataError(f"no cutouts.csv and backgrounds.csv in {root}; leave SRC out to use the embedded ones")
    rows = read_table(root / "cutouts.csv", ("path", "class", "name", "habitat", "width", "height"))
    cutouts = [
        CutOut(root / r["path"], r["class"], r["habitat"], int(r["width"]), int(r["height"]))
        for r in rows
        if r["name"] not in _HOLLOW
    ]
    grounds = read_table(root / "backgrounds.csv", ("path", "habitat"))
    backgrounds = {h: [root / r["path"] for r in grounds if r["habitat"] == h] for h in _HABITATS}
    for habitat in _HABITATS:
        birds = sum(c.label == "bird" and c.habitat == habitat for c in cutouts)
        if birds < 2 or len(backgrounds[habitat]) < 2:
            raise DataError(f"{root}: fewer than two birds or backgrounds of habitat {habitat}")
    return cutouts, backgrounds


def _as_stored(options: SceneOptions, *, birds: bool) -> dict[str, Option]:
    stored: dict[str, Option] = {
        "images": options.num_train,
        "size": options.size,
        "seed": options.seed,
        "unseen": options.unseen,
    }
    return stored | ({"correlation": options.correlation} if birds else {})


def _for_split(items: Sequence[T], split: str, options: SceneOptions) -> list[T]:
    """All items, or with ``unseen`` the part that belongs to the split: at least one each, drawn by the seed."""
    if not options.unseen:
        return list(items)
    order = np.random.default_rng([options.seed, len(items)]).permutation(len(items))
    num_test = max(1, round(_UNSEEN_SHARE * len(items)))
    chosen = order[:num_test] if split == "test" else order[num_test:]
    return [items[i] for i in sorted(chosen)]


def _bird_entries(
    split: str, birds: dict[str, list[CutOut]], backgrounds: dict[str, list[Path]], options: SceneOptions
) -> list[Entry]:
    species = [_for_split(birds[h], split, options) for h in _HABITATS]
    grounds = [_for_split(backgrounds[h], split, options) for h in _HABITATS]
    groups = _bird_groups(split, options)
    entries: list[Entry] = []
    for i, group in enumerate(groups):
        label, place = divmod(int(group), 2)
        generator = _generator(options, split, i)
        bird = _pick(generator, species[label])
        length = generator.uniform(0.34, 0.60)
        placement = _place(generator, bird, label, length)
        scene = _scene(generator, _pick(generator, grounds[place]), options.size, (placement,))
        entries.append(Entry(f"{split}-{i:06d}", str(bird.path), (label,), scene, group=int(group)))
    return entries


def _bird_groups(split: str, options: SceneOptions) -> np.ndarray:
    """(n,) group (2 * bird + place) of each scene: exact shares in random order, classes of equal size."""
    labels = np.arange(options.count(split)) % 2
    match = np.zeros(len(labels), dtype=bool)
    for label in (0, 1):
        members = np.flatnonzero(labels == label)
        share = 0.5 if split == "test" else options.correlation
        match[members[: round(share * len(members))]] = True
    groups = 2 * labels + np.where(match, labels, 1 - labels)
    return np.random.default_rng([options.seed, SPLITS.index(split)]).permutation(groups)


def _multi_entry(split: str, i: int, objects: list[list[CutOut]], grounds: list[Path], options: SceneOptions) -> Entry:
    generator = _generator(options, split, i)
    placements: list[Placement] = []
    taken: list[Extent] = []
    for _ in range(generator.integers(1, 5)):
        label = int(generator.integers(len(objects)))
        cutout = _pick(generator, objects[label])
        for attempt in range(_PLACEMENT_TRIES):  # smaller and smaller; an object that finds no place is left out
            length = generator.uniform(0.28, 0.50) * 0.98**attempt
            placement = _place(generator, cutout, label, length)
            extent = _extent(cutout, placement)
            if all(_overlap(extent, other) <= _MAX_OVERLAP for other in taken):
                placements.append(placement)
                taken.append(extent)
                break
    labels = tuple(sorted({p.label for p in placements}))
    scene = _scene(generator, _pick(generator, grounds), options.size, tuple(placements))
    return Entry(f"{split}-{i:06d}", str(scene.background), labels, scene)


def _place(generator: np.random.Generator, cutout: CutOut, label: int, length: float) -> Placement:
    """Anywhere, so that the turned cut-out lies inside the image."""
    angle = generator.uniform(-12, 12)
    width, height = _turned_size(cutout, length, angle)
    x = generator.uniform(width / 2, 1 - width / 2)
    y = generator.uniform(height / 2, 1 - height / 2)
    mirrored = bool(generator.integers(2))
    return Placement(cutout.path, label, x, y, length, angle, mirrored, generator.uniform(0.85, 1.15))


def _scene(generator: np.random.Generator, background: Path, size: int, objects: tuple[Placement, ...]) -> Scene:
    crop = (generator.uniform(0.6, 1.0), generator.uniform(), generator.uniform())
    mirrored = bool(generator.integers(2))
    return Scene(background, crop, mirrored, generator.uniform(0.8, 1.15), size, objects)


def _turned_size(cutout: CutOut, length: float, angle: float) -> tuple[float, float]:
    """Width and height of the turned frame, as shares of the image side."""
    scale = length / max(cutout.width, cutout.height)
    width, height = scale * cutout.width, scale * cutout.height
    cos, sin = math.cos(math.radians(angle)), abs(math.sin(math.radians(angle)))
    return width * cos + height * sin, width * sin + height * cos


def _extent(cutout: CutOut, placement: Placement) -> Extent:
    width, height = _turned_size(cutout, placement.length, placement.angle)
    x, y = placement.x, placement.y
    return x - width / 2, y - height / 2, x + width / 2, y + height / 2


def _overlap(a: Extent, b: Extent) -> float:
    """Area of the intersection as a share of the smaller box."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)]
    return max(width, 0) * max(height, 0) / min(areas)


def _generator(options: SceneOptions, split: str, i: int) -> np.random.Generator:
    return np.random.default_rng([options.seed, SPLITS.index(split), i])


def _pick(generator: np.random.Generator, items: Sequence[T]) -> T:
    return items[int(generator.integers(len(items)))]
