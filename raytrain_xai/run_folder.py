"""The folder of a run: its configuration, who may write into it, and its log.

Layout of ``<storage>/<name>/``: ``config.yaml``, ``metrics.jsonl``, ``metrics.json`` (when finished), ``pareto.json``,
``checkpoints/``, ``attempts/``, ``tensorboard/``, ``failure/`` (after a non-finite step), ``report.html``.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from raytrain_xai.config import AnyRunConfig, dump_config
from raytrain_xai.errors import CheckpointError, ConfigError, SupersededError
from raytrain_xai.sections import Section
from raytrain_xai.storage import Location, exists, list_names, locate, read_bytes, write_bytes

CONFIG, METRICS, LOG, PARETO = "config.yaml", "metrics.json", "metrics.jsonl", "pareto.json"
SUMS = "SHA256SUMS"  # in published runs only, see raytrain_xai.publish
CHECKPOINTS, ATTEMPTS, FAILURE, TENSORBOARD = "checkpoints", "attempts", "failure", "tensorboard"

_FLUSH_S = 5.0  # the log is rewritten as a whole (S3 cannot append), so not at every line


def run_location(config: AnyRunConfig) -> Location:
    """Folder of the run that ``config`` describes."""
    return locate(config.storage).child(config.name)


def create_run(config: AnyRunConfig) -> Location:
    """Start a run folder by writing its configuration.

    Raises:
        ConfigError: the name is taken.
    """
    at = free_location(config)
    write_config(at, config)
    return at


def free_location(config: AnyRunConfig) -> Location:
    """Folder of a run that is not there yet.

    Raises:
        ConfigError: the name is taken.
    """
    at = run_location(config)
    if exists(at.child(CONFIG)):
        raise ConfigError(
            f"name {config.name!r} is taken: {at.uri} holds a run; continue it with `raytrain-xai resume {at.uri}` "
            "or choose another with --set name=NAME"
        )
    return at


def open_run(run: str) -> Location:
    """Locate an existing run.

    Raises:
        ConfigError: no run at this address.
    """
    at = locate(run)
    if not exists(at.child(CONFIG)):
        raise ConfigError(f"{run} is not a run: it has no {CONFIG}; give the folder <storage>/<name> of a run")
    return at


def storage_and_name(at: Location) -> tuple[str, str]:
    """Address of a folder as (storage, name); local ones absolute, options after ``?`` belong to the storage."""
    if at.is_local:
        storage, _, name = at.path.rstrip("/").rpartition("/")
        return storage or "/", name
    base, question, options = at.uri.partition("?")
    storage, _, name = base.rstrip("/").rpartition("/")
    return storage + question + options, name


def read_config(at: Location) -> dict[str, Any]:
    """Stored configuration of a run, unvalidated.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        raw = yaml.safe_load(read_bytes(at.child(CONFIG)))
    except yaml.YAMLError as error:
        raise CheckpointError(f"{at.child(CONFIG).uri} is damaged: not valid YAML") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{at.child(CONFIG).uri} is damaged: not a mapping")
    return raw


def write_config(at: Location, config: Section) -> None:
    """Store the resolved configuration."""
    write_bytes(at.child(CONFIG), dump_config(config).encode())


