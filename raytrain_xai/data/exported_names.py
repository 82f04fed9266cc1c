"""Which image of a data set an annotation tool means by the name of a file.

Names come back changed: CVAT keeps the folder an image lay in; Label Studio puts 8 digits and ``-`` in front of a file
that was uploaded, 6 or 8 digits and ``__`` in front of one it has fetched, or gives the address under which it serves
the file (``/data/local-files/?d=…``); on Windows folders end in backslashes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import unquote

from raytrain_xai.data.image_names import image_stem
from raytrain_xai.errors import DataError

_HASH = re.compile(r"[0-9a-f]{6,8}(?:-|__)")
_SUFFIX = re.compile(r"\.(?:jpe?g|png|webp|bmp)$", re.IGNORECASE)


class ImageFinder:
    """Finds the ids of a data set under the names that tools give to the files."""

    def __init__(self, ids: Iterable[str]) -> None:
        self._ids: dict[str, set[str]] = {}
        for id in ids:
            for key in {id, _SUFFIX.sub("", id), image_stem(id)}:
                self._ids.setdefault(key, set()).add(id)

    def find(self, names: Sequence[str]) -> str:
        """Id of the image that the first fitting name means.

        Raises:
            DataError: no image has such a name, or several have.
        """
        for key in (key for name in names for key in _keys(name)):
            found = self._ids.get(key, set())
            if len(found) > 1:
                raise DataError(f"{key} may be any of {', '.join(sorted(found)[:5])}")
            if found:
                return next(iter(found))
        raise DataError("no image of the data set has this name; files must be called as `annotate suggest` wrote them")


def _keys(name: str) -> list[str]:
    """What an id may look like in the name of a file, the most literal first."""
    path = unquote(name.rpartition("?d=")[2].partition("?")[0]).replace("\\", "/")
    folder, _, file = path.rpartition("/")
    plain = [name, path, *_tails(folder, file)]
    unprefixed = _HASH.sub("", file, count=1) if _HASH.match(file) else None
    keys = plain if unprefixed is None else [*plain, *_tails(folder, unprefixed)]
    keys = [variant for key in keys for variant in (key, _SUFFIX.sub("", key))]
    stem = _SUFFIX.sub("", file)
    # COCO fills its numbers up with zeros in file names
    return [*keys, stem.lstrip("0")] if stem.isdecimal() else keys


def _tails(folder: str, file: str) -> list[str]:
    """The file below ever fewer of its folders: a/b/f, b/f, f."""
    parts = [part for part in folder.split("/") if part]
    return ["/".join([*parts[start:], file]) for start in range(len(parts) + 1)]
