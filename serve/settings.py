"""What is served and within which limits: the arguments of :func:`serve.app.build`, typed and strict.

``serve run serve.app:build checkpoint=RUN`` serves one run; files in ``serve/config/`` show the rest. Addresses of runs
and stores come from here only, never from a request.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, field_validator, model_validator

from raytrain_xai.config import overridden, read_yaml, validated
from raytrain_xai.errors import ConfigError
from raytrain_xai.sections import Section

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,62}[A-Za-z0-9])?")


class VersionSettings(Section):
    run: str
    """Run folder, local or s3://: of a classifier, or of concepts (which hold their network)."""
    also: tuple[str, ...] = ()
    """Concept runs of the same network at earlier layers, which tell what concepts are made of."""
    weight: float = Field(default=1.0, ge=0)
    """Share of the images that this version answers when a request names none, relative to the other versions."""


class ModelSettings(Section):
    versions: dict[str, VersionSettings]
    """Name of a version -> what it is."""

    @field_validator("versions")
    @classmethod
    def _named_and_weighted(cls, versions: dict[str, VersionSettings]) -> dict[str, VersionSettings]:
        for name in versions:
            check_name(name)
        if not any(version.weight > 0 for version in versions.values()):
            raise ValueError("at least one version needs a weight above 0")
        return versions


class BatchSettings(Section):
    images: int = Field(default=8, ge=1, le=256)
    """Images that share a forward pass at most; what waits while a batch runs becomes the next one."""


class LimitSettings(Section):
    body_bytes: int = Field(default=1_000_000, ge=1_000)
    """Largest body of a request."""
    batch_body_bytes: int = Field(default=64_000_000, ge=1_000)
    """Largest body of a request to :batch, whose answer is a stream."""
    answer_bytes: int = Field(default=1_000_000, ge=10_000)
    """Largest answer; maps that do not fit become links, or are left out with a note."""
    images: int = Field(default=16, ge=1, le=256)
    """Images of a request."""
    batch_images: int = Field(default=2048, ge=1)
    """Images of a request to :batch."""
    pixels: int = Field(default=25_000_000, ge=1_000)
    """Pixels of an image, checked before any is decoded."""
    concepts: int = Field(default=64, ge=1, le=512)
    """Concepts shown of a class."""
    classes: int = Field(default=10, ge=1)
    """Classes explained of an image."""
    in_flight: int = Field(default=32, ge=1)
    """Requests a replica works on or keeps waiting; more are refused with 503."""
    time_s: float = Field(default=30.0, gt=0)
    """Seconds after which a request is given up with 503."""


class FetchSettings(Section):
    allow: tuple[str, ...] = ()
    """Beginnings of addresses that images may be fetched from: https://HOST/PATH or s3://BUCKET/PATH; none: refused."""
    private: bool = False
    """Allow https hosts that resolve to private or loopback addresses."""
    time_s: float = Field(default=5.0, gt=0)


