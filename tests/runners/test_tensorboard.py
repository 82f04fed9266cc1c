"""Event files: readable records, a restart that hides what it repeats, and a disk that is full for a while."""

from __future__ import annotations

import resource
import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from raytrain_xai.errors import DataError
from raytrain_xai.run_folder import claim_attempt
from raytrain_xai.runners.tensorboard import TensorBoardSink
from raytrain_xai.storage import locate


def events(run: Path) -> list[Event]:
    """Of the only file; every checksum is checked."""
    [file] = (run / "tensorboard").glob("events.out.tfevents.*")
    data, found = file.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        content = data[12 : 12 + length]
        assert struct.unpack("<I", data[8:12])[0] == masked_crc32c(data[:8])
        assert struct.unpack("<I", data[12 + length : 16 + length])[0] == masked_crc32c(content)
        found.append(Event.FromString(content))
        data = data[16 + length :]
    return found


def scalars(run: Path) -> list[tuple[int, str, float]]:
    return [(event.step, value.tag, value.simple_value) for event in events(run) for value in event.summary.value]


def test_records_can_be_read_and_a_restart_purges(tmp_path: Path) -> None:
    sink = TensorBoardSink(claim_attempt(locate(str(tmp_path))), resumed_at=7)
    sink.scalars({"train/loss": 0.5, "val/f1": 0.25}, step=8)
    sink.flush()
    sink.scalars({"train/loss": 2.0}, step=9)
    sink.close("FINISHED")
    first, start, *_ = events(tmp_path)
    assert first.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (7, SessionLog.START)
    assert scalars(tmp_path) == [(8, "train/loss", 0.5), (8, "val/f1", 0.25), (9, "train/loss", 2.0)]


def test_attempts_of_one_second_have_files_of_their_own(tmp_path: Path) -> None:
    for _ in range(2):
        TensorBoardSink(claim_attempt(locate(str(tmp_path))), resumed_at=0).close("FINISHED")
    assert len(list((tmp_path / "tensorboard").iterdir())) == 2


def test_what_did_not_fit_is_written_whole_when_there_is_room(tmp_path: Path) -> None:
    sink = TensorBoardSink(claim_attempt(locate(str(tmp_path))), resumed_at=0)
    sink.scalars({"a": 1.0}, step=1)
    sink.flush()
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    sink.scalars({f"b{number}": 2.0 for number in range(50)}, step=2)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))
    try:
        with pytest.raises(DataError, match="cannot write .*tensorboard/events.*File too large"):
            sink.flush()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    sink.flush()
    assert scalars(tmp_path) == [(1, "a", 1.0), *((2, f"b{number}", 2.0) for number in range(50))]
