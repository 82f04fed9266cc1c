"""Whether a name is one for a class of a data set: "puppy" and "Saluki, dog" are names for dogs."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

_NO_KIND = "-"


def kind_of(name: str) -> str:
    """What a name says a thing is: ``dog`` for "puppy", "Saluki, dog" and "black dog".

    The whole name decides, else what stands behind its last comma, else its last word; a name of no listed kind is
    returned in small letters, so that class names are their own kind. The table, ``vocabularies/kinds.txt``, covers the
    classes of VOC and those of COCO that have other names. It is a list of words: "Persian" is no cat to it.
    """
    term = name.casefold().replace("_", " ").strip()
    gloss = term.rpartition(",")[2].strip()  # "lion, wild cat" is a wild cat, not a cat
    for phrase in (term, gloss, gloss.rpartition(" ")[2]):
        if phrase in (known := _kinds()):
            return term if known[phrase] == _NO_KIND else known[phrase]
    return term


@cache
def _kinds() -> dict[str, str]:
    """Word -> kind; a kind is its own."""
    text = (files("raytrain_xai.language") / "vocabularies" / "kinds.txt").read_text(encoding="utf-8")
    lines = [line.partition(":") for line in text.splitlines() if line and not line.startswith("#")]
    pairs = [(word.strip(), kind) for kind, _, words in lines for word in (kind, *words.split(","))]
    kinds = dict(pairs)
    assert len(kinds) == len(pairs), "a word is listed twice"
    return kinds
