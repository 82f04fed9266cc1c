"""Vocabularies: what is shipped, and files of one's own."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.language.vocabulary import SHIPPED, read_vocabulary
from raytrain_xai.storage import locate, write_bytes


def write(folder: Path, content: bytes) -> str:
    file = folder / "words.txt"
    file.write_bytes(content)
    return str(file)


def test_a_file(tmp_path: Path) -> None:
    found = read_vocabulary(write(tmp_path, "# words\n dog \n\nhot dog # food\r\ncafé\n".encode()))
    assert (found.name, found.terms) == ("words", ("dog", "hot dog", "café"))
    assert found.sha256 == hashlib.sha256("dog\nhot dog\ncafé".encode()).hexdigest()


def test_other_ways_to_save_the_same_terms(tmp_path: Path) -> None:
    """A byte order mark, and letters that are composed of two characters."""
    plain = read_vocabulary(write(tmp_path, "dog\ncafé".encode()))
    assert read_vocabulary(write(tmp_path, b"\xef\xbb\xbfdog\r\ncafe\xcc\x81")).terms == plain.terms


def test_a_file_on_s3(s3_storage: str) -> None:
    at = locate(s3_storage).child("words.txt")
    write_bytes(at, b"dog\ncat\n")
    assert read_vocabulary(at.uri).terms == ("dog", "cat")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no term; write one term a line"),
        (b"# nothing\n\n  \n", "holds no term"),
        (b"dog\ncat\nDog\n", r"more than once: 'dog' \(line 1\), 'Dog' \(line 3\)"),
        (b"dog\n" + b"x" * 81, "line 2: a term has at most 80 printable characters"),
        (b"dog\tcat\n", r"line 1: .* got 'dog\\tcat'"),
    ],
)
def test_terms_that_cannot_be_used(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_vocabulary(write(tmp_path, content))


def test_other_encodings(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not UTF-8 \(byte 3\); save it as UTF-8"):
        read_vocabulary(write(tmp_path, "café".encode("latin-1")))


def test_an_unknown_name_lists_the_shipped_ones() -> None:
    with pytest.raises(DataError, match="a vocabulary is one of common, coco, imagenet, voc, or a text file"):
        read_vocabulary("comon")


def test_the_shipped_lists() -> None:
    sizes = {name: len(read_vocabulary(name).terms) for name in SHIPPED}
    assert sizes["voc"] == 20 and sizes["coco"] == 80 and sizes["imagenet"] == 1000
    assert 1400 <= sizes["common"] <= 1800
    assert read_vocabulary("voc").terms[:2] == ("airplane", "bicycle")
    assert {"dog", "grass", "sleeping", "furry", "kitchen"} <= set(read_vocabulary("common").terms)


def test_categories_of_coco_are_in_their_order(shared_data: Path) -> None:
    coco = json.loads((shared_data / "coco/annotations/instances_train.json").read_text(encoding="utf-8"))
    by_id = sorted(coco["categories"], key=lambda category: category["id"])
    assert list(read_vocabulary("coco").terms) == [category["name"] for category in by_id]
