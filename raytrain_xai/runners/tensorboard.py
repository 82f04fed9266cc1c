"""TensorBoard event files, written by the training process itself.

The writers of tensorboardX hand events to a thread; when the disk is full that thread dies, and the training waits for
it for ever at one of its next numbers. Here a failed write raises, and a restart never opens the file of another.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.record_writer import masked_crc32c
from tensorboardX.summary import scalar

from raytrain_xai.errors import DataError
from raytrain_xai.run_folder import TENSORBOARD, Attempt
from raytrain_xai.storage import write_bytes

_FLUSH_S = 30.0  # for people who watch a long epoch; S3 cannot append, so there only checkpoints flush


class TensorBoardSink:
    """Events of one attempt, in a file of ``<run>/tensorboard``; see :class:`raytrain_xai.runners.tracking.Sink`."""

    def __init__(self, attempt: Attempt, resumed_at: int) -> None:
        now = time.time()
        name = f"events.out.tfevents.{now:.0f}.{socket.gethostname()}.{attempt.number}"
        self._file = attempt.run.child(TENSORBOARD, name)
        self._written = b""  # of a file on S3, which is always written whole
        self._size = 0  # bytes of a local file that are whole records
        self._pending: list[bytes] = [_record(Event(wall_time=now, file_version="brain.Event:2"))]
        self._flushed_at = time.monotonic()
        if resumed_at:  # hides what an interrupted attempt logged beyond the checkpoint this one resumes from
            start = SessionLog(status=SessionLog.START)
            self._pending.append(_record(Event(wall_time=now, step=resumed_at, session_log=start)))

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Add the values of one record.

        Raises:
            DataError: the file cannot be written.
        """
        now = time.time()
        events = (Event(wall_time=now, step=step, summary=scalar(name, value)) for name, value in values.items())
        self._pending += [_record(event) for event in events]
        if self._file.is_local and time.monotonic() - self._flushed_at > _FLUSH_S:
            self.flush()

    def flush(self) -> None:
        """Make them durable.

        Raises:
            DataError: the file cannot be written.
        """
        data = b"".join(self._pending)
        if not self._file.is_local:
            self._written += data
            write_bytes(self._file, self._written)
        else:
            self._append(data)
        self._pending = []
        self._flushed_at = time.monotonic()

    def close(self, status: str) -> None:  # noqa: ARG002 - event files know no status
        """The last flush."""
        self.flush()

    def _append(self, data: bytes) -> None:
        path = Path(self._file.path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.truncate(self._size)  # drops the part of a failed write that fitted
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"cannot write {self._file.uri}: {error}") from error
        self._size += len(data)


def _record(event: Event) -> bytes:
    """The event as TFRecord: length and content, each with its checksum."""
    data = event.SerializeToString()
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))
