"""Where the numbers of a run go: ``metrics.jsonl``, TensorBoard events, MLflow, and the live display.

Only worker 0 tracks. Everything that arrives here is plain Python; tensors were read once, at the log interval.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

from raytrain_xai.config import AnyRunConfig
from raytrain_xai.errors import ConfigError, DataError, RunError
from raytrain_xai.run_folder import Attempt, RunLog, read_json, write_json
from raytrain_xai.runners.history import Position
from raytrain_xai.storage import Location, exists

MLFLOW_RUN = "mlflow.json"

Record = dict[str, Any]
Publish = Callable[[Record], None]


@contextmanager
def storing(run: Location) -> Generator[None]:
    """For what a run stores on its way: where the storage refuses it, the run stops and can go on later.

    Raises:
        RunError: in place of the storage's DataError; names what could not be written, and how to go on.
    """
    try:
        yield
    except DataError as error:
        raise RunError(
            f"{error}; the run stops here and keeps its checkpoints: make room or mend the storage, then continue with "
            f"`raytrain-xai resume {run.uri}`"
        ) from error


class Sink(Protocol):
    """Takes the numeric values of records."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add the values of one record."""
        ...

    def flush(self) -> None:
        """Make them durable."""
        ...

    def close(self, status: str) -> None:
        """End with ``FINISHED`` or ``FAILED``."""
        ...


class MlflowSink:
    """One MLflow run per run folder: its id is stored there and in the checkpoints, so restarts continue the entry."""

    def __init__(self, run: Location, config: AnyRunConfig, run_id: str | None) -> None:
        from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports] - optional extra

        self._client = MlflowClient(tracking_uri=config.tracking.mlflow)
        self.run_id = run_id or self._stored(run) or self._create(run, config)
        self._client.update_run(self.run_id, status="RUNNING")

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """See :class:`Sink`."""
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports] - optional extra

        now_ms = int(time.time() * 1000)
        metrics = [Metric(name, value, timestamp=now_ms, step=step) for name, value in values.items()]
        self._client.log_batch(self.run_id, metrics=metrics)

    def flush(self) -> None:
        """Every batch is already with the server."""

    def close(self, status: str) -> None:
        """See :class:`Sink`."""
        self._client.set_terminated(self.run_id, status=status)

    @staticmethod
    def _stored(run: Location) -> str | None:
        return read_json(run.child(MLFLOW_RUN))["run_id"] if exists(run.child(MLFLOW_RUN)) else None

    def _create(self, run: Location, config: AnyRunConfig) -> str:
        experiment = self._client.get_experiment_by_name("raytrain-xai")
        experiment_id = experiment.experiment_id if experiment else self._client.create_experiment("raytrain-xai")
        entry = self._client.create_run(experiment_id, run_name=config.name, tags={"run_folder": run.uri})
        for key, value in _flatten(config.model_dump(mode="json")):
            self._client.log_param(entry.info.run_id, key, value)
        write_json(run.child(MLFLOW_RUN), {"run_id": entry.info.run_id})
        return entry.info.run_id


class Tracker:
    """Fans records out to the log, the sinks and the live display."""

    def __init__(self, log: RunLog, sinks: list[Sink], publish: Publish) -> None:
        self.attempt = log.attempt
        self._log = log
        self._sinks = sinks
        self._publish = publish

    @classmethod
    def start(
        cls, attempt: Attempt, config: AnyRunConfig, publish: Publish, *, step: int, mlflow_id: str | None
    ) -> Tracker:
        """Continue (or begin) tracking a run at ``step``."""
        sinks: list[Sink] = []
        if config.tracking.tensorboard:
            from raytrain_xai.runners.tensorboard import TensorBoardSink

            sinks.append(TensorBoardSink(attempt, step))
        if config.tracking.mlflow is not None:
            sinks.append(MlflowSink(attempt.run, config, mlflow_id))
        return cls(RunLog.resume(attempt, step), sinks, publish)

    @property
    def mlflow_id(self) -> str | None:
        """Run id to keep in checkpoints, None without MLflow."""
        return next((sink.run_id for sink in self._sinks if isinstance(sink, MlflowSink)), None)

    def add(self, kind: str, step: int, epoch: int, values: Mapping[str, Any]) -> None:
        """Record ``values`` under ``kind`` (step, epoch, event).

        The numbers of a step go to the sinks as ``train/name``, nested ones (metrics of a split) as ``val/name``.
        """
        record = {"kind": kind, "step": step, "epoch": epoch, **values}
        with storing(self.attempt.run):
            self._log.add(record)
        self._publish(record)
        if kind == "event":
            return
        with storing(self.attempt.run):
            for sink in self._sinks:
                sink.scalars(dict(_scalars("train", values)), step)

    def event(self, position: Position, event: str, message: str) -> None:
        """Record something a person should know."""
        self.add("event", position.step, position.epoch, {"event": event, "message": message})

    def started(self, position: Position, num_steps: int, world_size: int) -> None:
        """Record the start of an attempt, with what the live display needs to count."""
        message = f"attempt {self.attempt.number} on {world_size} worker(s), step {position.step} of {num_steps}"
        values = {"event": "start", "message": message, "num_steps": num_steps}
        self.add("event", position.step, position.epoch, values)

    def flush(self) -> None:
        """Make everything recorded so far durable."""
        with storing(self.attempt.run):
            self._log.flush()
            for sink in self._sinks:
                sink.flush()

    def close(self, status: str) -> None:
        """Flush and end with ``FINISHED`` or ``FAILED``."""
        with storing(self.attempt.run):
            self._log.flush()  # first: a superseded attempt must not touch the entries of the newer one
            for sink in self._sinks:
                sink.close(status)


def check_mlflow(uri: str | None) -> None:
    """Check that the configured MLflow server, if any, can be used.

    Raises:
        ConfigError: the extra is not installed, or the server does not answer.
    """
    if uri is None:
        return
    if importlib.util.find_spec("mlflow") is None:
        raise ConfigError(f"tracking.mlflow is {uri!r} but mlflow is not installed; pip install 'raytrain-xai[mlflow]'")
    from mlflow.exceptions import MlflowException  # pyright: ignore[reportMissingImports] - optional extra
    from mlflow.tracking import MlflowClient  # pyright: ignore[reportMissingImports]

    try:
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except MlflowException as error:
        raise ConfigError(f"tracking.mlflow {uri!r} cannot be used: {' '.join(str(error).split())}") from error


def _scalars(prefix: str, values: Mapping[str, Any]) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _scalars(name, value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found.append((f"{prefix}/{name}", float(value)))
    return found


def _flatten(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        key = f"{prefix}{name}"
        found += _flatten(value, f"{key}.") if isinstance(value, Mapping) else [(key, value)]
    return found
