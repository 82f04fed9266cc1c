"""Write a data set in the stored form: checked, in parallel, one atomic shard at a time.

A shard that is already there and was planned from the same entries and options is kept, so an interrupted run continues
where it stopped. The manifest is written last; without it the data set does not exist for readers.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any

from raytrain_xai.data.decode import decode_rgb, encode_mask
from raytrain_xai.data.manifest import (
    BadRecord,
    Manifest,
    ShardInfo,
    claim_folder,
    remove_other_shards,
    write_manifest,
)
from raytrain_xai.data.parquet import StoredRow, describe_shard, encode_shard, read_shard_info, schema
from raytrain_xai.data.records import SPLITS, VOID, Box, Content, Entry, Relabelled, Source
from raytrain_xai.errors import DataError
from raytrain_xai.storage import Location, exists, locate, write_bytes

Progress = Callable[[int], None]  # images done since the last call
_EDGE = 1.0  # a box may reach this many pixels over the edge: rounding of annotation tools; it is cut back
MIN_SIDE = 1.0  # pixels; thinner boxes mark nothing and are dropped


@dataclass(frozen=True)
class _Task:
    """Everything a process needs to write one shard."""

    at: Location
    file: str
    split: str
    entries: tuple[Entry, ...]
    dataset: Mapping[str, Any]

    def plan(self) -> str:
        """Hash of what the shard is made from: the repr of entries names every file, box and option."""
        return hashlib.sha256(json.dumps([self.dataset, *map(repr, self.entries)]).encode()).hexdigest()


def prepare(
    source: Source,
    dest: str,
    *,
    workers: int = 1,
    shard_rows: int = 512,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Check and write every entry of a source; bad records are left out and listed in the result.

    Args:
        source: what a reader found.
        dest: folder or ``s3://`` address.
        workers: processes; 1 works in this one.
        shard_rows: images per file.
        overwrite: replace a finished data set at ``dest``.
        progress: called after each shard.
    Raises:
        DataError: ``dest`` holds a finished data set or something else, or no record at all is good.
    """
    at = locate(dest)
    claim_folder(at, source.splits, overwrite)
    tasks = list(_plan(source, at, shard_rows))
    results: dict[str, tuple[ShardInfo, dict[str, Any]]] = {}
    for task, result in _run(tasks, workers):
        results[task.file] = result
        if progress is not None:
            progress(len(task.entries))
    manifest = _summarise(source, tasks, results)
    if not manifest.splits:
        raise DataError(f"no good record in {source.kind}: {_first_reason(manifest)}")
    remove_other_shards(at, manifest)
    write_manifest(at, manifest)
    return manifest


def select_classes(source: Source, min_images: int) -> Source:
    """Drop classes with fewer training images than ``min_images``; images left without a class go as well.

    Pixels of dropped classes become void in masks. What was dropped is said in ``notes``.

    Raises:
        DataError: no class has enough images.
    """
    counts = [0] * len(source.classes)
    for entry in source.splits.get("train", ()):
        for label in entry.labels:
            counts[label] += 1
    kept = [label for label, count in enumerate(counts) if count >= min_images]
    if not kept:
        raise DataError(f"no class has {min_images} training images; the largest has {max(counts)}")
    if len(kept) == len(counts):
        return source
    table = tuple(kept.index(label) if label in kept else -1 for label in range(len(counts)))
    splits = {split: _relabel(entries, table) for split, entries in source.splits.items()}
    lost = sum(map(len, source.splits.values())) - sum(map(len, splits.values()))
    gone = ", ".join(f"{source.classes[i]} ({count})" for i, count in enumerate(counts) if i not in kept)
    note = f"classes with fewer than {min_images} training images dropped: {gone}; {lost} images had no other class"
    return replace(
        source,
        classes=tuple(source.classes[label] for label in kept),
        splits=splits,
        options={**source.options, "min_images": min_images},
        notes=(*source.notes, note),
    )


def check_content(entry: Entry, content: Content, num_classes: int) -> tuple[StoredRow, int]:
    """Decode and check one record.

    Returns:
        The row to store and the number of boxes dropped because they are thinner than a pixel.
    Raises:
        DataError: the image or mask cannot be used, or a box is inverted or outside the image.
    """
    height, width, _ = decode_rgb(content.image).shape
    boxes = [check_box(box, width, height) for box in content.boxes]
    kept = tuple(b for b in boxes if b.x1 - b.x0 >= MIN_SIDE and b.y1 - b.y0 >= MIN_SIDE)
    mask = content.mask
    if mask is not None:
        if mask.shape != (height, width):
            raise DataError(f"mask of {mask.shape[1]} x {mask.shape[0]} for an image of {width} x {height} pixels")
        if ((mask > num_classes) & (mask != VOID)).any():
            raise DataError(f"mask value {mask[mask != VOID].max()} names no class; classes are 1 to {num_classes}")
    encoded = None if mask is None else encode_mask(mask)
    row = StoredRow(entry.id, content.image, width, height, entry.labels, kept, encoded, entry.group)
    return row, len(boxes) - len(kept)