def read_json(at: Location) -> dict[str, Any]:
    """A JSON object of the run.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        return json.loads(read_bytes(at))
    except ValueError as error:
        raise CheckpointError(f"{at.uri} is damaged: not valid JSON") from error


def write_json(at: Location, value: Mapping[str, Any]) -> None:
    """Store a JSON object, whole or not at all."""
    write_bytes(at, json.dumps(value, indent=1).encode())


def read_log(run: Location) -> list[dict[str, Any]]:
    """Records of ``metrics.jsonl`` of a run, in order; see :class:`RunLog`.

    Raises:
        CheckpointError: the file is damaged.
    """
    file = run.child(LOG)
    records: list[dict[str, Any]] = []
    for number, line in enumerate(read_bytes(file).decode(errors="replace").splitlines(), start=1):
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise CheckpointError(f"{file.uri} is damaged: line {number} is not valid JSON") from error
    return records


def logged_seconds(log: Sequence[Mapping[str, Any]]) -> float:
    """Seconds from the first to the last record of every attempt, added up: training and validation."""
    times: dict[int, list[float]] = {}
    for record in log:
        times.setdefault(record["attempt"], []).append(record["time"])
    return sum(max(own) - min(own) for own in times.values())


@dataclass(frozen=True)
class Attempt:
    """The right of one group of workers to write into a run, until a newer group claims it.

    Attempts are files ``attempts/attempt-0002-<token>.json``, ordered by name; the last one owns the run. Two groups
    that claim the same number at once differ in their token, so exactly one of them is last. This needs no lock and
    no conditional write, only that a listing shows what was written before it (true of POSIX and of S3).
    """

    run: Location
    name: str

    @property
    def number(self) -> int:
        """1 for the first group of workers, one more after each restart."""
        return int(self.name.split("-")[1])

    def check(self) -> None:
        """Called before anything that others rely on is written.

        Raises:
            SupersededError: a newer attempt owns the run.
        """
        newest = next(reversed(_attempts(self.run)), "the folder's removal")
        if newest != self.name:
            raise SupersededError(
                f"attempt {self.name} of {self.run.uri} was superseded by {newest}; nothing more is written here, "
                "let the newer one go on"
            )


def claim_attempt(run: Location, **about: Any) -> Attempt:
    """Become the newest attempt; see :class:`Attempt`.

    Args:
        run: the run folder.
        about: JSON values stored with the claim, for people who look for what happened.

    Raises:
        SupersededError: another group claimed the same number at the same time and wins.
    """
    existing = _attempts(run)
    number = int(existing[-1].split("-")[1]) + 1 if existing else 1
    attempt = Attempt(run, f"attempt-{number:04d}-{uuid.uuid4().hex[:8]}")
    write_json(run.child(ATTEMPTS, f"{attempt.name}.json"), {"attempt": number, "time": time.time(), **about})
    attempt.check()
    return attempt


def last_claim(run: Location) -> dict[str, Any] | None:
    """What the newest attempt stored with its claim, see :func:`claim_attempt`; None without any attempt."""
    existing = _attempts(run)
    return read_json(run.child(ATTEMPTS, f"{existing[-1]}.json")) if existing else None


def _attempts(run: Location) -> list[str]:
    names = (name.removesuffix(".json") for name in list_names(run.child(ATTEMPTS)))
    return sorted(
        (name for name in names if re.fullmatch(r"attempt-\d{4,}-[0-9a-f]{8}", name)),
        key=lambda name: (int(name.split("-")[1]), name),
    )


@dataclass
class RunLog:
    """``metrics.jsonl``: one JSON object per line with ``kind`` (step, epoch, event), ``step``, ``attempt``, ``time``.

    Lines reach the storage at :meth:`flush` or a few seconds after they are added.
    """

    attempt: Attempt
    lines: list[str] = field(default_factory=list)
    written_at: float = 0.0

    @classmethod
    def resume(cls, attempt: Attempt, step: int) -> RunLog:
        """Continue the log of a run at ``step``: what was logged beyond it will be logged again and is dropped."""
        file = attempt.run.child(LOG)
        lines = read_bytes(file).decode().splitlines() if exists(file) else []
        kept = [line for line in lines if (record := json.loads(line))["kind"] == "event" or record["step"] <= step]
        return cls(attempt, kept)

    def add(self, record: Mapping[str, Any]) -> None:
        """Append one record."""
        self.lines.append(json.dumps({**record, "attempt": self.attempt.number, "time": round(time.time(), 3)}))
        if time.monotonic() - self.written_at > _FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Make everything added so far durable.

        Raises:
            SupersededError: a newer attempt owns the run.
        """
        self.attempt.check()
        write_bytes(self.attempt.run.child(LOG), "".join(f"{line}\n" for line in self.lines).encode())
        self.written_at = time.monotonic()
