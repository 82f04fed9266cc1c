"""Folders on a local disk or on S3 behind one small set of functions.

Everything the package stores (data sets, runs, checkpoints) goes through here, so that a local folder and an
``s3://`` address differ in nothing else. S3 credentials and region come from the usual AWS variables and
files; another server than Amazon's is named by ``AWS_ENDPOINT_URL`` or by
``?endpoint_override=HOST:PORT&scheme=http`` in the address.
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from pyarrow import NativeFile, fs

from raytrain_xai.errors import ConfigError, DataError

_CONNECTIONS = 16  # requests to S3 that are under way together
_TEMPORARY = ".unfinished-"  # prefix of files that a killed writer may leave; never listed

Stamp = tuple[int, int]  # size in bytes and time of the last change in nanoseconds: another after another content


@dataclass(frozen=True)
class Location:
    """A file or folder on a filesystem.

    Attributes:
        filesystem: where it lives; picklable, so a location may travel to other processes.
        path: address on that filesystem, absolute and without scheme.
        uri: the address as the user wrote it; for messages and for :func:`locate`.
    """

    filesystem: fs.FileSystem
    path: str
    uri: str

    def child(self, *parts: str) -> Location:
        """The location below this one; options at the end of an address (``?…``) are kept."""
        base, question, options = self.uri.partition("?") if "://" in self.uri else (self.uri, "", "")
        uri = "/".join([base.rstrip("/") or "/", *parts]) + question + options
        return Location(self.filesystem, "/".join([self.path.rstrip("/"), *parts]), uri)

    @property
    def is_local(self) -> bool:
        """True on the disk of this machine, where files can be memory-mapped and processes forked."""
        return isinstance(self.filesystem, fs.LocalFileSystem)


def locate(uri: str) -> Location:
    """Resolve a folder (relative, absolute, ``~``), a ``file://`` or an ``s3://`` address.

    Raises:
        ConfigError: unknown scheme, no bucket, or an S3 address that the client refuses.
    """
    if not uri.strip():
        raise ConfigError("an empty address; give a folder or s3://BUCKET/PATH")
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    if scheme is None:
        return Location(fs.LocalFileSystem(), str(Path(uri).expanduser().absolute()), uri)
    if scheme[1].lower() not in ("file", "s3"):
        raise ConfigError(f"{uri}: scheme {scheme[1]}:// is not supported; give a folder, file:// or s3://BUCKET/PATH")
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise ConfigError(
            f"{uri}: {_one_line(error)}; expected s3://BUCKET/PATH[?endpoint_override=HOST:PORT]"
        ) from error
    if not path.strip("/"):
        raise ConfigError(f"{uri}: no bucket or path; expected s3://BUCKET/PATH")
    return Location(filesystem, path.rstrip("/"), uri)


def exists(at: Location) -> bool:
    """Whether a file or folder is there (on S3 a folder exists while something lies below it)."""
    with _named(at, "look up"):
        return at.filesystem.get_file_info(at.path).type != fs.FileType.NotFound


def which_exist(at: Location, names: Sequence[str]) -> set[str]:
    """Those of many names below a folder (with ``/``) that are there; on S3 they are looked up together."""
    places = [at.child(*name.split("/")) for name in names]
    if at.is_local or len(places) < 2:
        return {name for name, place in zip(names, places, strict=True) if exists(place)}
    with ThreadPoolExecutor(_CONNECTIONS) as pool:
        return {name for name, found in zip(names, pool.map(exists, places), strict=True) if found}


def stamp_of(at: Location) -> Stamp | None:
    """What tells without reading it whether a file was written again; None when it is absent."""
    with _named(at, "look up"):
        info = at.filesystem.get_file_info(at.path)
    return (info.size or 0, info.mtime_ns or 0) if info.type == fs.FileType.File else None


def read_bytes(at: Location) -> bytes:
    """Content of a file.

    Raises:
        DataError: the file is missing or cannot be read.
    """
    with _named(at, "read"), at.filesystem.open_input_stream(at.path) as stream:
        return stream.read()


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

    Raises:
        DataError: the file is missing or cannot be read.
    """
    with _named(at, "read"), at.filesystem.open_input_file(at.path) as file:
        yield file


def write_bytes(at: Location, data: bytes) -> None:
    """Write a whole file or nothing: readers see the old content or the new, also after a crash.

    Local: written beside the target, flushed to disk, renamed over it. S3: one object, visible when complete.
    Missing parent folders are made.

    Raises:
        DataError: the place cannot be written.
    """
    with _named(at, "write"):
        if at.is_local:
            _replace_local(Path(at.path), data)
            return
        with at.filesystem.open_output_stream(at.path) as stream:
            stream.write(data)