class SecuritySettings(Section):
    keys: str | None = None
    """File of API keys written by ``raytrain-xai serve-keys``; also from the variable RAYTRAIN_XAI_KEYS. None of both:
    everybody may do everything, which is for loopback only."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """Of each client (key, or address without keys), over all replicas."""
    rate_store: str | None = None
    """Redis address (redis://HOST:PORT) where replicas count together, user and password from the variables
    RAYTRAIN_XAI_REDIS_USERNAME and RAYTRAIN_XAI_REDIS_PASSWORD; none: each allows its share by itself."""
    cors_origins: tuple[str, ...] = ()
    """Web origins that may call from browsers."""
    fetch: FetchSettings = FetchSettings()


class MonitorSettings(Section):
    store: str | None = None
    """Folder or s3:// address for activation histograms over time; none: kept in memory since start."""
    window_s: float = Field(default=300.0, ge=1)
    """Length of a window of the histograms, seconds."""
    audit: str | None = None
    """Folder or s3:// address of audit records; none: no records. Of answers of classifiers; what encoders answer to
    :segment and :search is not recorded."""
    feedback: str | None = None
    """Folder or s3:// address for flagged requests with their images; none: flags are refused."""
    links: str | None = None
    """Folder or s3:// address of full-size maps that answers link to; none: a temporary folder of the replica."""
    links_bytes: int = Field(default=500_000_000, ge=0)
    """Size of ``links`` at which the oldest maps are removed."""


class ReplicaSettings(Section):
    num_cpus: float = Field(default=1.0, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    threads: int | None = Field(default=None, ge=1)
    """Threads of a forward pass; nothing: num_cpus rounded up."""
    min_replicas: int = Field(default=1, ge=0)
    max_replicas: int = Field(default=1, ge=1)
    target_in_flight: float = Field(default=8.0, gt=0)
    """Requests in flight per replica that autoscaling aims at."""
    scale_up_after_s: float = Field(default=30.0, ge=0)
    """Seconds that more replicas must have been wanted before they are started. The load is averaged over these
    seconds too, over 11 at least and 30 at most. With no replica at all, a request starts one at once."""
    scale_down_after_s: float = Field(default=600.0, ge=0)
    """Seconds that fewer replicas must have been enough before some are stopped."""
    memory_bytes: int = Field(default=4_000_000_000, ge=1_000_000)
    """For loaded models; the one used longest ago leaves when another needs the place."""
    health_period_s: float = Field(default=10.0, gt=0)
    """Seconds between health checks, each a real explanation."""
    health_timeout_s: float = Field(default=30.0, gt=0)
    drain_s: float = Field(default=20.0, ge=0)
    """Seconds a replica that is to stop may finish what it has taken."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError(f"min_replicas {self.min_replicas} is above max_replicas {self.max_replicas}")
        return self


class ServeSettings(Section):
    checkpoint: str | None = None
    """A run to serve under the name of its folder: the short form of ``models`` for one model."""
    models: dict[str, ModelSettings] = {}
    """Name -> model, as requests call it."""
    preload: bool = True
    """Load every model at start while it fits into memory; the first one is loaded in any case."""
    page: bool = True
    """Offer the web page at /."""
    batch: BatchSettings = BatchSettings()
    limits: LimitSettings = LimitSettings()
    security: SecuritySettings = SecuritySettings()
    monitor: MonitorSettings = MonitorSettings()
    replica: ReplicaSettings = ReplicaSettings()

    @field_validator("models")
    @classmethod
    def _named(cls, models: dict[str, ModelSettings]) -> dict[str, ModelSettings]:
        for name in models:
            check_name(name)
        return models

    @model_validator(mode="after")
    def _something_served(self) -> Self:
        if (self.checkpoint is None) == (not self.models):
            raise ValueError("give either checkpoint=RUN or models, the runs to serve")
        return self

    @property
    def served(self) -> dict[str, ModelSettings]:
        """``models``, or the one model of ``checkpoint``."""
        if self.checkpoint is None:
            return self.models
        return {name_of_run(self.checkpoint): ModelSettings(versions={"1": VersionSettings(run=self.checkpoint)})}


def check_name(name: str) -> str:
    """A name as part of an address.

    Raises:
        ValueError: other characters than letters, digits, ``.``, ``_`` and ``-``, or more than 64.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be part of an address; use up to 64 letters, digits, '.', '_' and '-', with a letter or "
            "digit first and last"
        )
    return name


def name_of_run(run: str) -> str:
    """Name of the folder of a run.

    Raises:
        ValueError: the folder's name cannot be part of an address.
    """
    return check_name(run.partition("?")[0].rstrip("/").rpartition("/")[2])


def load_settings(file: str | Path | None, runs: Sequence[str], overrides: Sequence[str] = ()) -> ServeSettings:
    """Settings of a YAML file, of runs named on a command line, or of both.

    Args:
        file: YAML of :class:`ServeSettings`; None for the defaults.
        runs: ``RUN``, served under the name of its folder, or ``NAME=RUN``.
        overrides: ``a.b=c``, applied last.
    Raises:
        ConfigError: names the key or run that is wrong; two runs have one name.
    """
    raw: dict[str, Any] = {} if file is None else read_yaml(Path(file))
    models = dict[str, Any](raw.get("models") or {})
    for run in runs:
        name, address = _named_run(run)
        if name in models:
            raise ConfigError(f"two runs would be served as {name!r}; write NAME=RUN to tell them apart")
        models[name] = {"versions": {"1": {"run": address}}}
    if models:
        raw = raw | {"models": models}
    return validated(ServeSettings, overridden(raw, overrides), source=str(file or "serve"))


def _named_run(text: str) -> tuple[str, str]:
    name, equals, address = text.partition("=")
    if equals and _NAME.fullmatch(name):
        return name, address
    try:
        return name_of_run(text), text
    except ValueError as error:
        raise ConfigError(f"{error}; or write NAME=RUN") from error
