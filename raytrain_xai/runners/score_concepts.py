"""Scoring concepts with a crew of workers: two passes of tasks, whose parts stay in a folder until both are done."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from raytrain_xai import __version__
from raytrain_xai.concept_runs.model import ConceptModel, load_concepts, network_fingerprint
from raytrain_xai.concept_runs.scores import Scores, SourceScore
from raytrain_xai.concept_runs.scoring import (
    NUM_RANDOM,
    RANDOM,
    Part,
    ScoreJob,
    Scorer,
    check_job,
    fit_baselines,
    sources_of,
)
from raytrain_xai.concept_runs.sources import Factors
from raytrain_xai.concepts.c2 import ConsistencySums, Presences, StrongestImages
from raytrain_xai.data.dataset import open_dataset
from raytrain_xai.errors import DataError
from raytrain_xai.features.models import load_feature_model, split_address
from raytrain_xai.runners.cluster import connected
from raytrain_xai.runners.preflight import absolute
from raytrain_xai.runners.tasks import Crew, run_tasks
from raytrain_xai.runners.tracking import Publish
from raytrain_xai.storage import Location, delete_tree, locate, read_bytes, write_bytes

_BLOCK = 64  # images of a task
_SELECTION, _MEAN = "selection.safetensors", "features.mean"


@dataclass(frozen=True)
class Block:
    """Some consecutive images in one of the passes, ``find`` and ``weigh``."""

    phase: str
    first: int
    stop: int

    @property
    def key(self) -> str:
        """Name of the task."""
        return f"{self.phase}-{self.first:08d}"

    @property
    def num_images(self) -> int:
        """Size of the task."""
        return self.stop - self.first


@dataclass(frozen=True)
class _Run:
    """A job with all that was prepared for it.

    Attributes:
        job: the job.
        num_concepts: source -> number of concepts.
        num_groups: classes for per_class, else 1.
        num_images: of the split.
        parts: folder of the parts.
    """

    job: ScoreJob
    num_concepts: Mapping[str, int]
    num_groups: int
    num_images: int
    parts: Location

    def blocks(self, phase: str) -> list[Block]:
        return [
            Block(phase, first, min(first + _BLOCK, self.num_images)) for first in range(0, self.num_images, _BLOCK)
        ]

    def read(self, phase: str) -> Iterator[Part]:
        """Parts of a pass, one after the other."""
        return (_read(self.parts.child(f"{block.key}.safetensors")) for block in self.blocks(phase))


def score_concepts(job: ScoreJob, crew: Crew, folder: Location, show: Publish) -> Scores:
    """Score concepts and baselines; started again with the same ``folder``, an interrupted job goes on.

    Args:
        job: what to score.
        crew: who does it.
        folder: for the parts, in a folder of its own that is removed at the end; every worker must reach it.
        show: see :func:`~raytrain_xai.runners.tasks.run_tasks`; images are counted in both passes, the time
            left is that of the pass.
    Raises:
        ConfigError, CheckpointError, DataError: see ``check_job``, ``load_concepts``, ``fit_baselines`` and
            ``load_feature_model``; all before anything is written.
        RunError: see ``run_tasks``.
    """
    before, address, after = split_address(job.features)
    features = f"{before}{absolute(address) if address else ''}{after}"
    job = replace(job, run=absolute(job.run), data=absolute(job.data), features=features)  # workers start elsewhere
    model = load_concepts([job.run], which=job.which)
    num_images = check_job(job, model)
    load_feature_model(job.features)  # what is wrong with it is said here, and it is downloaded once
    factors = fit_baselines(job, model, torch.device("cpu"))
    numbers = {name: source.num_concepts for name, source in sources_of(job, model, factors).items()}
    groups = model.explainer.classes if job.per_class else ()
    parts = locate(absolute(folder.uri)).child(f"parts-{_digest(job, model)}")
    run = _Run(job, numbers, max(len(groups), 1), num_images, parts)
    with connected(crew, crew.address, debug=crew.debug) if crew.workers else contextlib.nullcontext():
        make: Callable[[], _Worker] = partial(_Worker, job, factors, crew.device, parts)
        run_tasks(make, run.blocks("find"), crew, _half(show, 0), ledger=parts.child("done"))
        write_bytes(parts.child(_SELECTION), save(_select(run)))
        run_tasks(make, run.blocks("weigh"), crew, _half(show, num_images), ledger=parts.child("done"))
    sources, random = _collect(run)
    delete_tree(parts)
    return Scores(sources, random, groups, num_images, next(iter(model.names.values())))


def _half(show: Publish, done: int) -> Publish:
    """Progress of one of two passes as that of both; ``done``: images before it."""

    def both(record: dict[str, Any]) -> None:
        is_count = record["kind"] == "tasks"
        show({**record, "done": record["done"] + done, "total": 2 * record["total"]} if is_count else record)

    return both


class _Worker:
    """Does blocks of both passes and writes their parts."""

    def __init__(self, job: ScoreJob, factors: Mapping[str, Factors], device: torch.device, parts: Location) -> None:
        self._scorer = Scorer(job, factors, device)
        self._parts = parts
        self._selection: tuple[dict[str, Presences], Tensor] | None = None

    def __call__(self, block: Block) -> dict[str, int]:
        if block.phase == "find":
            part = self._scorer.find(block.first, block.stop)
        else:
            if self._selection is None:
                self._selection = self._read_selection()
            part = self._scorer.weigh(block.first, block.stop, *self._selection)
        write_bytes(self._parts.child(f"{block.key}.safetensors"), save(part))
        return {}

    def _read_selection(self) -> tuple[dict[str, Presences], Tensor]:
        selection = _read(self._parts.child(_SELECTION))
        return {name: _presences(selection, name) for name in self._scorer.sources}, selection[_MEAN]


def _select(run: _Run) -> Part:
    """The images each concept is judged by, and the mean feature vector."""
    total, number = torch.zeros(1, dtype=torch.float64), 0
    strongest = {
        name: StrongestImages(run.num_groups * number, run.num_images) for name, number in run.num_concepts.items()
    }
    for part in run.read("find"):
        total = total + part["features.sum"]
        number += int(part["features.count"])
        for name, images in strongest.items():
            images.add(_presences(part, name))
    selection: Part = {_MEAN: total / number}
    for name, images in strongest.items():
        chosen = images.select()
        selection |= {f"{name}.{field}": getattr(chosen, field) for field in ("concept", "image", "value")}
    return selection


def _collect(run: _Run) -> tuple[tuple[SourceScore, ...], Tensor]:
    """Scores of all sources and of the random concept, from the parts of the second pass."""
    selection = _read(run.parts.child(_SELECTION))
    dim = len(selection[_MEAN])
    known = {name: selection[f"{name}.concept"].unique() for name in run.num_concepts}
    known[RANDOM] = torch.arange(NUM_RANDOM * run.num_groups)
    sums = {name: ConsistencySums.empty(len(keys), dim) for name, keys in known.items()}
    for part in run.read("weigh"):
        for name, keys in known.items():
            sums[name].merge(_sums(part, name), torch.searchsorted(keys, part[f"{name}.concept"]))
    random = sums[RANDOM].consistency().view(NUM_RANDOM, run.num_groups)
    baseline = random.mean(dim=0)
    scores: list[SourceScore] = []
    for name, number in run.num_concepts.items():
        scored = sums[name].count >= 2
        key = known[name][scored]
        scores.append(
            SourceScore(
                name, number, key % number, key // number, sums[name].consistency()[scored], sums[name].count[scored],
                baseline,
            )
        )  # fmt: skip
    return tuple(scores), random


def _presences(part: Part, name: str) -> Presences:
    return Presences(part[f"{name}.concept"], part[f"{name}.image"], part[f"{name}.value"])


def _sums(part: Part, name: str) -> ConsistencySums:
    return ConsistencySums(*(part[f"{name}.{field}"] for field in ("vector", "own", "square", "weight", "count")))


def _read(at: Location) -> Part:
    from safetensors import SafetensorError

    try:
        return load(read_bytes(at))
    except SafetensorError as error:
        raise DataError(f"{at.uri} is truncated ({error}); delete its folder and start again") from error


def _digest(job: ScoreJob, model: ConceptModel) -> str:
    """Changes with all that decides the parts."""
    layer = next(iter(model.layers.values()))
    about = [
        asdict(job), open_dataset(job.data).fingerprint, network_fingerprint(model.network), network_fingerprint(layer),
        _BLOCK, __version__,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:12]
