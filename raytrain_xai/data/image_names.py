"""File names for images that leave a stored data set and come back with annotations.

An id may be a path (``train/cat/0.png``), and what annotation tools allow in a name differs: slashes become folders,
``%`` and ``?`` break the address under which Label Studio serves a file.
"""

from __future__ import annotations

import hashlib
import re

_LONGEST = 100  # characters; file systems allow 255, and tools put numbers and hashes in front
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


def image_stem(id: str) -> str:
    """Name of an image's file without its suffix: a function of the id, different for different ids.

    Args:
        id: of a stored image.
    Returns:
        The id itself where it has letters, digits, ``.``, ``_`` and ``-`` only, begins with none of the last three and
        is no longer than 100 characters; else its end made so, ``-`` and 8 digits of its SHA-256.
    """
    safe = _UNSAFE.sub("_", id)[-_LONGEST:].lstrip("._-")
    if safe == id:
        return id
    return f"{safe or 'image'}-{hashlib.sha256(id.encode()).hexdigest()[:8]}"
