"""Answers for every picture of a folder or bucket, as Parquet: predictions, explanations or traces, offline.

The folder of results holds ``part-00000.parquet`` and so on, and ``_batch.json``, which says what they are of (readers
of Parquet folders pass over names with an underscore). Which pictures form a part is fixed by the source, not by the
workers, and parts appear whole or not at all: a job that is started again does the missing ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import pyarrow as pa
import torch

from raytrain_xai.concept_runs.catalogue_files import read_table, write_table
from raytrain_xai.concept_runs.model import network_fingerprint
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.runners.preflight import absolute
from raytrain_xai.runners.tasks import Crew, Progress
from raytrain_xai.runners.tracking import Publish
from raytrain_xai.serving.answer_tables import answer_schema, answer_table
from raytrain_xai.serving.engine import Job, run_jobs
from raytrain_xai.serving.jobs import ImageAnswer, Question
from raytrain_xai.serving.picture_files import View, find_pictures, read_pictures, stack_pictures
from raytrain_xai.serving.served_model import ModelKey, RunAddress, ServedModel
from raytrain_xai.storage import Location, exists, list_names, locate, read_bytes, write_bytes

FORMAT_VERSION = 1
INDEX = "_batch.json"
_PART_BYTES = 16_000_000  # of pictures as the network sees them: what travels from readers to a worker at once
_MOST_PICTURES, _FEWEST_PICTURES = 256, 16  # of a part


@dataclass(frozen=True)
class BatchJob:
    """What is asked of which pictures.

    Attributes:
        run: classifier or concept run, local or s3://.
        source: folder of pictures, searched at any depth, local or s3://.
        out: folder of the results, local or s3://.
        question: the same for every picture; predict, explain or trace.
        maps: keep the maps of classes and concepts too.
    """

    run: str
    source: str
    out: str
    question: Question
    maps: bool = False


@dataclass(frozen=True)
class BatchSummary:
    """A finished job: pictures of the source, and how many of them have an error instead of an answer."""

    images: int
    errors: int


@dataclass(frozen=True)
class Part:
    """Pictures answered together: name relative to the source -> bytes."""

    number: int
    sizes: Mapping[str, int]

    @property
    def name(self) -> str:
        """Of its table."""
        return f"part-{self.number:05d}"


@dataclass(frozen=True)
class Plan:
    """A job as workers know it; picklable."""

    job: BatchJob
    view: View

    @property
    def source(self) -> Location:
        """Of the pictures."""
        return locate(self.job.source)

    @property
    def schema(self) -> pa.Schema:
        """Of the results."""
        return answer_schema(self.job.question.operation, maps=self.job.maps)


def explain_batch(job: BatchJob, crew: Crew, show: Publish) -> BatchSummary:
    """Answer all pictures of a source, or those that are missing in a folder of results of the same job.

    Args:
        job: what to do.
        crew: who does it; with workers, Ray Data reads pictures on free CPUs while the workers compute.
        show: progress after every part, see :func:`~raytrain_xai.runners.tasks.run_tasks`.
    Raises:
        ConfigError: the run cannot answer the question, or ``out`` holds something else.
        DataError: no pictures, or a folder cannot be read or written.
        CheckpointError: the run is damaged, or answers with non-finite logits.
        RunError: workers were lost, or the cluster cannot be reached.
    """
    if job.maps and job.question.operation == "predict":
        raise ConfigError("predictions have no maps; leave --maps out, or choose --operation explain or trace")
    job = replace(job, run=absolute(job.run), source=absolute(job.source), out=absolute(job.out))
    model = load_model(job.run, torch.device("cpu"))  # what is wrong with run or question is said before any work
    model.check(job.question)
    found = find_pictures(locate(job.source))
    plan = Plan(job, View(model.explainer.image_size, model.explainer.shorter))
    parts = list(_split(found, plan.view))
    out = locate(job.out)
    about = {
        "format_version": FORMAT_VERSION, "run": job.run, "source": job.source,
        "content": _content(job, model, found), "classes": list(model.explainer.classes),
    }  # fmt: skip
    _claim(out, about)
    names = set(list_names(out))
    missing = [part for part in parts if f"{part.name}.parquet" not in names]
    errors = sum(_errors_of(plan, part) for part in parts if part not in missing)
    progress = Progress(len(found), sum(len(part.sizes) for part in missing), show)
    for part, failed in _work(plan, missing, crew):
        errors += failed
        progress.add(len(part.sizes))
    write_bytes(out.child(INDEX), _encoded({**about, "images": len(found), "errors": errors, "complete": True}))
    return BatchSummary(len(found), errors)


def load_model(run: str, device: torch.device) -> ServedModel:
    """A run as the service holds it."""
    return ServedModel.load(ModelKey("batch", "1"), RunAddress(run), device)


def answer_part(plan: Plan, model: ServedModel, name: str, pictures: pa.Table) -> int:
    """Answer the pictures of a part and write its table; returns how many of them have an error instead."""
    images = stack_pictures(pictures, plan.view)
    [answers] = run_jobs([Job(model, images, plan.job.question)]) if len(images) else [[]]
    if isinstance(answers, Exception):
        raise answers
    own = cast("list[ImageAnswer]", answers)  # a classifier or concept run was loaded, see load_model
    table = answer_table(pictures, own, model.explainer.classes, plan.schema)
    write_table(locate(plan.job.out), name, table)
    return pictures.num_rows - len(images)


def _work(plan: Plan, parts: Sequence[Part], crew: Crew) -> Iterator[tuple[Part, int]]:
    """Do parts; yields each with its number of errors when it is written."""
    if not parts:
        return
    if crew.workers > 0:
        from raytrain_xai.runners.ray_pictures import work_on_ray_data  # imports Ray

        yield from work_on_ray_data(plan, parts, crew)
        return
    model = load_model(plan.job.run, crew.device)
    for part in parts:
        yield part, answer_part(plan, model, part.name, read_pictures(plan.source, part.sizes, plan.view))


def _split(found: Mapping[str, int], view: View) -> Iterator[Part]:
    size = min(max(_PART_BYTES // view.nbytes, _FEWEST_PICTURES), _MOST_PICTURES)
    files = list(found.items())
    for number, start in enumerate(range(0, len(files), size)):
        yield Part(number, dict(files[start : start + size]))


def _content(job: BatchJob, model: ServedModel, found: Mapping[str, int]) -> dict[str, Any]:
    """What decides the results, wherever run and source lie."""
    weights = [network_fingerprint(net)[:16] for net in (model.explainer.network, *model.layers.values())]
    listing = hashlib.sha256(json.dumps(list(found.items())).encode()).hexdigest()[:16]
    question = {"operation": job.question.operation, "maps": job.maps}
    if job.question.operation != "predict":
        question |= {"names": list(job.question.names), "classes": job.question.classes}
    if job.question.operation == "trace":
        question |= {"top": job.question.top}
    return {"model": "-".join(weights), "pictures": len(found), "files": listing, **question}


def _claim(out: Location, about: Mapping[str, Any]) -> None:
    """Begin a folder of results, or go on in one of the same job.

    Raises:
        ConfigError: it holds something else.
        DataError: its index is damaged.
    """
    index = out.child(INDEX)
    if not exists(index):
        if list_names(out):
            raise ConfigError(f"{out.uri} holds files already, and no results of this command; give another --out")
        write_bytes(index, _encoded({**about, "complete": False}))
        return
    try:
        theirs = dict(json.loads(read_bytes(index))["content"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{index.uri} is damaged; delete the folder and start again") from error
    ours: dict[str, Any] = about["content"]
    differing = ", ".join(
        f"{key} {theirs.get(key)} instead of {ours.get(key)}"
        for key in sorted({*theirs, *ours})
        if theirs.get(key) != ours.get(key)
    )
    if differing:
        raise ConfigError(f"{out.uri} holds results of something else ({differing}); delete it, or give another --out")


def _errors_of(plan: Plan, part: Part) -> int:
    """Of a part that was written before."""
    found = read_table(locate(plan.job.out), part.name, plan.schema, ("error",))
    return found.num_rows - found["error"].null_count


def _encoded(about: Mapping[str, Any]) -> bytes:
    return json.dumps(about, indent=1).encode()
