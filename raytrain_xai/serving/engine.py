"""Jobs of several requests answered together: one forward pass for all images of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain_xai.serving.insight_jobs import ImageSegments, SegmentQuestion
from raytrain_xai.serving.jobs import ImageAnswer, Question
from raytrain_xai.serving.served_insight import ServedInsight
from raytrain_xai.serving.served_model import ServedModel


@dataclass(frozen=True)
class Job:
    """Images of one request for one model.

    Attributes:
        model: loaded; checked to be able to answer (:meth:`ServedModel.check`).
        images: (B, 3, S, S) uint8 as :meth:`ServedModel.prepare` makes them.
        question: the same for all of them.
        deadline: time.monotonic() by which the answer should be there; None for no hurry.
    """

    model: ServedModel
    images: Tensor
    question: Question
    deadline: float | None = None


@dataclass(frozen=True)
class SegmentJob:
    """As :class:`Job`, for an encoder with named concepts; nothing of its answer can be left out in a hurry."""

    model: ServedInsight
    images: Tensor
    question: SegmentQuestion


AnyJob = Job | SegmentJob
AnyAnswers = list[ImageAnswer] | list[ImageSegments]


def run_jobs(jobs: Sequence[AnyJob]) -> list[AnyAnswers | Exception]:
    """Answer jobs, those of one model together.

    Returns:
        For each job one answer per image, or the exception that answering it raised: to be raised for whoever asked.
        A job that fails does not fail the others of its batch.
    """
    groups: dict[int, list[int]] = {}
    for number, job in enumerate(jobs):
        groups.setdefault(id(job.model), []).append(number)
    found: dict[int, AnyAnswers | Exception] = {}
    for numbers in groups.values():
        found |= zip(numbers, _answered([jobs[number] for number in numbers]), strict=True)
    return [found[number] for number in range(len(jobs))]


def _answered(jobs: Sequence[AnyJob]) -> list[AnyAnswers | Exception]:
    """Jobs of one model; when they fail together, each is tried alone, so that only the one at fault fails."""
    try:
        return list(_together(jobs))
    except Exception as error:
        if len(jobs) == 1:
            return [error]
        return [answers for job in jobs for answers in _answered([job])]


def _together(jobs: Sequence[AnyJob]) -> list[AnyAnswers]:
    segmented = [job for job in jobs if isinstance(job, SegmentJob)]
    if segmented:  # all of them: one model answers one kind of question
        return list(_segmented(segmented))
    return list(_explained([job for job in jobs if isinstance(job, Job)]))


def _explained(jobs: Sequence[Job]) -> list[list[ImageAnswer]]:
    images = torch.cat([job.images for job in jobs])
    questions = [job.question for job in jobs for _ in job.images]
    deadlines = [job.deadline for job in jobs for _ in job.images]
    answers = iter(jobs[0].model.answer(images, questions, deadlines))
    return [[next(answers) for _ in job.images] for job in jobs]


def _segmented(jobs: Sequence[SegmentJob]) -> list[list[ImageSegments]]:
    images = torch.cat([job.images for job in jobs])
    answers = iter(jobs[0].model.answer(images, [job.question for job in jobs for _ in job.images]))
    return [[next(answers) for _ in job.images] for job in jobs]
