"""Batches of stored data sets for training, evaluation and galleries.

Training reads every sample once per epoch over all workers (an incomplete last step is dropped), in an order and with
augmentations that are functions of the configuration only, so that a run resumes at any step with the batches it would
have had. Images are decoded in the training process or in ``data.num_loader_workers`` processes, to uint8 tensors.

Why not Ray Data: its shards are dealt out dynamically, so the content of a step is neither reproducible nor
resumable, and on one or a few machines a plain loader decodes as fast with less to start. Ray Data pays when decoding
needs machines of its own, when data has to spill, or when CPU preprocessing feeds GPU inference. One property to
know before choosing: a step takes its samples from one window of the whole epoch. Workers share them out by where they
are stored and read about twice their share of the files of that window; with ``norm_statistics=local`` or mixed images
they share them out at random, and each reads nearly all files of the window (from S3 as well).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from torch.utils.data import DataLoader

from raytrain_xai.config import RunConfig
from raytrain_xai.data.annotation_order import annotation_budget
from raytrain_xai.data.batches import PlannedBatches, make_cache
from raytrain_xai.data.dataset import DatasetInfo, StoredSplit
from raytrain_xai.data.parquet import ROW_GROUP_ROWS
from raytrain_xai.data.run_data import run_fingerprint, training_rows
from raytrain_xai.data.sampling import (
    BatchPlan,
    WorkerPlan,
    epoch_order,
    evaluation_plan,
    full_plan,
    repeated,
    training_plan,
)
from raytrain_xai.data.teacher_answers import TeacherAnswers
from raytrain_xai.data.transforms import Augmentation
from raytrain_xai.errors import DataError
from raytrain_xai.storage import locate
from raytrain_xai.types import Batch


class Batches(Iterable[Batch]):
    """Planned batches of one worker; iterating again gives the same ones."""

    def __init__(self, dataset: PlannedBatches, plans: WorkerPlan | Sequence[BatchPlan], num_workers: int) -> None:
        self._dataset = dataset
        self.plans = plans
        self._num_workers = num_workers

    def __len__(self) -> int:
        return len(self.plans)

    def __iter__(self) -> Iterator[Batch]:
        num_workers = min(self._num_workers, len(self.plans))
        # fork shares the annotations and is quick; an S3 client does not survive it, so there an epoch starts slower
        start = "fork" if self._dataset.is_local else "spawn"
        loader = DataLoader(
            self._dataset,
            batch_size=None,  # the data set makes whole batches
            sampler=cast("Iterable[int]", self.plans),
            num_workers=num_workers,
            multiprocessing_context=start if num_workers else None,
            generator=torch.Generator(),  # else the loader draws from the global state, which belongs to the training
        )
        yield from loader


class TrainingData:
    """The training split of a run as one worker reads it: annotations and decoded images are kept over epochs."""

    def __init__(self, config: RunConfig, info: DatasetInfo, *, rank: int, world_size: int) -> None:
        """
        Args:
            config: data, seed, batch_size, accumulate, mixing and guidance sections are used.
            info: :func:`raytrain_xai.data.run_data.open_run_data`, as the run was started with.
            rank, world_size: this worker and the number of workers.
        Raises:
            DataError: no training split, or the data set changed since ``info`` was read.
            ConfigError, DataError: see :func:`raytrain_xai.data.annotation_order.annotation_budget`.
        """
        data = config.data
        self._config = config
        self._rank = rank
        self._world_size = world_size
        # the row groups of a window, whose borders may cut one on each side
        stored = StoredSplit(data.path, "train", cached_rows=data.shuffle_window + 2 * ROW_GROUP_ROWS)
        if run_fingerprint(data) != info.fingerprint:
            raise DataError(f"{data.path} is not the data set this run was started with; it was prepared anew")
        size = data.train_size or data.image_size
        cache = make_cache(stored, size) if data.cache_decoded else None
        if cache is not None and data.num_loader_workers:
            cache.share_memory_()
        how = Augmentation(data.augment, data.crop_area, data.policy, data.magnitude, data.erase)
        teacher = _stored_teacher(config, stored)
        self._dataset = PlannedBatches(stored, size, augmentation=how, seed=config.seed, cache=cache, teacher=teacher)
        # images of the budget without box or mask stay unguided
        self._annotated = annotation_budget(stored, config.guidance, config.seed) & stored.annotations.has_box
        self._rows = None if data.shots is None else training_rows(stored, data.shots, config.seed)

    def epoch(self, epoch: int, start_step: int = 0) -> Batches:
        """Batches of one epoch from an optimiser step on, ``accumulate`` of them for each step.

        Raises:
            DataError: the split is smaller than one batch.
        """
        config = self._config
        shard_rows = [shard.rows for shard in self._dataset.stored.shards]
        order = epoch_order(shard_rows, config.data.shuffle_window, config.seed, epoch, self._rows)
        times = None
        if config.data.repeats > 1:
            order, times = repeated(order, config.data.repeats, config.batch_size, config.seed, epoch)
        steps = training_plan(
            order,
            self._annotated,
            batch_size=config.batch_size,
            parts=self._world_size * config.accumulate,
            epoch=epoch,
            repetition=times,
            paired=config.mixing.is_on,
            nearby=config.model.norm_statistics != "local",  # neighbours are alike, and their statistics biased
        )
        own = WorkerPlan(steps, start_step, self._rank, self._world_size)
        return Batches(self._dataset, own, config.data.num_loader_workers)


def _stored_teacher(config: RunConfig, stored: StoredSplit) -> TeacherAnswers | None:
    """What ``distill.cache`` names, with maps where they are compared."""
    distill = config.distill
    if distill is None or distill.cache is None:
        return None
    teacher = TeacherAnswers(locate(distill.cache), with_maps=distill.explanation_weight > 0)
    if teacher.plan.data != stored.info.fingerprint:
        raise DataError(f"distill.cache={distill.cache} is not about the images of {config.data.path}; write another")
    return teacher


def training_batches(
    config: RunConfig, info: DatasetInfo, epoch: int, *, rank: int, world_size: int, start_step: int = 0
) -> Batches:
    """One epoch of :class:`TrainingData`, which see; keep that object instead when training several epochs."""
    return TrainingData(config, info, rank=rank, world_size=world_size).epoch(epoch, start_step)


def evaluation_batches(
    path: str, split: str, image_size: int, batch_size: int, *, shorter: int | None = None, rank: int = 0,
    world_size: int = 1, max_images: int | None = None,
) -> Batches:  # fmt: skip
    """A worker's contiguous share of a split, each sample once, scaled only, all annotated, in stored order.

    Args:
        shorter: see :func:`raytrain_xai.data.transforms.centre`; ``data.eval_resize`` of a run.
        max_images: of all workers together, at even distances in stored order; None: all.
    Raises:
        DataError: no such data set or split.
    """
    stored = StoredSplit(path, split)
    plans = evaluation_plan(len(stored), batch_size, rank=rank, world_size=world_size, max_images=max_images)
    return Batches(PlannedBatches(stored, image_size, shorter=shorter), plans, num_workers=0)


def load_samples(
    path: str, split: str, ids_or_indices: Sequence[str] | Sequence[int], image_size: int, *,
    shorter: int | None = None,
) -> tuple[Batch, list[str]]:  # fmt: skip
    """Some samples in the given order, as evaluation sees them, and their ids.

    Args:
        ids_or_indices: ids as stored, or row numbers (``Batch.index``); one or more.
        shorter: see :func:`evaluation_batches`.
    Raises:
        DataError: no such data set, split or sample.
    """
    stored = StoredSplit(path, split)
    if not ids_or_indices:
        raise DataError("no samples asked for; give one or more ids or row numbers")
    if isinstance(ids_or_indices[0], str):
        indices = stored.find(cast("Sequence[str]", ids_or_indices))
    else:
        indices = np.array(ids_or_indices, dtype=np.int64)
        if indices.min() < 0 or indices.max() >= len(stored):
            raise DataError(f"split {split} of {path} has rows 0 to {len(stored) - 1}, asked for {indices.tolist()}")
    ids = [stored.annotations.ids[int(index)].as_py() for index in indices]
    return PlannedBatches(stored, image_size, shorter=shorter)[full_plan(indices)], ids
