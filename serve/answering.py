"""The way of a request from its images to the engine's answer, whatever protocol it came by."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence

import torch
from starlette.concurrency import run_in_threadpool

from raytrain_xai.errors import CheckpointError, ConfigError, DataError, NotFoundError
from raytrain_xai.serving.engine import Job
from raytrain_xai.serving.jobs import ImageAnswer, Question
from raytrain_xai.serving.model_store import Served
from raytrain_xai.serving.served_insight import ServedInsight
from raytrain_xai.serving.served_model import ModelKey, ServedModel, split_key
from serve.context import RequestContext
from serve.intake import Seen
from serve.options import Options
from serve.service import Observation, Service

MOST_MAPS = 512  # of pixels, for a request: each is a walk through the network, and 0.2 MB in memory at 224 px
_DRAW_DIGITS = 13  # hexadecimal digits of a hash that a float holds exactly


def draw_of(hashes: Sequence[str]) -> float:
    """Number in [0, 1) that is the same for the same images: it chooses between versions.

    Args:
        hashes: SHA-256 of each image, hexadecimal; a single image always draws the same, wherever it is sent.
    """
    digest = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
    return int(digest[:_DRAW_DIGITS], 16) / 16**_DRAW_DIGITS


async def find_model(service: Service, address: str, draw: float = 0.0) -> ServedModel:
    """The classifier of an address, loaded; see :func:`find_served`.

    Raises:
        ConfigError: it is an encoder, which has no classes.
    """
    served = await find_served(service, address, draw)
    if isinstance(served, ServedInsight):
        raise ConfigError(f"{served.key.name} has no classes: it compares images with words; ask it to segment")
    return served


async def find_insight(service: Service, address: str, draw: float = 0.0) -> ServedInsight:
    """The encoder of an address, loaded; see :func:`find_served`.

    Raises:
        ConfigError: it is a classifier.
    """
    served = await find_served(service, address, draw)
    if isinstance(served, ServedModel):
        known = ", ".join(served.operations)
        raise ConfigError(f"{served.key.name} knows its classes and no other words; it can be asked to {known}")
    return served


async def find_served(service: Service, address: str, draw: float = 0.0) -> Served:
    """The model of an address, loaded.

    Args:
        service: whose models are looked at.
        address: ``MODEL`` or ``MODEL@VERSION``.
        draw: in [0, 1), chooses between versions by their weights where the address names none.
    Raises:
        NotFoundError: no such model or version.
        CheckpointError: it cannot be loaded; the cause, which may name files, is for the log.
    """
    key: ModelKey = service.models.resolve(*split_key(address), draw)
    try:
        return await run_in_threadpool(service.models.get, key)
    except (ConfigError, DataError, NotFoundError) as error:
        raise CheckpointError(f"{key.name}@{key.version} cannot be loaded: {error}") from error


async def answer(
    service: Service, context: RequestContext, model: ServedModel, seen: Sequence[Seen], question: Question
) -> Sequence[ImageAnswer]:
    """Ask the engine, and tell whoever watches.

    Raises:
        XaiError: what the engine raised.
    """
    job = Job(model, torch.stack([one.image for one in seen]), question, context.deadline)
    answers = await service.infer(job)
    for one in answers:
        for explained in (*one.explained, *one.traced):
            if explained.residual is not None:
                service.meter.residual(model.key.name, model.key.version, explained.residual)
    hashes = [one.info.sha256 for one in seen]
    for observer in service.observers:
        observer(Observation(job, answers, hashes, context.request_id, context.client))
    return answers


def method_of(model: ServedModel) -> str:
    """Attribution method and layer, as answers name them."""
    return f"{model.explainer.method} at {model.explainer.layer}"


def milliseconds_since(start: float) -> float:
    """Since a ``time.monotonic()``."""
    return round(1000 * (time.monotonic() - start), 3)


def question_of(service: Service, model: ServedModel, options: Options, images: int) -> Question:
    """What the engine is asked about each of ``images`` images, after everything that can be wrong with it was checked.

    Raises:
        ConfigError: more than the limits allow, an unknown class, or what this model does not have.
        NotFoundError: no such concept or layer.
    """
    maps = images * options.pixel_maps
    if maps > MOST_MAPS:
        raise ConfigError(
            f"{maps} maps of pixels are asked for, at most {MOST_MAPS} are made for a request; ask for fewer images, "
            "classes or concepts, or for maps of positions"
        )
    last = list(model.layers)[-1] if model.layers else ""
    question = options.question(service.settings.limits, last)
    for name in options.names:
        model.explainer.class_index(name)
    model.check(question)
    return question
