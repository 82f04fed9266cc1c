"""Scenes in words: "two dogs, a person and a couch"."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from raytrain_xai.captioning.scenes import Scene, Thing

MAX_THINGS = 4  # named in a sentence, the largest first
FORMS = ("{}", "a photo of {}", "a picture that shows {}")
"""Sentences that stand for the same scene: they are read, the bare list is written."""

_NUMBERS = ("", "a", "two", "three", "four")
_MANY = "several"
_PLURALS: Mapping[str, str] = MappingProxyType({
    "person": "people", "mouse": "mice", "sheep": "sheep", "knife": "knives", "wine glass": "wine glasses",
    "scissors": "scissors", "skis": "skis", "broccoli": "broccoli", "man": "men", "woman": "women", "fish": "fish",
    "child": "children", "tooth": "teeth", "foot": "feet", "goose": "geese", "wolf": "wolves", "leaf": "leaves",
    "deer": "deer", "ox": "oxen",
})  # fmt: skip
_WITHOUT_ARTICLE = frozenset({"scissors", "skis", "broccoli"})
_SIBILANTS = ("s", "x", "z", "ch", "sh")


def plural(name: str) -> str:
    """More than one of a category, by the rules of English and a list of exceptions."""
    if name in _PLURALS:
        return _PLURALS[name]
    if name.endswith(_SIBILANTS):
        return f"{name}es"
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}s"


def phrase(thing: Thing) -> str:
    """One category with its number: "a dog", "two dogs", from five on "several dogs"."""
    if thing.count > 1:
        number = _NUMBERS[thing.count] if thing.count < len(_NUMBERS) else _MANY
        return f"{number} {plural(thing.name)}"
    if thing.name in _WITHOUT_ARTICLE:
        return thing.name
    return f"{'an' if thing.name[:1] in 'aeiou' else 'a'} {thing.name}"


def sentence(scene: Scene) -> str:
    """The things of a scene as a list, at most :data:`MAX_THINGS`: "a dog, two people and a couch"."""
    phrases = [phrase(thing) for thing in scene[:MAX_THINGS]]
    *most, last = phrases
    return f"{', '.join(most)} and {last}" if most else last
