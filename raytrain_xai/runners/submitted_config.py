"""Configurations on their way to a cluster: what is a path on this machine becomes absolute, and is listed.

A job runs in a copy of its upload, which Ray deletes afterwards; a relative path would lie in there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from raytrain_xai.align_config import AlignRunConfig
from raytrain_xai.caption_config import CaptionRunConfig
from raytrain_xai.config import AnyRunConfig
from raytrain_xai.runners import align_job, caption_job
from raytrain_xai.runners.sweep_paths import absolute_sweep, resolved_run
from raytrain_xai.sweep_config import SweepConfig

Config = AnyRunConfig | SweepConfig


def resolved(config: Config) -> Config:
    """The same configuration, of a run of any kind or of a sweep, with absolute local paths."""
    match config:
        case SweepConfig():
            return absolute_sweep(config)
        case AlignRunConfig():
            return align_job.absolute_paths(config)
        case CaptionRunConfig():
            return caption_job.absolute_paths(config)
        case _:
            return resolved_run(config)


def local_paths(config: Config) -> tuple[str, ...]:
    """KEY=PATH of every absolute path in a configuration, in its order; also of those behind a name, NAME=PATH."""
    return tuple(f"{key}={text}" for key, text in _texts(config.model_dump(mode="json"), "") if _is_local(text))


def driver_needs(config: Config) -> tuple[float, float]:
    """CPUs and GPUs of the process that drives the job: those of a worker where it trains itself, else none."""
    if isinstance(config, SweepConfig) or config.workers > 0:
        return 0.0, 0.0
    return config.resources.cpus_per_worker, config.resources.gpus_per_worker


def _is_local(text: str) -> bool:
    return os.path.isabs(text.rpartition("=")[2]) and "://" not in text


def _texts(value: Any, key: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, child in value.items():
            yield from _texts(child, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for child in value:
            yield from _texts(child, key)
    elif isinstance(value, str):
        yield key, value
