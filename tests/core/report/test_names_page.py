"""The page to look names over: which concepts, which patches, and what people and masks say of the names."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from PIL import Image

from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.relations import relations
from raytrain_xai.errors import ConfigError
from raytrain_xai.insight.described import PICTURE_SCHEMA, PICTURES, Described, DescribedSubject
from raytrain_xai.insight.description import describe_images
from raytrain_xai.insight.naming import Naming, NamingRule
from raytrain_xai.insight.naming_score import JudgedName, NamingScore
from raytrain_xai.insight.observing import write_table
from raytrain_xai.report.names_page import write_names_page
from raytrain_xai.storage import locate


@pytest.fixture
def described(tmp_path: Path) -> Described:
    """Three images of 2 x 4 patches: concept 1 at two patches of image 0, concept 0 at one of image 2, 2 nowhere."""
    values, indices = torch.zeros(3, 8, 1), torch.zeros(3, 8, 1, dtype=torch.int64)
    values[0, 6], values[0, 1], values[2, 3] = 5.0, 4.0, 2.0
    indices[0] = 1
    sums = describe_images(SparseCode(values, indices, 3), 0, torch.full((3, 8), 255, dtype=torch.uint8), 0)
    at = locate(str(tmp_path / "insight"))
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(picture, format="JPEG")
    columns = {"row": [0, 2], "data": ["d", "d"], "id": ["a", "c"], "jpeg": [picture.getvalue()] * 2}
    write_table(at.child(PICTURES), pa.table(columns, schema=PICTURE_SCHEMA))
    subject = DescribedSubject("runs/pets", "0" * 64, 3, ("d",), "train", ("f",), 32, None, (2, 4), 3)
    made = relations(sums.seen, torch.zeros(3, dtype=torch.int64))
    return Described(at, subject, (), (3,), sums, made)


def naming() -> Naming:
    words = {"words": [("cat <b>", 0.75), ("tabby", 0.7)]}
    names = {0: ("dog", 0.5), 1: ("cat <b>", 0.75)}
    return Naming(NamingRule(), {"words": "1"}, {0: {"words": [("dog", 0.5)]}, 1: words}, names)


def page_of(address: str) -> str:
    return " ".join(Path(address).read_text(encoding="utf-8").split())


def test_frequent_concepts_come_first_with_their_patches(described: Described) -> None:
    page = page_of(write_names_page(described, naming(), {}, None))
    titles = re.findall(r"<h3>(.*?) <span>· concept (\d+) · at ([\d.]+)&nbsp;%", page)
    assert titles == [("cat &lt;b&gt;", "1", "8.3"), ("dog", "0", "4.2")]  # 2 and 1 of 24 patches
    assert re.findall(r'<i style="left: ([\d.]+)%; top: ([\d.]+)%"', page) == [
        ("50.000", "50.000"),
        ("75.000", "0.000"),
    ]
    assert page.count("data:image/jpeg;base64,") == 2
    assert "cosine 0.75; also near: tabby" in page
    assert not re.search(r'(src|href)="(?!data:)', page)  # all in one file


def test_given_names_stand_before_proposed_ones(described: Described) -> None:
    score = NamingScore([JudgedName(0, "dog", "dog", 0.9, 0.4, 0.2)], {}, frozenset())
    page = page_of(write_names_page(described, naming(), {0: "my dog"}, score))
    assert "<h3>my dog <span>" in page and "proposed: dog;" in page
    assert "of its strongest patches lie on" not in page  # that was found out about the other name


def test_what_masks_say(described: Described) -> None:
    judged = [JudgedName(0, "dog", "dog", 0.9, 0.4, 0.2), JudgedName(1, "cat", "cat", 0.25, 0.4, 0.2)]
    page = page_of(write_names_page(described, naming(), {}, NamingScore(judged, {0: "dog", 1: "dog"}, frozenset({0}))))
    assert "2 names stand for a class that the images have masks of. 50&nbsp;% of them fit" in page
    assert "Of 2 concepts that point at one class this way, 50&nbsp;% are named after it" in page
    assert re.search(r"<span>90&nbsp;% of its strongest patches lie on dog", page)
    assert re.search(r'<span class="wrong">25&nbsp;% of its strongest patches lie on cat', page)


def test_names_of_other_concepts_are_refused(described: Described) -> None:
    other = replace(described, subject=replace(described.subject, concepts=1))
    with pytest.raises(ConfigError, match="concept 1 has a name, but only 1 were described"):
        write_names_page(other, naming(), {}, None)
