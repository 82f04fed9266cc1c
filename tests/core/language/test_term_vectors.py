"""Terms in sentences, their mean vectors, and the cache of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.language import prompts
from raytrain_xai.language.prompts import FAMILIES, embed_terms, find_family
from raytrain_xai.language.text_cache import TextCache
from raytrain_xai.storage import locate


class Letters:
    """Text vectors are the counts of a, b and c, of unit length; no picture side."""

    name, fingerprint, dim, multiple, image_size, logit_scale = "letters", "f0", 3, 1, 8, 1.0

    def __init__(self, text_mean: Sequence[float] = (0.0, 0.0, 0.0), fingerprint: str = "f0") -> None:
        self.text_mean = torch.tensor(text_mean)
        self.device = torch.device("cpu")
        self.fingerprint = fingerprint
        self.seen: list[str] = []

    def patches(self, images: Tensor) -> Tensor:
        raise NotImplementedError

    def text(self, texts: Sequence[str]) -> Tensor:
        self.seen += texts
        counts = torch.tensor([[text.count(letter) for letter in "abc"] for text in texts], dtype=torch.float32)
        return functional.normalize(counts, dim=1)


def test_the_mean_over_templates_by_hand() -> None:
    """Term "a" in "{}" and "b{}": (1, 0, 0) and (1, 1, 0)/sqrt 2; their mean, unit, minus (0, 1, 0), unit."""
    found = embed_terms(Letters((0.0, 1.0, 0.0)), ["a"], ["{}", "b{}"])
    angle = math.pi / 8  # half way between 0 and 45 degrees
    expected = torch.tensor([[math.cos(angle), math.sin(angle) - 1, 0.0]])
    torch.testing.assert_close(found, functional.normalize(expected, dim=1))


def test_blocks_of_texts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    terms, templates = ["a", "ab", "ccb", "bb", "abc"], ["{}", "c{}", "a{}b"]
    whole = embed_terms(Letters(), terms, templates)
    monkeypatch.setattr(prompts, "TEXTS_AT_ONCE", 7)
    assert torch.equal(embed_terms(Letters(), terms, templates), whole)
    assert torch.equal(embed_terms(Letters(), ["ccb"], templates)[0], whole[2])


@pytest.mark.parametrize("templates", ["plain", [], ["a photo"], ["{} and {}"]])
def test_templates_without_one_place_are_refused(templates: Sequence[str]) -> None:
    with pytest.raises(ConfigError, match="sentences with one {} each"):
        embed_terms(Letters(), ["a"], templates)


@pytest.mark.parametrize("terms", [[], ["a", " "], "ab"])
def test_terms_without_letters_are_refused(terms: Sequence[str]) -> None:
    with pytest.raises(ConfigError, match="expected one or more terms"):
        embed_terms(Letters(), terms, ["{}"])


def test_families_have_the_sizes_they_claim() -> None:
    assert {name: len(family) for name, family in FAMILIES.items()} == {
        "plain": 7, "noun": 10, "adjective": 10, "verb": 10, "imagenet": 30,
    }  # fmt: skip
    assert all(text.count("{}") == 1 for family in FAMILIES.values() for text in family)
    assert all(len(set(family)) == len(family) for family in FAMILIES.values())
    with pytest.raises(ConfigError, match="no template family 'nouns'; there are: plain, noun, adjective"):
        find_family("nouns")


def test_a_cache_encodes_a_term_once(tmp_path: Path) -> None:
    encoder, at = Letters(), locate(str(tmp_path / "texts"))
    first = embed_terms(encoder, ["a", "bc", "a"], ["{}", "c{}"], cache=TextCache(at))
    assert encoder.seen == ["a", "ca", "bc", "cbc"]
    again = embed_terms(encoder, ["abc", "bc"], ["{}", "c{}"], cache=TextCache(at))
    assert encoder.seen[4:] == ["abc", "cabc"]
    plain = embed_terms(Letters(), ["a", "bc", "a", "abc", "bc"], ["{}", "c{}"])
    assert torch.equal(torch.cat([first, again]), plain)


def test_a_cache_tells_encoders_and_templates_apart(tmp_path: Path) -> None:
    cache = TextCache(locate(str(tmp_path)))
    encoders = [Letters(), Letters(fingerprint="f1"), Letters()]
    families = [["{}"], ["{}"], ["b{}"]]
    for encoder, templates in zip(encoders, families, strict=True):
        embed_terms(encoder, ["a"], templates, cache=cache)
    assert [encoder.seen for encoder in encoders] == [["a"], ["a"], ["ba"]]


def test_many_writers_of_one_cache(tmp_path: Path) -> None:
    terms = [[chr(97 + (writer + i) % 3) * (i + 1) + "a" for i in range(6)] for writer in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda own: embed_terms(Letters(), own, ["{}b"], cache=TextCache(locate(str(tmp_path)))), terms)
        )
    for own, vectors in zip(terms, found, strict=True):
        assert torch.equal(vectors, embed_terms(Letters(), own, ["{}b"]))
    encoder = Letters()
    embed_terms(
        encoder, sorted({term for own in terms for term in own}), ["{}b"], cache=TextCache(locate(str(tmp_path)))
    )
    assert not encoder.seen  # all are there, and every file can be read


def test_a_cache_on_s3(s3_storage: str) -> None:
    encoder = Letters()
    for _ in range(2):
        embed_terms(encoder, ["a"], ["{}"], cache=TextCache(locate(s3_storage).child("texts")))
    assert encoder.seen == ["a"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    cache = TextCache(locate(str(tmp_path)))
    embed_terms(Letters(), ["a"], ["{}"], cache=cache)
    file = next(tmp_path.rglob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=f"{file.name} is damaged; delete it"):
        embed_terms(Letters(), ["a"], ["{}"], cache=cache)