def write_files(at: Location, files: Iterable[tuple[str, bytes]]) -> None:
    """Write many small files that can be made again: unlike :func:`write_bytes`, without waiting for the disk at each.

    Args:
        at: folder, made when absent.
        files: relative name with ``/`` -> content; made as they are written, never all in memory.
    Raises:
        DataError: the place cannot be written.
    """
    with _named(at, "write"):
        if at.is_local:
            for name, data in files:
                target = Path(at.path, name)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
            return
        with ThreadPoolExecutor(_CONNECTIONS) as pool:  # a request of a small object is all waiting
            rest = iter(files)
            while group := list(islice(rest, 16 * _CONNECTIONS)):
                list(pool.map(lambda file: write_bytes(at.child(*file[0].split("/")), file[1]), group))


def list_names(at: Location) -> list[str]:
    """Sorted names directly below a folder (none when absent); leftovers of killed writers are hidden."""
    with _named(at, "list"):
        names = _local_names(at.path) if at.is_local else _remote_names(at)
    return sorted(name for name in names if not name.startswith(_TEMPORARY))


def list_sizes(at: Location) -> dict[str, int]:
    """Bytes of every file directly below a folder (none when absent), sorted by name; as :func:`list_names` hides."""
    with _named(at, "list"):
        found = _local_sizes(at.path) if at.is_local else _remote_sizes(at)
    return {name: found[name] for name in sorted(found) if not name.startswith(_TEMPORARY)}


def list_tree(at: Location) -> dict[str, int]:
    """Bytes of every file below a folder, at any depth: name relative to it, with ``/`` -> size, sorted by name.

    Raises:
        DataError: there is no such folder, or it cannot be listed.
    """
    with _named(at, "list"):
        found = at.filesystem.get_file_info(fs.FileSelector(at.path, recursive=True))
    start = len(at.path.rstrip("/")) + 1
    sizes = {info.path[start:]: info.size for info in found if info.type == fs.FileType.File}
    return {name: sizes[name] for name in sorted(sizes) if not name.rpartition("/")[2].startswith(_TEMPORARY)}


def delete_tree(at: Location) -> None:
    """Remove a file, or a folder with all below it; nothing happens when it is absent."""
    with _named(at, "delete"):
        kind = at.filesystem.get_file_info(at.path).type
        if kind == fs.FileType.Directory:
            at.filesystem.delete_dir(at.path)
        elif kind != fs.FileType.NotFound:
            at.filesystem.delete_file(at.path)


def unfinished(at: Location, tag: str) -> Location:
    """Folder beside a local one in which it is prepared, on the same disk and never listed; ``tag`` tells apart."""
    path = Path(at.path)
    place = str(path.with_name(f"{_TEMPORARY}{path.name}-{tag}"))
    return Location(at.filesystem, place, place)


def rename_folder(source: Location, target: Location) -> None:
    """Give a local folder its name in one step; ``target`` is absent or empty.

    Raises:
        DataError: ``target`` holds something, or cannot be written.
    """
    with _named(target, "write"):
        Path(source.path).rename(target.path)
        _sync_folder(Path(target.path).parent)


def _local_names(path: str) -> list[str]:
    # pyarrow looks at every entry it finds, and fails when one (a file being written) is renamed meanwhile
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []


def _local_sizes(path: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for name in _local_names(path):
        with contextlib.suppress(FileNotFoundError):  # renamed or removed since the folder was listed
            entry = Path(path, name)
            if entry.is_file():
                sizes[name] = entry.stat().st_size
    return sizes


def _remote_sizes(at: Location) -> dict[str, int]:
    found = at.filesystem.get_file_info(fs.FileSelector(at.path, allow_not_found=True))
    return {info.base_name: info.size for info in found if info.type == fs.FileType.File}


def _remote_names(at: Location) -> list[str]:
    found = at.filesystem.get_file_info(fs.FileSelector(at.path, allow_not_found=True))
    return [info.base_name for info in found]


def _replace_local(target: Path, data: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f"{_TEMPORARY}{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(target.parent)


def _sync_folder(path: Path) -> None:
    """Renames in a folder must survive a power cut."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def _named(at: Location, action: str) -> Generator[None]:
    """Turn filesystem errors into one that names the address."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"cannot {action} {at.uri}: it does not exist") from error
    except OSError as error:
        raise DataError(f"cannot {action} {at.uri}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
