"""What a cluster brings along, told by a job that runs this file on its head.

Standard library only: the head may have an older version of this package, or none. Prints one line of JSON.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("raytrain_xai", "serve")
"""Import names of what the wheel holds."""


def digest_of(folders: list[Path]) -> str:
    """Digest of all files in package folders, whatever lies around them and whatever Python compiled."""
    digest = hashlib.sha256()
    for folder in folders:
        for file in sorted(_files(folder)):
            content = file.read_bytes()
            digest.update(f"{folder.name}/{file.relative_to(folder).as_posix()} {len(content)}\n".encode())
            digest.update(content)
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    return (file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)


def _installed() -> str | None:
    """Digest of this package on this machine, or None when a part of it is missing."""
    specs = [find_spec(name) for name in PACKAGES]
    if any(spec is None or spec.origin is None for spec in specs):
        return None
    return digest_of([Path(spec.origin).parent for spec in specs if spec is not None and spec.origin is not None])


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    found = {
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in sys.argv[1:]},
        "digest": _installed(),
    }
    sys.stdout.write(json.dumps(found) + "\n")
