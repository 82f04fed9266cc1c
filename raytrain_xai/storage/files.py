"""Reading and writing whole files, and parts of them."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import uuid
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import pyarrow as pa
from pyarrow import NativeFile, fs

from raytrain_xai.errors import DataError
from raytrain_xai.storage.location import Location
from raytrain_xai.storage.named import TEMPORARY, named, performed

Stamp = tuple[int, int]  # size in bytes and time of the last change in nanoseconds: another after another content

_CONNECTIONS = 16  # requests to S3 that are under way together
_PIECE = 32 << 20  # bytes that are read again after a broken connection


def exists(at: Location) -> bool:
    """Whether a file or folder is there (on S3 a folder exists while something lies below it)."""
    return performed(at, "look up", lambda: at.filesystem.get_file_info(at.path).type) != fs.FileType.NotFound


def which_exist(at: Location, names: Sequence[str]) -> set[str]:
    """Those of many names below a folder (with ``/``) that are there; on S3 they are looked up together."""
    places = [at.child(*name.split("/")) for name in names]
    if at.is_local or len(places) < 2:
        return {name for name, place in zip(names, places, strict=True) if exists(place)}
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        return {name for name, found in zip(names, pool.map(exists, places), strict=True) if found}


def stamp_of(at: Location) -> Stamp | None:
    """What tells without reading it whether a file was written again; None when it is absent."""
    info = performed(at, "look up", lambda: at.filesystem.get_file_info(at.path))
    return (info.size or 0, info.mtime_ns or 0) if info.type == fs.FileType.File else None


def read_bytes(at: Location) -> bytes:
    """Content of a file.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    if at.is_local:
        with named(at, "read"), at.filesystem.open_input_stream(at.path) as stream:
            return stream.read()
    with contextlib.closing(_RemoteFile(at)) as file:
        return file.read()


def read_many(at: Location, names: Sequence[str]) -> list[bytes]:
    """Contents of many small files of a folder, in their order; those on S3 are fetched together.

    Raises:
        DataError: one is missing or cannot be read.
    """
    places = [at.child(name) for name in names]
    if at.is_local or len(places) < 2:
        return [read_bytes(place) for place in places]
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        return list(pool.map(read_bytes, places))


@contextlib.contextmanager
def open_file(at: Location) -> Generator[NativeFile]:
    """A file for reading at any position, for formats that are read in part; closed at the end of the block.

    On S3 every read is repeated by itself when the connection breaks.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    if at.is_local:
        with named(at, "read"), at.filesystem.open_input_file(at.path) as file:
            yield file
        return
    with named(at, "read"), pa.PythonFile(_RemoteFile(at), mode="r") as file:
        yield file


def write_bytes(at: Location, data: bytes) -> None:
    """Write a whole file or nothing: readers see the old content or the new, also after a crash.

    Local: written beside the target, flushed to disk, renamed over it. S3: one object, visible when complete.
    Missing parent folders are made.

    Raises:
        DataError: the place cannot be written.
    """
    if at.is_local:
        with named(at, "write"):
            _replace_local(Path(at.path), data)
        return

    performed(at, "write", lambda: _put(at, data))


def write_files(at: Location, files: Iterable[tuple[str, bytes]]) -> None:
    """Write many small files that can be made again: unlike :func:`write_bytes`, without waiting for the disk at each.

    Args:
        at: folder, made when absent.
        files: relative name with ``/`` -> content; made as they are written, never all in memory.
    Raises:
        DataError: the place cannot be written.
    """
    if at.is_local:
        with named(at, "write"):
            for name, data in files:
                target = Path(at.path, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
        return
    with ThreadPoolExecutor(_CONNECTIONS) as pool:  # a request of a small object is all waiting
        rest = iter(files)
        while group := list(islice(rest, 16 * _CONNECTIONS)):
            list(pool.map(lambda file: write_bytes(at.child(*file[0].split("/")), file[1]), group))


def sync_folder(path: Path) -> None:
    """Renames in a folder must survive a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _put(at: Location, data: bytes) -> None:
    """Write one object, in a thread that signals do not interrupt.

    An exception that a signal raises (Ctrl-C) between opening and writing would have the client close the stream, and
    so replace the object by an empty one.
    """

    def put() -> None:
        with at.filesystem.open_output_stream(at.path) as stream:
            stream.write(data)

    if threading.current_thread() is not threading.main_thread():
        put()
        return
    with ThreadPoolExecutor(1) as pool:  # its end waits for the write,
        pool.submit(int).result()  # if the thread was there before: one whose start a signal interrupts is not known
        pool.submit(put).result()


def _replace_local(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(target.parent)


class _RemoteFile(io.RawIOBase):
    """An object on S3 as a file of Python: every read is a request of its own, and may be repeated."""

    def __init__(self, at: Location) -> None:
        """
        Raises:
            DataError: the object is missing or cannot be reached.
        """
        self._at = at
        self._file = performed(at, "read", lambda: at.filesystem.open_input_file(at.path))
        self._size = self._file.size()
        self._position = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """Position of the next read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position of the next read."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int = -1) -> bytes:
        """The next ``size`` bytes, or all that are left; fewer only at the end.

        Raises:
            DataError: they cannot be read, or the object was replaced by a shorter one meanwhile.
        """
        left = max(0, self._size - self._position)
        end = self._position + (left if size < 0 else min(size, left))
        pieces: list[bytes] = []
        while self._position < end:
            pieces.append(self._piece(min(_PIECE, end - self._position)))
            self._position += len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        """Let go of the client."""
        self._file.close()
        super().close()

    def _piece(self, size: int) -> bytes:
        start = self._position
        data: bytes = performed(self._at, "read", lambda: self._file.read_at(size, start))
        if len(data) != size:
            raise DataError(f"cannot read {self._at.uri}: it was replaced while it was read; try again")
        return data
