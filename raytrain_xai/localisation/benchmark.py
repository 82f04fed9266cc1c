"""The localisation benchmark: every model plays the grid pointing game on images it classifies well."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain_xai.data.loader import evaluation_batches, load_samples
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.localisation.grid_pointing import Grids, candidates, choose_grids, own_tile_shares, tile
from raytrain_xai.localisation.methods import Method, attribution_maps, check_method
from raytrain_xai.localisation.subject import Subject
from raytrain_xai.models.network import Network

IMAGES_AT_ONCE = 32  # images classified, or tiles explained, together
NUM_EXAMPLES = 3  # mosaics per model whose maps are kept for the page

Progress = Callable[[int], None]
"""Called with the number of mosaics just done."""


@dataclass(frozen=True)
class Protocol:
    """How the game is played.

    Attributes:
        data, split: where the images come from.
        side: tiles along a side, 2 or 3; n = side * side.
        max_grids: mosaics per model at most; 500 and 250 are published values.
        min_probability: see :func:`raytrain_xai.localisation.grid_pointing.candidates`.
        tile_size: side of a tile in pixels; None: that of the images the network was trained on.
        smooth: see :func:`raytrain_xai.localisation.grid_pointing.tile_shares`.
        seed: of the classes of the mosaics.
    """

    data: str
    split: str
    side: int = 2
    max_grids: int = 500
    min_probability: float = 0.5
    tile_size: int | None = None
    smooth: int = 0
    seed: int = 42

    @property
    def num_tiles(self) -> int:
        """n."""
        return self.side * self.side


@dataclass(frozen=True)
class Plan:
    """The methods that fit a model, and why others do not: ``NAME@LAYER`` -> reason."""

    methods: list[Method]
    skipped: dict[str, str]


@dataclass(frozen=True)
class Drawn:
    """The mosaics of a model, and the numbers of images of the split with one label and of those fit to be a tile."""

    grids: Grids
    num_single: int
    num_usable: int


@dataclass(frozen=True)
class Score:
    """One method on one model.

    Attributes:
        method: the method.
        shares: (G, n) float32 on the CPU, share of the positive attribution in the own tile.
        empty_maps: share of the maps without positive part, which score 0.
        seconds_per_map: wall time of the explanation, decoding and scoring left out.
        examples: (E, H, W) float32, map of the example mosaic e for its tile e modulo n.
    """

    method: Method
    shares: Tensor
    empty_maps: float
    seconds_per_map: float
    examples: Tensor


@dataclass(frozen=True)
class Result:
    """One model.

    Attributes:
        label: of the model.
        drawn: the mosaics it was tested with.
        ids: (G, n) names of the images.
        tile_size: side of a tile, pixels.
        mosaics: (E, 3, H, W) uint8, the first mosaics.
        scores: one per method.
    """

    label: str
    drawn: Drawn
    ids: list[list[str]]
    tile_size: int
    mosaics: Tensor
    scores: list[Score]


def plan_methods(subjects: Sequence[Subject], methods: Sequence[Method]) -> list[Plan]:
    """What is measured on every model; nothing has run then.

    Without methods a model is measured with its own attribution.

    Raises:
        ConfigError: a model has no method left, or a method fits no model.
    """
    plans: list[Plan] = []
    for subject in subjects:
        fitting: list[Method] = []
        skipped: dict[str, str] = {}
        for method in dict.fromkeys(methods or [subject.own_method]):
            try:
                check_method(subject.network, method)
            except ConfigError as error:
                skipped[str(method)] = str(error)
            else:
                fitting.append(method)
        if not fitting:
            raise ConfigError(f"no method fits {subject.label}: {'; '.join(skipped.values())}")
        plans.append(Plan(fitting, skipped))
    for method in methods:
        if all(method not in plan.methods for plan in plans):
            raise ConfigError(f"{method} fits no model: {plans[0].skipped[str(method)]}")
    return plans


def draw_mosaics(subject: Subject, protocol: Protocol) -> Drawn:
    """Classify the images of the split that have exactly one label, and choose mosaics among them.

    Raises:
        DataError: no such data set or split, no image has exactly one label, or too few classes have usable images.
    """
    device = next(subject.network.parameters()).device
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.inference_mode():
        for batch in evaluation_batches(
            protocol.data, protocol.split, subject.image_size, IMAGES_AT_ONCE, shorter=subject.shorter
        ):
            is_single = batch.labels.sum(dim=1) == 1
            if bool(is_single.any()):
                logits = subject.network(batch.images[is_single].to(device))
                parts.append((batch.index[is_single], batch.labels[is_single].argmax(dim=1), logits.cpu()))
    if not parts:
        raise DataError(f"no image in split {protocol.split} of {protocol.data} has exactly one label; take other data")
    index, label, logits = (torch.cat(column) for column in zip(*parts, strict=True))
    found = candidates(index, label, logits, protocol.min_probability)
    grids = choose_grids(found, protocol.num_tiles, max_grids=protocol.max_grids, seed=protocol.seed)
    return Drawn(grids, num_single=len(found.index), num_usable=int(found.is_usable.sum()))


def play(subject: Subject, drawn: Drawn, methods: Sequence[Method], protocol: Protocol, progress: Progress) -> Result:
    """Score methods on the mosaics of one model; every method sees the same mosaics.

    Args:
        subject: the model.
        drawn: its mosaics, see :func:`draw_mosaics`.
        methods: those that fit it, see :func:`plan_methods`.
        protocol: how the game is played.
        progress: called after every batch of mosaics.
    """
    grids, num_tiles = drawn.grids, protocol.num_tiles
    tile_size = protocol.tile_size or subject.image_size
    shorter = None if subject.shorter is None else round(subject.shorter * tile_size / subject.image_size)
    device = next(subject.network.parameters()).device
    at_once = max(1, IMAGES_AT_ONCE // num_tiles)
    tallies = [_Tally(method, [], [], [], 0.0) for method in methods]
    ids: list[list[str]] = []
    shown: list[Tensor] = []
    for start in range(0, len(grids.images), at_once):
        images = grids.images[start : start + at_once]
        rows = images.flatten().tolist()
        batch, names = load_samples(protocol.data, protocol.split, rows, tile_size, shorter=shorter)
        mosaics = tile(batch.images.unflatten(0, images.shape)).to(device)
        targets = torch.from_numpy(grids.targets[start : start + at_once]).to(device)
        ids += [names[row : row + num_tiles] for row in range(0, len(names), num_tiles)]
        for tally in tallies:
            tally.add(subject.network, mosaics, targets, start, protocol.smooth)
        if start < NUM_EXAMPLES:
            shown.append(mosaics[: NUM_EXAMPLES - start].cpu())
        progress(len(images))
    return Result(subject.label, drawn, ids, tile_size, torch.cat(shown), [tally.score() for tally in tallies])


@dataclass
class _Tally:
    """Scores of one method while the mosaics go by."""

    method: Method
    shares: list[Tensor]
    empty: list[Tensor]
    examples: list[Tensor]
    seconds: float

    def add(self, network: Network, mosaics: Tensor, targets: Tensor, start: int, smooth: int) -> None:
        began = time.perf_counter()
        maps = attribution_maps(network, self.method, mosaics, targets)
        if maps.is_cuda:
            torch.cuda.synchronize(maps.device)  # else the time is that of the launches
        self.seconds += time.perf_counter() - began
        self.shares.append(own_tile_shares(maps, smooth=smooth).float().cpu())
        self.empty.append((maps <= 0).flatten(2).all(dim=2).cpu())
        wanted = range(start, min(start + len(maps), NUM_EXAMPLES))
        self.examples += [maps[number - start, number % maps.shape[1]].float().cpu() for number in wanted]

    def score(self) -> Score:
        shares, empty = torch.cat(self.shares), torch.cat(self.empty)
        per_map = self.seconds / shares.numel()
        return Score(self.method, shares, float(empty.float().mean()), per_map, torch.stack(self.examples))
