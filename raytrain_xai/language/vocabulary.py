"""Vocabularies: the terms that concepts may be named with, as plain text files with one term a line."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from dataclasses import dataclass
from importlib.resources import files
from pathlib import PurePosixPath

from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.language.terms import SHIPPED as TABLES
from raytrain_xai.language.terms import read_terms
from raytrain_xai.storage import locate, read_bytes

LISTS = ("common", "coco")
SHIPPED = (*LISTS, *TABLES)
MAX_LENGTH = 80  # characters of a term, as many as a name of a concept may have


@dataclass(frozen=True)
class Vocabulary:
    """Terms to name concepts with.

    Attributes:
        name: a shipped list, or the file name without its ending.
        terms: in the order of the file, all different.
        sha256: of the terms joined by newlines, so comments and spaces around terms do not change it.
    """

    name: str
    terms: tuple[str, ...]
    sha256: str


def read_vocabulary(text: str) -> Vocabulary:
    """A shipped list by its name, or a file of one's own.

    Files are UTF-8 with one term a line; what follows ``#`` is a comment, empty lines and spaces around terms do not
    count. ``common`` holds everyday English nouns, adjectives and verbs; ``coco``, ``voc`` and ``imagenet`` the classes
    of these data sets in their order, the latter two as :mod:`raytrain_xai.language.terms` writes them out.

    Args:
        text: ``common``, ``coco``, ``voc`` or ``imagenet``; or a file, local or s3://.
    Raises:
        ConfigError: no term, the same term twice (letter case aside), or a term that is no name: too long or with
            control characters.
        DataError: no such file, or it is not UTF-8.
    """
    if text in TABLES:
        return _vocabulary(text, tuple(read_terms(text).values()))
    if text in LISTS:
        content = (files("raytrain_xai.language") / "vocabularies" / f"{text}.txt").read_bytes()
        return parse_vocabulary(text, content, source=text)
    at = locate(text)
    try:
        content = read_bytes(at)
    except DataError as error:
        raise DataError(f"{error}; a vocabulary is one of {', '.join(SHIPPED)}, or a text file") from error
    return parse_vocabulary(PurePosixPath(at.path).stem, content, source=text)


def parse_vocabulary(name: str, content: bytes, *, source: str) -> Vocabulary:
    """A vocabulary from the bytes of a file; ``source`` is its address for messages. See :func:`read_vocabulary`."""
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"vocabulary {source} is not UTF-8 (byte {error.start}); save it as UTF-8 text, one term a line"
        ) from error
    stripped = (unicodedata.normalize("NFC", line.partition("#")[0].strip()) for line in lines)
    numbered = [(number, term) for number, term in enumerate(stripped, start=1) if term]
    if not numbered:
        raise ConfigError(f"vocabulary {source} holds no term; write one term a line")
    for number, term in numbered:
        if len(term) > MAX_LENGTH or not term.isprintable():
            raise ConfigError(
                f"vocabulary {source}, line {number}: a term has at most {MAX_LENGTH} printable characters, got "
                f"{term[:MAX_LENGTH]!r}"
            )
    counts = Counter(term.casefold() for _, term in numbered)
    repeated = [f"{term!r} (line {number})" for number, term in numbered if counts[term.casefold()] > 1]
    if repeated:
        raise ConfigError(f"vocabulary {source} has terms more than once: {', '.join(repeated[:6])}; keep one of each")
    return _vocabulary(name, tuple(term for _, term in numbered))


def _vocabulary(name: str, terms: tuple[str, ...]) -> Vocabulary:
    return Vocabulary(name, terms, hashlib.sha256("\n".join(terms).encode()).hexdigest())
