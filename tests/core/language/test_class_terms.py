from __future__ import annotations

from pathlib import Path

import pytest

from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.language.terms import read_terms, terms_of


def test_imagenet_says_what_kind_of_thing_a_name_is() -> None:
    terms = read_terms("imagenet")
    assert len(terms) == len(set(terms.values())) == 1000
    assert list(terms)[0] == "n01440764" and terms["n01440764"] == "tench, fish"
    assert terms["n02389026"] == "sorrel, horse"
    assert terms["n02412080"] == "ram, sheep"
    assert terms["n02012849"] == "crane, bird" and terms["n03126707"] == "crane, machine"


def test_the_order_of_imagenet_is_that_of_its_classes(shared_data: Path) -> None:
    lines = (shared_data / "imagenet_sample" / "classes.csv").read_text().splitlines()[1:]
    assert list(read_terms("imagenet")) == [line.split(",")[1] for line in lines]


def test_voc_is_written_out() -> None:
    assert terms_of(("tvmonitor", "dog"), "voc") == ("tv monitor", "dog")


def test_names_are_terms_without_a_table() -> None:
    assert terms_of(("dining table", "traffic_light"), None) == ("dining table", "traffic light")


def test_own_tables(tmp_path: Path) -> None:
    file = tmp_path / "own.csv"
    file.write_text('class,term\nk9,"dog, pet"\nf3,café\n', encoding="utf-8")
    assert terms_of(("f3", "k9"), str(file)) == ("café", "dog, pet")
    with pytest.raises(DataError, match=r"no term for 1 of 2 classes, such as 'x'"):
        terms_of(("k9", "x"), str(file))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"class,term\na,b\na,c\n", "names a class twice"),
        (b"class,word\na,b\n", "expected the columns class and term"),
        (b"class,term\na,\n", "both filled"),
        (b"", "is no table of terms"),
        (b"class,term\na,\xff\n", "not a CSV file in UTF-8"),
    ],
)
def test_damaged_tables(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_terms(str(tmp_path / "own.csv"))


def test_no_table_of_this_name() -> None:
    with pytest.raises(ConfigError, match="give imagenet, voc or a CSV file"):
        read_terms("imagenet21k")
