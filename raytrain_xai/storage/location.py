"""Where a file or folder lies: on a local disk, or on S3."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs

from raytrain_xai.errors import ConfigError
from raytrain_xai.storage.address import connect, parse_s3


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
        ConfigError: unknown scheme, no bucket, credentials in the address, or an S3 address that the client refuses.
    """
    if not uri.strip():
        raise ConfigError("an empty address; give a folder or s3://BUCKET/PATH")
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", uri)
    if scheme is None:
        return Location(fs.LocalFileSystem(), str(Path(uri).expanduser().absolute()), uri)
    if scheme[1].lower() == "s3":
        address = parse_s3(uri)
        return Location(connect(address, uri), address.path, uri)
    if scheme[1].lower() != "file":
        raise ConfigError(f"{uri}: scheme {scheme[1]}:// is not supported; give a folder, file:// or s3://BUCKET/PATH")
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
        raise ConfigError(f"{uri}: {' '.join(str(error).split())}; expected file:///FOLDER") from error
    return Location(filesystem, path.rstrip("/") or "/", uri)
