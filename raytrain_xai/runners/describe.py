"""Describing the concepts of an encoder as a job: one pass for all sums, then the codes and pictures of what they name.

Parts are fixed by the data, not by the workers, and merged in their order: the result is the same with any number of
workers and after any interruption.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from raytrain_xai.concepts.code import SparseCode, stack_codes
from raytrain_xai.concepts.merging import merge_parts
from raytrain_xai.concepts.relations import RelationRule, relations
from raytrain_xai.concepts.top_tokens import unpack_tokens
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.insight.described import (
    PICTURE_SCHEMA,
    PICTURES,
    Described,
    DescribedSubject,
    TopTokens,
    description_of,
    is_described,
    read_described,
    write_described,
    write_top_tokens,
)
from raytrain_xai.insight.description import Description
from raytrain_xai.insight.image_rows import ImageRows
from raytrain_xai.insight.model import InsightModel, load_insight
from raytrain_xai.insight.observing import InsightSource, write_table
from raytrain_xai.runners.cluster import connected
from raytrain_xai.runners.preflight import absolute
from raytrain_xai.runners.tasks import Crew, Result, run_tasks
from raytrain_xai.runners.tracking import Publish
from raytrain_xai.storage import Location, delete_tree, locate, open_file, read_bytes, write_bytes

_IMAGES_PER_TASK = 256
_MOST_TASKS = 2048  # each leaves a file with all cells of its part
_PICTURES_PER_READ = 256  # in a row group


@dataclass(frozen=True)
class SumTask:
    """Sums over the images ``start`` to ``stop`` (not included)."""

    key: str
    start: int
    stop: int

    @property
    def num_images(self) -> int:
        """See :class:`~raytrain_xai.runners.tasks.Task`."""
        return self.stop - self.start


@dataclass(frozen=True)
class FetchTask:
    """Tokens whose codes are wanted, ascending, and rows of images whose pictures are, ascending."""

    key: str
    tokens: tuple[int, ...]
    pictures: tuple[int, ...]
    positions: int

    @property
    def num_images(self) -> int:
        """See :class:`~raytrain_xai.runners.tasks.Task`."""
        return len({token // self.positions for token in self.tokens} | set(self.pictures))


@dataclass(frozen=True)
class Plan:
    """What a worker needs to know: the subject, which checkpoint, where parts go, and the device."""

    subject: DescribedSubject
    which: str
    parts: Location
    device: torch.device

    @property
    def ledger(self) -> Location:
        """Where the results of finished tasks are kept."""
        return self.parts.child("done")


def describe_run(
    run: str, crew: Crew, show: Publish, *, data: Sequence[str] = (), split: str | None = None,
    which: str = "selected", rule: RelationRule | None = None,
) -> Described:  # fmt: skip
    """Find out what the concepts of a run have to do with each other, or do so by another rule.

    The pass over the images is made once; an interrupted one goes on where it stopped, with any crew.

    Args:
        run: concept run of an encoder, local or s3://.
        crew: who does the work.
        show: progress, see :func:`~raytrain_xai.runners.tasks.run_tasks`.
        data: prepared data sets; by default those the concepts were trained on.
        split: of all of them; by default that of the training.
        which: checkpoint of the run.
        rule: when concepts are related; by default that of :class:`~raytrain_xai.concepts.relations.RelationRule`.
    Raises:
        ConfigError: not such a run, no data, or the run holds a description of something else.
        CheckpointError: a checkpoint is missing or damaged.
        DataError: no such data set or split, an image is damaged, or no concept is ever active.
    """
    model = load_insight(run, which=which)
    paths = tuple(absolute(path) for path in (data or model.config.data))
    if not paths:
        raise ConfigError(f"{run} does not say which images it was trained on; name data sets with --data")
    split = split or model.config.features.split
    images = _images(model, paths, split)
    subject = _subject(absolute(run), model, images, split)
    at = description_of(locate(run))
    made = _made_before(locate(run), subject)
    if made is None:
        plan = Plan(subject, which, at.child(subject.parts), crew.device)
        with connected(crew, crew.address, debug=crew.debug) if crew.workers else nullcontext():  # one for both passes
            sums = _sum(plan, crew, show)
            if not bool(sums.seen.frequency.any()):
                raise DataError(f"no concept of {run} is active in split {subject.split} of {', '.join(paths)}")
            fetches = list(_fetches(sums, subject))
            run_tasks(partial(make_worker, plan), fetches, crew, show, ledger=plan.ledger)
        _gather(at, plan, sums, [task.key for task in fetches])
    else:
        sums = made.sums
    sizes = tuple(model.sae.group_sizes.tolist())
    groups = model.sae.groups_of(torch.arange(subject.concepts, device=model.sae.group_sizes.device)).cpu()
    described = Described(at, subject, images.classes, sizes, sums, relations(sums.seen, groups, rule))
    write_described(described)
    delete_tree(at.child(subject.parts))
    return described


def make_worker(plan: Plan) -> Callable[[SumTask | FetchTask], Result]:
    """What a worker does with a task, its model and data loaded."""
    subject = plan.subject
    model = load_insight(subject.run, which=plan.which, device=plan.device)
    images = ImageRows(subject.data, subject.split, subject.image_size, shorter=subject.shorter)
    return partial(_work, plan, InsightSource(model, images, subject.size))


def _work(plan: Plan, source: InsightSource, task: SumTask | FetchTask) -> Result:
    if isinstance(task, SumTask):
        sums = source.describe(task.start, task.stop)
        write_bytes(plan.parts.child(f"{task.key}.safetensors"), save(sums.to_tensors()))
        return {"images": task.num_images}
    code = source.codes(task.tokens)
    write_bytes(
        plan.parts.child(f"{task.key}.safetensors"),
        save({"values": code.values.contiguous(), "indices": code.indices.contiguous()}),
    )
    write_table(plan.parts.child(f"{task.key}.parquet"), source.pictures(task.pictures))
    return {"tokens": len(task.tokens)}


def _images(model: InsightModel, data: Sequence[str], split: str) -> ImageRows:
    side = model.config.image_size or model.encoder.image_size
    return ImageRows(data, split, side, shorter=model.config.eval_resize)


def _subject(run: str, model: InsightModel, images: ImageRows, split: str) -> DescribedSubject:
    side = model.config.image_size or model.encoder.image_size
    cells = -(-side // model.encoder.multiple)
    return DescribedSubject(
        run=run, fingerprint=model.fingerprint, concepts=model.sae.num_latents, data=images.data, split=split,
        data_fingerprints=images.fingerprints, image_size=side, shorter=model.config.eval_resize, size=(cells, cells),
        num_images=len(images),
    )  # fmt: skip


def _made_before(run: Location, subject: DescribedSubject) -> Described | None:
    if not is_described(run):
        return None
    found = read_described(run)
    theirs, ours = found.subject.content, subject.content
    if theirs == ours:
        return replace(found, subject=subject)
    differing = ", ".join(name.replace("_", " ") for name in ours if theirs[name] != ours[name])
    raise ConfigError(
        f"{found.at.uri} describes something else (other {differing}); delete it to describe the run anew"
    )


def _sum(plan: Plan, crew: Crew, show: Publish) -> Description:
    num_images = plan.subject.num_images
    at_once = max(_IMAGES_PER_TASK, -(-num_images // _MOST_TASKS))
    tasks = [
        SumTask(f"sum-{number:05d}", start, min(start + at_once, num_images))
        for number, start in enumerate(range(0, num_images, at_once))
    ]
    run_tasks(partial(make_worker, plan), tasks, crew, show, ledger=plan.ledger)
    return merge_parts(Description.from_tensors(_read_tensors(plan, task.key)) for task in tasks)


def _fetches(sums: Description, subject: DescribedSubject) -> Iterator[FetchTask]:
    """The strongest tokens of all concepts and the images that show them, in order of the images."""
    positions = subject.size[0] * subject.size[1]
    wanted, shown = _wanted(sums.tokens), _wanted(sums.images) // positions
    rows = torch.unique(torch.cat([wanted // positions, shown]))
    shown = torch.unique(shown)
    for number, own in enumerate(rows.split(_IMAGES_PER_TASK)):
        first, last = int(own[0]), int(own[-1])
        tokens = wanted[(wanted >= first * positions) & (wanted < (last + 1) * positions)]
        pictures = shown[(shown >= first) & (shown <= last)]
        yield FetchTask(f"fetch-{number:05d}", tuple(tokens.tolist()), tuple(pictures.tolist()), positions)


def _wanted(top: Tensor) -> Tensor:
    """(n,) int64 numbers of tokens, ascending and distinct."""
    _, number = unpack_tokens(top)
    return torch.unique(number[number >= 0])


def _gather(at: Location, plan: Plan, sums: Description, names: Sequence[str]) -> None:
    """Make the tables of tokens and of pictures from what workers fetched."""
    parts = [_read_tensors(plan, name) for name in names]
    concepts = plan.subject.concepts
    code = stack_codes([SparseCode(part["values"], part["indices"], concepts) for part in parts])
    values, number = unpack_tokens(sums.tokens)
    is_there = number >= 0
    place = torch.searchsorted(_wanted(sums.tokens), number.clamp(min=0).flatten())
    own = code.rows(place.clamp(max=len(code.values) - 1))
    shape = (*number.shape, code.values.shape[-1])
    own = SparseCode(own.values.view(shape) * is_there[..., None], own.indices.view(shape), concepts)
    positions = plan.subject.size[0] * plan.subject.size[1]
    row, position = (torch.where(is_there, part, -1) for part in (number // positions, number % positions))
    write_top_tokens(at, TopTokens(values, row, position, own))
    tables = [_read_table(plan.parts.child(f"{name}.parquet")) for name in names]
    write_table(at.child(PICTURES), pa.concat_tables(tables), row_group=_PICTURES_PER_READ)


def _read_tensors(plan: Plan, name: str) -> dict[str, Tensor]:
    at = plan.parts.child(f"{name}.safetensors")
    try:
        return load(read_bytes(at))
    except SafetensorError as error:
        raise DataError(f"{at.uri} is damaged; delete {plan.parts.uri} and describe the run again") from error


def _read_table(at: Location) -> pa.Table:
    with open_file(at) as source:
        return pq.read_table(source, schema=PICTURE_SCHEMA, page_checksum_verification=True)