def check_box(box: Box, width: int, height: int) -> Box:
    """The box, cut at the border where rounding moved it over by a pixel or less.

    Raises:
        DataError: inverted, NaN, or further outside the image of ``width`` x ``height`` pixels.
    """
    corners = f"box ({box.x0:g}, {box.y0:g}, {box.x1:g}, {box.y1:g})"
    if not (box.x0 <= box.x1 and box.y0 <= box.y1):  # also catches NaN
        raise DataError(f"{corners} is inverted; expected x0 <= x1 and y0 <= y1")
    if box.x0 < -_EDGE or box.y0 < -_EDGE or box.x1 > width + _EDGE or box.y1 > height + _EDGE:
        raise DataError(f"{corners} reaches outside the image of {width} x {height} pixels")
    return Box(box.label, max(box.x0, 0), max(box.y0, 0), min(box.x1, width), min(box.y1, height))


def _relabel(entries: Sequence[Entry], table: tuple[int, ...]) -> list[Entry]:
    kept: list[Entry] = []
    for entry in entries:
        labels = tuple(sorted(table[label] for label in entry.labels if table[label] >= 0))
        if entry.recipe is None:
            kept.append(entry)
        elif labels:
            kept.append(replace(entry, labels=labels, recipe=Relabelled(entry.recipe, table)))
    return kept


def _plan(source: Source, at: Location, shard_rows: int) -> Iterator[_Task]:
    dataset = {"task": source.task, "classes": source.classes, "groups": source.groups, "kind": source.kind}
    for split, entries in source.splits.items():
        for number, start in enumerate(range(0, len(entries), shard_rows)):
            chunk = tuple(entries[start : start + shard_rows])
            yield _Task(at, f"{split}/part-{number:05d}.parquet", split, chunk, dataset)


def _run(tasks: Sequence[_Task], workers: int) -> Iterator[tuple[_Task, tuple[ShardInfo, dict[str, Any]]]]:
    if workers == 1 or len(tasks) == 1:
        for task in tasks:
            yield task, _write_shard(task)
        return
    # spawn: a forked child would inherit the threads and locks of an S3 client
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        futures = {pool.submit(_write_shard, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _write_shard(task: _Task) -> tuple[ShardInfo, dict[str, Any]]:
    """Write one shard unless a shard of the same plan is there."""
    plan = task.plan()
    finished = _read_finished(task, plan)
    if finished is not None:
        return finished
    rows: list[StoredRow] = []
    bad: list[dict[str, str]] = []
    dropped = 0
    for entry in task.entries:
        try:
            if entry.recipe is None:
                raise DataError(entry.problem or "unreadable")
            row, num_dropped = check_content(entry, entry.recipe.load(), len(task.dataset["classes"]))
        except DataError as error:
            bad.append({"split": task.split, "file": entry.file, "reason": str(error)})
        else:
            rows.append(row)
            dropped += num_dropped
    shard = {"plan": plan, "bad_records": bad, "dropped_boxes": dropped}
    data = encode_shard(rows, schema(task.dataset, shard))
    write_bytes(task.at.child(*task.file.split("/")), data)
    return describe_shard(task.file, data)


def _read_finished(task: _Task, plan: str) -> tuple[ShardInfo, dict[str, Any]] | None:
    """The shard as an interrupted run left it; None when it has to be written."""
    if not exists(task.at.child(*task.file.split("/"))):
        return None
    try:
        info, shard = read_shard_info(task.at, task.file)
    except DataError:
        return None  # torn, or of another format version
    # with bad records it is written again, since the user may have mended the files
    return (info, shard) if shard["plan"] == plan and not shard["bad_records"] else None


def _summarise(
    source: Source, tasks: Sequence[_Task], results: Mapping[str, tuple[ShardInfo, dict[str, Any]]]
) -> Manifest:
    splits: dict[str, list[ShardInfo]] = {split: [] for split in SPLITS if split in source.splits}
    bad: list[BadRecord] = []
    dropped = 0
    for task in tasks:
        info, shard = results[task.file]
        bad += [BadRecord(**record) for record in shard["bad_records"]]
        dropped += shard["dropped_boxes"]
        if info.rows:
            splits[task.split].append(info)
    bad += [BadRecord(split, split, "the split has no good image") for split, shards in splits.items() if not shards]
    return Manifest(
        kind=source.kind,
        task=source.task,
        classes=source.classes,
        groups=source.groups,
        options=source.options,
        splits={split: tuple(shards) for split, shards in splits.items() if shards},
        dropped_boxes=dropped,
        bad_records=tuple(bad),
    )


def _first_reason(manifest: Manifest) -> str:
    first = next(iter(manifest.bad_records), None)
    return "the splits are empty" if first is None else f"{len(manifest.bad_records)} bad, {first.file}: {first.reason}"
