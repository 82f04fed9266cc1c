"""Published weights as local files: a mirror folder, a cache, or the network, in this order.

A download goes into a ``.part`` file beside its target, continues there after an interruption, and gets its final name
only once it is complete and its checksum is right; several processes may ask for the same file at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from raytrain_xai.errors import CheckpointError
from raytrain_xai.models.catalogue import OfficialWeights
from raytrain_xai.storage import Location, exists, locate, read_bytes

MIRROR = "RAYTRAIN_XAI_WEIGHTS"  # names a folder or s3:// address with files under their published names
TIMEOUT_S = 30.0  # without any byte
CHUNK = 1 << 20

Progress = Callable[[int, int | None], None]
"""(bytes here, bytes in all if the server says so); called after every chunk."""


def cache_folder() -> Path:
    """Where downloads are kept: ``raytrain-xai/weights`` in ``XDG_CACHE_HOME``, by default ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "raytrain-xai" / "weights"


def find_file(weights: OfficialWeights) -> Location | None:
    """The file in the mirror folder or else in the cache; None when it is in neither."""
    places = [locate(os.environ[MIRROR]).child(weights.file)] if os.environ.get(MIRROR) else []
    places.append(locate(str(cache_folder() / weights.file)))
    return next((at for at in places if exists(at)), None)


def read_official(weights: OfficialWeights, progress: Progress | None = None) -> bytes:
    """Content of a published file, downloaded into the cache if it is not there yet; its checksum is verified.

    Raises:
        CheckpointError: as :func:`download`, or the file at hand is not the published one.
    """
    at = find_file(weights)
    if at is None:
        target = cache_folder() / weights.file
        download(weights.url, target, weights.sha256, progress)
        at = locate(str(target))
    data = read_bytes(at)
    digest = hashlib.sha256(data).hexdigest()
    if not digest.startswith(weights.sha256 or ""):
        raise CheckpointError(
            f"{at.uri} is not the published file: its SHA-256 starts with {digest[:10]}, expected {weights.sha256}; "
            f"delete it and download it again from {weights.url}"
        )
    return data


def download(url: str, target: Path, sha256: str | None, progress: Progress | None = None) -> None:
    """Download a file, continuing an earlier attempt; ``target`` appears complete and verified, or not at all.

    Args:
        url: http(s) address.
        target: file to make; nothing happens when another process has made it meanwhile.
        sha256: first hexadecimal digits of the content's SHA-256; None where none is published.
        progress: called after every chunk.
    Raises:
        CheckpointError: no network, no such file, connection lost (the part is kept), or wrong content (the part is
            deleted).
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_name(f"{target.name}.part")) as file:
            part = Path(file.name)
            if target.exists():
                part.unlink()
                return
            _receive(url, file, progress)
            file.flush()
            os.fsync(file.fileno())
            _verify(part, url, sha256)
            part.replace(target)
    except OSError as error:  # of the disk; those of the network have become messages by now
        raise CheckpointError(
            f"cannot write {target}: {error.strerror or error}; free space or set XDG_CACHE_HOME"
        ) from error


@contextmanager
def _locked(part: Path) -> Generator[BinaryIO]:
    """The file, open for appending; other processes that open it wait here for each other."""
    while True:
        with part.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            # While this process waited, another may have finished, and the name may stand for nothing or a new file.
            if _is_still(part, file):
                yield file
                return


def _is_still(part: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(part.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _receive(url: str, file: BinaryIO, progress: Progress | None) -> None:
    """Append to ``file`` what is missing of the content of ``url``."""
    response = _open(url, file)
    if response is None:
        return
    with response:
        if response.status != 206:  # the whole file, whatever was asked for
            file.truncate(0)
        here = file.tell() if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        total = None if length is None else here + int(length)
        while chunk := _read(response, url, file):
            file.write(chunk)
            here += len(chunk)
            if progress is not None:
                progress(here, total)
    if total is not None and here < total:
        raise CheckpointError(
            f"{url}: the connection ended after {here} of {total} bytes; what arrived is kept in {file.name}, "
            "start again to continue"
        )


def _open(url: str, file: BinaryIO) -> HTTPResponse | None:
    """Ask for the bytes behind those in ``file``; None when there are none left."""
    start = file.tell()
    request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        return urlopen(request, timeout=TIMEOUT_S)
    except HTTPError as error:
        error.close()
        if error.code != 416:
            raise CheckpointError(
                f"{url}: the server answered {error.code} {error.reason}; look for the file at its publisher's and "
                f"give it as model.weights, or put it into a folder that {MIRROR} names"
            ) from error
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return None
        Path(file.name).unlink()
        raise CheckpointError(
            f"{url} is shorter than the {start} bytes that an earlier attempt left in {file.name}; "
            "these were deleted, start again"
        ) from error
    except (URLError, HTTPException, OSError) as error:
        raise _unreachable(url, file, error) from error


def _read(response: HTTPResponse, url: str, file: BinaryIO) -> bytes:
    try:
        return response.read(CHUNK)
    except (HTTPException, OSError) as error:
        raise _unreachable(url, file, error) from error


def _unreachable(url: str, file: BinaryIO, error: Exception) -> CheckpointError:
    reason = error.reason if isinstance(error, URLError) else error
    target = file.name.removesuffix(".part")
    return CheckpointError(
        f"cannot download {url} ({type(reason).__name__}: {reason}); start again to continue. Without network, fetch "
        f"it on another machine and put it at {target}, or into a folder or s3:// address that {MIRROR} names"
    )


def _verify(part: Path, url: str, sha256: str | None) -> None:
    with part.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    if not digest.startswith(sha256 or ""):
        part.unlink()
        raise CheckpointError(
            f"{url} arrived with the wrong content: its SHA-256 starts with {digest[:10]}, expected {sha256}; "
            "it was deleted. Try again; if it happens again, a proxy or the server changes the file"
        )
