"""Feature export as a job: a frozen network or encoder turns images into shards of vectors, one pass for all layers.

A shard is a task. What is on the disk is checked against its checksum and kept, so an interrupted export goes on where
it stopped, with any number of workers, and one that is finished is verified and mended. Memory is bounded by a shard.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.data.feature_store import (
    SHARDS,
    FeatureManifest,
    FeaturePlan,
    ShardRecord,
    check_place,
    claim_store,
    finish_store,
    is_finished,
    read_feature_manifest,
    write_shard,
    written_shards,
)
from raytrain_xai.errors import ConfigError, DataError, RunError
from raytrain_xai.features.extraction import VectorExtraction
from raytrain_xai.features.origin import open_origin
from raytrain_xai.features.plan import image_order, largest_per_image
from raytrain_xai.insight_config import InsightRunConfig
from raytrain_xai.runners.job import Launch
from raytrain_xai.runners.tasks import Crew, Result, run_tasks
from raytrain_xai.runners.tracking import Publish
from raytrain_xai.storage import Location, list_names, locate

_SHUFFLE = 7  # tag of this random stream


@dataclass(frozen=True)
class ExportTask:
    """One shard of the taps that lack it."""

    shard: int
    num_images: int
    taps: tuple[str, ...]

    @property
    def key(self) -> str:
        """See :class:`~raytrain_xai.runners.tasks.Task`."""
        return f"{self.shard:05d}"


@dataclass(frozen=True)
class Export:
    """What every worker has to know: the configuration, the plan of each tap, and where its store lies."""

    config: ConceptRunConfig | InsightRunConfig
    plans: Mapping[str, FeaturePlan]
    stores: Mapping[str, Location]
    device: torch.device


def export_features(
    config: ConceptRunConfig | InsightRunConfig, layers: Sequence[str], launch: Launch
) -> dict[str, FeatureManifest]:
    """Make sure that finished stores of some layers lie in ``<features.store>/<tap>/``.

    Args:
        config: of a concept run, with absolute local paths.
        layers: taps of the network, whether or not ``config.layer`` is among them; ``patches`` of an encoder.
        launch: where ``config.workers`` work, and what is told of it: the disk space needed first, then progress.
    Returns:
        tap -> manifest.
    Raises:
        ConfigError: no store is configured, no such tap, or the disk has not enough space.
        CheckpointError: the network cannot be used.
        DataError: the data set cannot be used, or a store holds something else.
        RunError: workers were lost too often, or wrote where this process does not see it; what is written is kept.
    """
    export = _plan_export(config, list(dict.fromkeys(layers)), launch)
    plans, stores = export.plans, export.stores
    written = {tap: written_shards(at, plans[tap]) for tap, at in stores.items()}
    _announce(export, written, launch.publish)
    for tap, at in stores.items():
        claim_store(at, plans[tap])
    tasks = _tasks(plans, written)
    results = run_tasks(partial(make_exporter, export), tasks, _crew(config, launch), launch.publish)
    for task, result in zip(tasks, results, strict=True):
        for tap in task.taps:
            written[tap][task.shard] = ShardRecord(**result[tap])
    changed = {tap for task in tasks for tap in task.taps}
    return {tap: _finish(at, plans[tap], written[tap], tap in changed) for tap, at in stores.items()}


def make_exporter(export: Export) -> Callable[[ExportTask], Result]:
    """What a worker does with a task, its network and data loaded.

    Raises:
        DataError: network or data set are not those of the job.
    """
    origin = open_origin(export.config, list(export.plans), device=export.device)
    if origin.plans != export.plans:
        config = export.config
        raise DataError(
            f"{config.encoder if isinstance(config, InsightRunConfig) else config.network} or its data set is another "
            "one on this node than where the export was started; share one copy"
        )
    return FeatureExporter(export, origin.extract())


class FeatureExporter:
    """Writes shards."""

    def __init__(self, export: Export, extraction: VectorExtraction) -> None:
        self._export = export
        self._extraction = extraction
        self._order = image_order(extraction.shard_rows, self._any_plan.seed, epoch=0)

    def __call__(self, task: ExportTask) -> Result:
        """Write a shard of every tap of the task; returns their records."""
        plans = {tap: self._export.plans[tap] for tap in task.taps}
        counts = {tap: None if plan.keeps_all else plan.per_image for tap, plan in plans.items()}
        rows = self._order[self._any_plan.images_of(task.shard)]
        vectors = {tap: torch.empty(len(rows) * plan.per_image, plan.dim) for tap, plan in plans.items()}
        places = {tap: _places(plan, task.shard, len(rows)) for tap, plan in plans.items()}
        first = 0
        for found in self._extraction.vectors(rows, counts, seed=self._any_plan.seed, epoch=0):
            num_images = len(next(iter(found.values())))
            for tap, plan in plans.items():
                own = slice(first * plan.per_image, (first + num_images) * plan.per_image)
                vectors[tap][places[tap][own]] = found[tap].flatten(0, 1).cpu()
            first += num_images
        stores = self._export.stores
        return {tap: asdict(write_shard(stores[tap], plans[tap], task.shard, vectors.pop(tap))) for tap in task.taps}

    @property
    def _any_plan(self) -> FeaturePlan:
        """Plans of one export differ in what belongs to the tap only."""
        return next(iter(self._export.plans.values()))


def _places(plan: FeaturePlan, shard: int, num_images: int) -> torch.Tensor:
    """Row at which every vector of a shard is stored, image by image: neighbours of an image end up apart."""
    generator = np.random.default_rng([plan.seed, shard, _SHUFFLE])
    return torch.from_numpy(generator.permutation(num_images * plan.per_image))


def _plan_export(config: ConceptRunConfig | InsightRunConfig, taps: Sequence[str], launch: Launch) -> Export:
    if config.features.store is None:
        raise ConfigError("features.store is not set; give a folder or s3:// address for the exported features")
    root, plans = locate(config.features.store), open_origin(config, taps).plans
    for tap, plan in plans.items():
        check_place(root.child(tap), plan)
    return Export(config, plans, {tap: root.child(tap) for tap in taps}, _crew(config, launch).device)


def _tasks(plans: Mapping[str, FeaturePlan], written: Mapping[str, Mapping[int, ShardRecord]]) -> list[ExportTask]:
    plan = next(iter(plans.values()))
    lacking = {shard: tuple(tap for tap in plans if shard not in written[tap]) for shard in range(plan.num_shards)}
    return [ExportTask(shard, len(plan.images_of(shard)), taps) for shard, taps in lacking.items() if taps]


def _announce(export: Export, written: Mapping[str, Mapping[int, ShardRecord]], show: Publish) -> None:
    """Say how much disk space is needed, and refuse when it is not there."""
    for tap, plan in export.plans.items():
        show(_event(
            f"{tap}: {plan.num_vectors:,} vectors of {plan.dim} values, {plan.per_image} of each of "
            f"{plan.num_images:,} images, take {_size(plan.num_bytes)} in {export.stores[tap].uri}; "
            f"{len(written[tap])} of {plan.num_shards} shards are there"
        ))  # fmt: skip
    kept = sum(record.bytes for records in written.values() for record in records.values())
    needed = max(0, sum(plan.num_bytes for plan in export.plans.values()) - kept)
    store = next(iter(export.stores.values()))
    if not store.is_local or needed == 0:
        return
    folder = next(place for place in Path(store.path).parents if place.exists())
    free = shutil.disk_usage(folder).free
    show(_event(f"{_size(needed)} to write, {_size(free)} free"))
    if needed > free:
        fitting = largest_per_image(list(export.plans.values()), free + kept)
        advice = f"set features.per_image to {fitting} or less, or " if fitting else ""
        raise ConfigError(
            f"the features need {_size(needed)} and {folder} has {_size(free)} free; {advice}set features.store to a "
            "larger disk or an s3:// address, or leave it out to train without a store"
        )


def _finish(at: Location, plan: FeaturePlan, shards: Mapping[int, ShardRecord], is_changed: bool) -> FeatureManifest:
    if is_finished(at) and not is_changed:
        return read_feature_manifest(at)
    lost = {record.file for record in shards.values()} - set(list_names(at.child(SHARDS)))
    if lost:
        raise RunError(f"{len(lost)} shards that workers wrote are not in {at.uri} here; use storage all nodes share")
    return finish_store(at, plan, [shards[shard] for shard in range(plan.num_shards)])


def _crew(config: ConceptRunConfig | InsightRunConfig, launch: Launch) -> Crew:
    return Crew(config.workers, config.resources, launch.address, launch.debug)


def _event(message: str) -> dict[str, object]:
    return {"kind": "event", "step": 0, "epoch": 0, "event": "features", "message": message}


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"
