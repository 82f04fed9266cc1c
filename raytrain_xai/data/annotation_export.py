"""Open what an annotation tool exported: a file, a folder or a ZIP archive, local or on S3."""

from __future__ import annotations

import contextlib
import zipfile
import zlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from typing import IO, Literal, cast

from raytrain_xai.data.annotation_coco import parse_coco
from raytrain_xai.data.annotation_records import Export, ExportFormat
from raytrain_xai.data.annotation_voc import parse_voc
from raytrain_xai.errors import DataError
from raytrain_xai.storage import Location, exists, list_tree, locate, open_file, read_bytes, stamp_of

_SUFFIX_OF: Mapping[ExportFormat, str] = {"coco": ".json", "voc": ".xml"}
_TITLES: Mapping[ExportFormat, str] = {"coco": "COCO", "voc": "Pascal VOC"}
_MAX_BYTES = 2**30  # of all annotation files together, unpacked: a small archive must not fill the memory


def read_export(address: str, format: ExportFormat | None = None) -> Export:
    """Read an export.

    Args:
        address: file, ZIP archive or folder; local or s3://.
        format: None tells it by the files.
    Raises:
        DataError: nothing there, no annotation files of the format, both formats, or a file that is not such a file.
    """
    at = locate(address)
    held = _held(at)
    sizes = {name: size for name, size in _sizes(at, held).items() if not _is_hidden(name)}
    if format is None:
        format = _only_format(address, sizes)
    wanted = [name for name in sizes if name.endswith(_SUFFIX_OF[format])]
    if not wanted:
        raise DataError(f"{address} holds no {_SUFFIX_OF[format]} file; export it as {_TITLES[format]}")
    if sum(sizes[name] for name in wanted) > _MAX_BYTES:
        raise DataError(f"the annotation files in {address} have more than 1 GiB together; export fewer images at once")
    return (parse_coco if format == "coco" else parse_voc)(address, _contents(at, held, wanted))


def _only_format(address: str, names: Iterable[str]) -> ExportFormat:
    endings = {name[-5:] for name in names} | {name[-4:] for name in names}
    found: list[ExportFormat] = [kind for kind, suffix in _SUFFIX_OF.items() if suffix in endings]
    if len(found) == 1:
        return found[0]
    held = "both .json and .xml files" if found else "neither .json (COCO) nor .xml (Pascal VOC) files"
    raise DataError(f"{address} holds {held}; export as COCO or Pascal VOC, and tell by --format which it is")


def _held(at: Location) -> Literal["folder", "file", "archive"]:
    """What lies at the address.

    Raises:
        DataError: nothing.
    """
    if stamp_of(at) is None:
        if not exists(at):
            raise DataError(f"{at.uri} does not exist; give the file, ZIP archive or folder that the tool exported")
        return "folder"
    with open_file(at) as file:
        return "archive" if file.read(2) == b"PK" else "file"


def _sizes(at: Location, held: str) -> dict[str, int]:
    """Bytes of each file, unpacked."""
    if held == "folder":
        return list_tree(at)
    if held == "file":
        stamp = stamp_of(at)
        return {at.path.rpartition("/")[2]: 0 if stamp is None else stamp[0]}
    with _archive(at) as archive:
        return {info.filename: info.file_size for info in archive.infolist() if not info.is_dir()}


def _contents(at: Location, held: str, names: Sequence[str]) -> dict[str, bytes]:
    if held == "folder":
        return {name: read_bytes(at.child(*name.split("/"))) for name in names}
    if held == "file":
        return {name: read_bytes(at) for name in names}
    with _archive(at) as archive:
        return {name: archive.read(name) for name in names}


@contextlib.contextmanager
def _archive(at: Location) -> Generator[zipfile.ZipFile]:
    try:
        with open_file(at) as file, zipfile.ZipFile(cast("IO[bytes]", file)) as archive:
            yield archive
    # RuntimeError: encrypted; NotImplementedError: packed in a way that Python does not know; ValueError: pyarrow's for
    # a place before the beginning of a file, where the directory of an archive is looked for
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError, ValueError) as error:
        raise DataError(f"{at.uri} is a damaged or encrypted ZIP archive: {error}; export it again") from error


def _is_hidden(name: str) -> bool:
    """What macOS and other tools put into archives beside the files."""
    return any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
