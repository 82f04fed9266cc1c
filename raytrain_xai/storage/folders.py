"""What lies in a folder, removing it, and giving a prepared one its name."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from pyarrow import fs

from raytrain_xai.storage.files import sync_folder
from raytrain_xai.storage.location import Location
from raytrain_xai.storage.named import TEMPORARY, named, performed


def list_names(at: Location) -> list[str]:
    """Sorted names directly below a folder (none when absent); leftovers of killed writers are hidden."""
    with named(at, "list"):
        names = _local_names(at.path) if at.is_local else [info.base_name for info in _remote_infos(at)]
    return sorted(name for name in names if not name.startswith(TEMPORARY))


def list_sizes(at: Location) -> dict[str, int]:
    """Bytes of every file directly below a folder (none when absent), sorted by name; as :func:`list_names` hides."""
    with named(at, "list"):
        found = _local_sizes(at.path) if at.is_local else _remote_sizes(at)
    return {name: found[name] for name in sorted(found) if not name.startswith(TEMPORARY)}


def list_tree(at: Location) -> dict[str, int]:
    """Bytes of every file below a folder, at any depth: name relative to it, with ``/`` -> size, sorted by name.

    Raises:
        DataError: there is no such folder, or it cannot be listed.
    """
    found = performed(at, "list", lambda: at.filesystem.get_file_info(fs.FileSelector(at.path, recursive=True)))
    start = len(at.path.rstrip("/")) + 1
    sizes = {info.path[start:]: info.size for info in found if info.type == fs.FileType.File}
    return {name: sizes[name] for name in sorted(sizes) if not name.rpartition("/")[2].startswith(TEMPORARY)}


def delete_tree(at: Location) -> None:
    """Remove a file, or a folder with all below it; nothing happens when it is absent. Several may do so together."""

    def delete() -> None:
        while (kind := at.filesystem.get_file_info(at.path).type) != fs.FileType.NotFound:
            with contextlib.suppress(FileNotFoundError):  # of what another process deletes at the same time
                if kind == fs.FileType.Directory:
                    at.filesystem.delete_dir(at.path)
                else:
                    at.filesystem.delete_file(at.path)

    performed(at, "delete", delete)


def leftovers(at: Location, older_than_s: float) -> Iterator[tuple[Location, int]]:
    """What killed writers left below a local folder at least so many seconds ago: files and folders, with their bytes.

    Raises:
        DataError: there is no such folder.
    """
    newest = time.time() - older_than_s
    with named(at, "list"):
        for folder, folders, files in os.walk(at.path, onerror=_raise):
            found = [name for name in (*folders, *files) if name.startswith(TEMPORARY)]
            folders[:] = [name for name in folders if name not in found]
            for name in found:
                place = Path(folder, name)
                parts = [place, *place.rglob("*")]
                with contextlib.suppress(FileNotFoundError):  # its writer was alive, and is done
                    stats = [part.stat() for part in parts]
                    if max(stat.st_mtime for stat in stats) <= newest:
                        yield Location(at.filesystem, str(place), str(place)), sum(stat.st_size for stat in stats)


def unfinished(at: Location, tag: str) -> Location:
    """Folder beside a local one in which it is prepared, on the same disk and never listed; ``tag`` tells apart."""
    path = Path(at.path)
    place = str(path.with_name(f"{TEMPORARY}{path.name}-{tag}"))
    return Location(at.filesystem, place, place)


def rename_folder(source: Location, target: Location) -> None:
    """Give a local folder its name in one step; ``target`` is absent or empty.

    Raises:
        DataError: ``target`` holds something, or cannot be written.
    """
    with named(target, "write"):
        Path(source.path).rename(target.path)
        sync_folder(Path(target.path).parent)


def _raise(error: OSError) -> None:
    raise error


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


def _remote_infos(at: Location) -> list[fs.FileInfo]:
    return performed(at, "list", lambda: at.filesystem.get_file_info(fs.FileSelector(at.path, allow_not_found=True)))


def _remote_sizes(at: Location) -> dict[str, int]:
    return {info.base_name: info.size for info in _remote_infos(at) if info.type == fs.FileType.File}
