"""The C2-score of trained concepts on a data set, in two passes over blocks of images that any worker may take.

Pass 1 finds in which images each concept is active, and the mean feature vector. Then the images of each concept are
selected. Pass 2 explains the selected (concept, image) pairs, averages the features under each explanation and adds up
the sums of :mod:`raytrain_xai.concepts.c2`.

With ``per_class`` every class is judged by itself: images with that label (all of their labels) select, score and set
the random baseline; the mean feature vector stays that of all images.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from raytrain_xai.concept_runs.model import ConceptModel, load_concepts
from raytrain_xai.concept_runs.sources import (
    Baseline,
    Channels,
    ConceptSource,
    Factors,
    LayerConcepts,
    Seen,
    fit_factors,
    view_at,
)
from raytrain_xai.concepts.c2 import ConsistencySums, Presences, random_maps
from raytrain_xai.concepts.layer import to_vectors
from raytrain_xai.concepts.weighted_features import Upsampling, weighted_features
from raytrain_xai.data.batches import PlannedBatches
from raytrain_xai.data.dataset import StoredSplit, open_dataset
from raytrain_xai.data.loader import load_samples
from raytrain_xai.data.sampling import full_plan
from raytrain_xai.errors import CheckpointError, ConfigError, DataError
from raytrain_xai.evaluation import check_classes
from raytrain_xai.features.models import FeatureModel, load_feature_model

OURS = "ours"
RANDOM = "random"
NUM_RANDOM = 3  # draws of the random concept, as published
_PAIRS_AT_ONCE = 64  # explanations made together
_FITTED_VECTORS = 20_000  # positions of training images that baselines are fitted to
_IMAGES_AT_ONCE = 32  # looked at for them

Part = dict[str, Tensor]
"""Numbers of one block, ``<source>.<name>`` -> tensor: fit for a safetensors file."""


@dataclass(frozen=True)
class ScoreJob:
    """All that decides the scores.

    Attributes:
        run, which: concept run and its checkpoint.
        features: see :func:`~raytrain_xai.features.models.load_feature_model`.
        data, split: images the concepts are judged by.
        upsampling: of the features, see :func:`~raytrain_xai.concepts.weighted_features.weighted_features`.
        baselines: further sets of concepts.
        components: of nmf and pca.
        per_class: see the module.
        seed: of random maps and random starts.
    """

    run: str
    which: str
    features: str
    data: str
    split: str
    upsampling: Upsampling = "bilinear"
    baselines: tuple[Baseline, ...] = ()
    components: int = 64
    per_class: bool = False
    seed: int = 0


class Scorer:
    """What a worker has loaded.

    Args:
        job: the job.
        factors: fitted baselines, see :func:`fit_baselines`.
        device: where to compute.
    Raises:
        ConfigError, CheckpointError: see ``load_concepts`` and ``load_feature_model``.
    """

    def __init__(self, job: ScoreJob, factors: Mapping[str, Factors], device: torch.device) -> None:
        self.job = job
        self.device = device
        self.model: ConceptModel = load_concepts([job.run], which=job.which, device=device)
        self.feature_model: FeatureModel = load_feature_model(job.features, device=device)
        self.num_groups = len(self.model.explainer.classes) if job.per_class else 1
        self.tap = next(iter(self.model.layers))
        self.sources = sources_of(job, self.model, factors)
        stored = StoredSplit(job.data, job.split)
        size, shorter = self.feature_model.image_size, self.model.explainer.shorter
        self._small = PlannedBatches(stored, self._side, shorter=shorter)
        self._large: PlannedBatches | None = None
        if size is not None:
            larger = None if shorter is None else round(shorter * size / self._side)
            self._large = PlannedBatches(stored, size, shorter=larger)

    def find(self, first: int, stop: int) -> Part:
        """Pass 1 over images ``first`` to ``stop``: where concepts are active, and the sum of mean feature vectors.

        Returns:
            Of every source ``concept`` (with per_class: class · K + concept), ``image`` and ``value``, see
            :class:`Presences`; ``features.sum`` (E,) float64 and ``features.count`` ().
        """
        rows = list(range(first, stop))
        images, labels, ids = self._load(rows)
        part: Part = {}
        seen = self._see(images)
        for name, source in self.sources.items():
            activation = seen[name].activation
            row, concept = (activation > 0).nonzero(as_tuple=True)
            value = activation[row, concept].float()
            groups, pair = self._groups(labels, row)
            part[f"{name}.concept"] = (groups * source.num_concepts + concept[pair]).cpu()
            part[f"{name}.image"] = (row[pair] + first).cpu()
            part[f"{name}.value"] = value[pair].cpu()
        maps = self._features(rows, ids)
        flat = torch.ones(len(rows), self._side, self._side, device=self.device)
        means = weighted_features(maps, flat, torch.arange(len(rows), device=self.device), self.job.upsampling)
        part["features.sum"] = means.double().sum(dim=0).cpu()
        part["features.count"] = torch.tensor(len(rows))
        return part

    def weigh(self, first: int, stop: int, chosen: Mapping[str, Presences], mean: Tensor) -> Part:
        """Pass 2 over images ``first`` to ``stop``: sums of the selected pairs among them, and of the random concept.

        Args:
            first, stop: images.
            chosen: source -> selected pairs of all images, as :meth:`find` numbers them.
            mean: (E,) float64, mean feature vector.
        Returns:
            Of every source and ``random`` (draw · groups + group): ``concept`` (n,), the n that occur, and the fields
            of :class:`ConsistencySums`.
        """
        rows = list(range(first, stop))
        images, labels, ids = self._load(rows)
        maps, mean = self._features(rows, ids), mean.to(self.device)
        part: Part = {}
        seen = self._see(images)
        for name, source in self.sources.items():
            pairs = chosen[name]
            inside = (pairs.image >= first) & (pairs.image < stop)
            key, image, value = pairs.concept[inside], pairs.image[inside] - first, pairs.value[inside]
            key, image, value = key.to(self.device), image.to(self.device), value.to(self.device)
            means = self._explained(seen[name], maps, image, key % source.num_concepts)
            part |= _summed(name, key, means - mean, value)
        image = torch.tensor(rows, device=self.device)
        everyone = torch.arange(len(rows), device=self.device)
        groups, pair = self._groups(labels, everyone)
        keys: list[Tensor] = []
        centred: list[Tensor] = []
        weights: list[Tensor] = []
        for draw in range(NUM_RANDOM):
            noise = random_maps(image, (self._side, self._side), self.job.seed * NUM_RANDOM + draw)
            means = weighted_features(maps, noise, everyone, self.job.upsampling).double() - mean
            keys.append(groups + draw * self.num_groups)
            centred.append(means[pair])
            weights.append(noise.sum(dim=(1, 2))[pair])
        part |= _summed(RANDOM, torch.cat(keys), torch.cat(centred), torch.cat(weights))
        return part

    @property
    def _side(self) -> int:
        """Of the network's input, and so of the explanations."""
        return self.model.explainer.image_size

    def _load(self, rows: Sequence[int]) -> tuple[Tensor, Tensor, list[str]]:
        indices = np.array(rows, dtype=np.int64)
        batch = self._small[full_plan(indices)]
        ids = [self._small.stored.annotations.ids[row].as_py() for row in rows]
        return batch.images.to(self.device), batch.labels.to(self.device), ids

    def _features(self, rows: Sequence[int], ids: Sequence[str]) -> Tensor:
        """Of the same view of the images, at the size of the feature model."""
        large = self._large
        images = None if large is None else large[full_plan(np.array(rows, dtype=np.int64))].images
        features = self.feature_model(images, ids)
        _check_finite(features, self.feature_model.name)
        return features

    @torch.no_grad()
    def _see(self, images: Tensor) -> dict[str, Seen]:
        view = view_at(self.model.network, self.tap, images)
        _check_finite(view.features, f"{self.model.network.name} at {self.tap}")
        return {name: source(view) for name, source in self.sources.items()}

    @torch.no_grad()
    def _explained(self, seen: Seen, features: Tensor, image: Tensor, concept: Tensor) -> Tensor:
        """Mean features under the explanation of each pair (a pair may occur in several classes): (n, E) float64."""
        pairs, inverse = torch.stack([image, concept]).unique(dim=1, return_inverse=True)
        means = [
            weighted_features(features, seen.maps(concepts, rows), rows, self.job.upsampling).double()
            for rows, concepts in (part.unbind(0) for part in pairs.split(_PAIRS_AT_ONCE, dim=1))
            if len(rows)
        ]
        return torch.cat([features.new_zeros(0, features.shape[1], dtype=torch.float64), *means])[inverse]

    def _groups(self, labels: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Classes of the images of pairs, and which pair each belongs to; one group 0 without per_class."""
        if not self.job.per_class:
            return torch.zeros_like(row), torch.arange(len(row), device=row.device)
        pair, group = (labels[row] > 0).nonzero(as_tuple=True)
        return group, pair


def sources_of(job: ScoreJob, model: ConceptModel, factors: Mapping[str, Factors]) -> dict[str, ConceptSource]:
    """Our concepts and the baselines of a job by name, ours first."""
    layer = next(iter(model.layers.values()))
    sources: dict[str, ConceptSource] = {OURS: LayerConcepts(layer)}
    for name in job.baselines:
        sources[name] = Channels(layer.sae.dim) if name == "channels" else factors[name]
    return sources


def check_job(job: ScoreJob, model: ConceptModel) -> int:
    """Check that the data fits, before anything runs.

    Returns:
        Number of images of the split.
    Raises:
        DataError: no such data set or split, or with per_class other classes than those of the network.
        ConfigError: a baseline is named twice.
    """
    info = open_dataset(job.data)
    if not info.splits.get(job.split):
        known = ", ".join(name for name, count in info.splits.items() if count)
        raise DataError(f"{job.data} has no images in split {job.split!r}; its splits are {known}")
    if job.per_class:
        check_classes(job.run, model.explainer.classes, job.data, info.classes)
    if len(set(job.baselines)) < len(job.baselines):
        raise ConfigError(f"a baseline is named twice: {', '.join(job.baselines)}")
    return info.splits[job.split]


@torch.no_grad()
def fit_baselines(job: ScoreJob, model: ConceptModel, device: torch.device) -> dict[str, Factors]:
    """Fit the baselines that need it to training images of the data set the concepts were trained on.

    Images are taken at equal distances from its train split, about 20,000 positions of them.

    Raises:
        DataError: that data set is gone.
        ConfigError: see :func:`~raytrain_xai.concept_runs.sources.fit_factors`.
    """
    wanted: list[Literal["nmf", "pca"]] = [name for name in job.baselines if name != "channels"]
    if not wanted:
        return {}
    available = open_dataset(model.data).splits.get("train", 0)
    if not available:
        raise DataError(f"{model.data}, which the concepts were trained on, has no train split to fit {wanted[0]} to")
    tap, explainer = next(iter(model.layers)), model.explainer

    def look(rows: Sequence[int]) -> Tensor:
        batch, _ = load_samples(model.data, "train", rows, explainer.image_size, shorter=explainer.shorter)
        return to_vectors(view_at(model.network, tap, batch.images.to(device)).features)

    per_image = look([0]).shape[1]
    number = min(available, math.ceil(_FITTED_VECTORS / per_image))
    rows = torch.linspace(0, available - 1, number, dtype=torch.float64).round().long()
    vectors = torch.cat([look(part.tolist()).flatten(0, 1).cpu() for part in rows.split(_IMAGES_AT_ONCE)])
    _check_finite(vectors, f"{model.network.name} at {tap}")
    return {kind: fit_factors(kind, vectors, job.components, seed=job.seed) for kind in wanted}


def _check_finite(features: Tensor, owner: str) -> None:
    if not bool(features.isfinite().all()):
        raise CheckpointError(f"{owner} gives features that are not finite; its weights are broken")


def _summed(name: str, key: Tensor, features: Tensor, weight: Tensor) -> Part:
    """Sums of a block over the concepts that occur in it; explanations without positive part are left out."""
    there = features.isfinite().all(dim=1)
    concept, local = key[there].unique(return_inverse=True)
    sums = ConsistencySums.empty(len(concept), features.shape[1], features.device)
    if len(concept):
        sums.add(local, features[there], weight[there])
    named = zip(("vector", "own", "square", "weight", "count"), sums.parts(), strict=True)
    return {f"{name}.concept": concept.cpu()} | {f"{name}.{field}": value.cpu() for field, value in named}
