"""``raytrain-xai trace``: what its JSON adds up to, what its page holds, and that bad input leaves nothing behind."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from raytrain_xai.cli.trace import trace_command
from raytrain_xai.concept_runs.traces import ClassTrace, PixelTrace, Rest, Share, Trace, TracedConcept
from raytrain_xai.concept_runs.tracing import BRANCHES, ConceptTracer
from raytrain_xai.errors import CheckpointError, ConfigError, DataError
from raytrain_xai.report.trace_files import INDEX, PAGE, write_traces
from raytrain_xai.report.trace_page import image_view, waterfall

NAMES = ("a <b>.png", "b.png")


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Two pictures of different shapes, one with a name that is markup."""
    rng = np.random.default_rng(0)
    files = [tmp_path / "in" / name for name in NAMES]
    files[0].parent.mkdir()
    for file, shape in zip(files, ((40, 60, 3), (48, 48, 3)), strict=True):
        Image.fromarray(rng.integers(0, 255, shape, dtype=np.uint8)).save(file)
    return files


def trace(*arguments: object) -> Result:
    return CliRunner().invoke(trace_command, [str(argument) for argument in arguments], catch_exceptions=False)


class Links(HTMLParser):
    """Ids, targets of links and pictures of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append(tag)
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag == "a":
            self.targets.append(str(found["href"]))
        if tag == "img":
            self.pictures.append(found)


def test_json_adds_up_and_the_page_stands_alone(
    concept_runs: dict[str, str], pictures: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = trace(
        concept_runs["Final"], "--with", concept_runs["Mid2"], *pictures, "--out", out, "--classes", 2, "--top", 2
    )
    assert result.exit_code == 0
    assert f"written to {out}: {PAGE}, {INDEX}" in result.output
    index = json.loads((out / INDEX).read_text())
    assert index["layers"] == ["Mid2", "Final"]
    assert [Path(image["file"]).name for image in index["images"]] == list(NAMES)
    for image in index["images"]:
        assert len(image["classes"]) == 2
        for explained in image["classes"]:
            check_sums(image, explained)
    check_page((out / PAGE).read_text(), num_explained=4, num_shown=2)


def check_sums(image: dict[str, Any], explained: dict[str, Any]) -> None:
    parts = [concept["contribution"] for concept in explained["concepts"]] + [explained["rest"]["contribution"]]
    assert sum(parts) + explained["bias"] == pytest.approx(explained["logit"], abs=1e-4)
    assert explained["logit"] == pytest.approx(image["logits"][explained["class"]])
    assert explained["residual"] < 1e-4
    for concept in explained["concepts"]:
        assert concept["name"] == f"concept {concept['id']}"
        assert concept["percent"] == pytest.approx(100 * concept["contribution"] / explained["positive_contribution"])
        made_of = concept["made_of"]
        assert len(made_of["concepts"]) <= BRANCHES
        made = [early["contribution"] for early in made_of["concepts"]] + [made_of["rest"]["contribution"]]
        assert sum(made) == pytest.approx(concept["activation"], rel=1e-4)
        assert all(early["made_of"] is None and early["layer"] == "Mid2" for early in made_of["concepts"])


def check_page(text: str, *, num_explained: int, num_shown: int) -> None:
    page = Links(text)
    assert len(set(page.ids)) == len(page.ids)
    assert {target.removeprefix("#") for target in page.targets} <= set(page.ids)
    assert len([target for target in page.targets if target.endswith("-rest")]) >= num_explained
    assert all(
        str(picture["src"]).startswith("data:image/jpeg;base64,") and picture["alt"] for picture in page.pictures
    )
    of_class, of_concept, of_rest = 3, 4, 2
    above_tree = num_explained * (of_class + num_shown * of_concept + of_rest)
    assert above_tree < len(page.pictures) <= above_tree + num_explained * num_shown * BRANCHES * 2
    assert "a &lt;b&gt;.png" in text
    assert "script" not in page.tags
    assert "http" not in text
    assert "belongs to no pixel." not in text  # a convolutional network


def test_named_classes_only(concept_runs: dict[str, str], pictures: list[Path], tmp_path: Path) -> None:
    classes = ConceptTracer.load([concept_runs["Mid2"]]).model.explainer.classes
    trace(concept_runs["Mid2"], pictures[0], "--out", tmp_path / "out", "--class", classes[3], "--top", 1)
    (image,) = json.loads((tmp_path / "out" / INDEX).read_text())["images"]
    (explained,) = image["classes"]
    assert explained["class"] == classes[3]
    assert [concept["made_of"] for concept in explained["concepts"]] == [None]


def test_nothing_is_written_for_bad_input(concept_runs: dict[str, str], pictures: list[Path], tmp_path: Path) -> None:
    out, run = tmp_path / "out", concept_runs["Final"]
    cut = pictures[0].parent / "cut.png"
    cut.write_bytes(pictures[0].read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"1 bad inputs: .*cut\.png: damaged"):
        trace(run, *pictures, cut, "--out", out)
    with pytest.raises(ConfigError, match="unknown class 'unicorn'"):
        trace(run, *pictures, "--class", "unicorn", "--out", out)
    with pytest.raises(ConfigError, match="both concepts of Final"):
        trace(run, *pictures, "--with", run, "--out", out)
    with pytest.raises(ConfigError, match="nothing to explain"):
        trace(run, *pictures, "--classes", "0", "--out", out)
    with pytest.raises(ConfigError, match="holds the pictures"):
        trace(run, *pictures, "--out", pictures[0].parent)
    tracer = ConceptTracer.load([run])
    next(tracer.model.network.parameters()).data.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="non-finite"):
        write_traces(tracer, pictures, out, names=[], classes=1, top=1)
    with pytest.raises(ConfigError, match="at least 1, got 0"):
        write_traces(tracer, pictures, out, names=[], classes=1, top=0)
    assert not out.exists()
    assert sorted(file.name for file in pictures[0].parent.iterdir()) == ["a <b>.png", "b.png", "cut.png"]


def by_hand(missing: float = 0.0) -> ClassTrace:
    """Bias -2, concepts +5 and -1, others +3 and -1: logit 4 of 8 positive."""
    pixels = PixelTrace(torch.eye(4), torch.zeros(4, 4, 4, dtype=torch.uint8), missing)
    concepts = [TracedConcept("Final", number, f"concept {number}", 10.0, pixels, None) for number in (7, 3)]
    return ClassTrace(
        name="cat", index=0, logit=4.0, probability=0.75, logit_without_concepts=4.5, bias=-2.0, residual=0.0,
        positive=8.0, concepts=(Share(concepts[0], 5.0, 62.5), Share(concepts[1], -1.0, -12.5)),
        weighted=(pixels, pixels), rest=Rest(6, 2.0, 3.0, -1.0, 25.0), rest_pixels=pixels, pixels=pixels,
        concepts_for_80_percent=2,
    )  # fmt: skip


def test_waterfall_by_hand() -> None:
    """Ends at 0, -2, 3, 2, 5, 4: the chart spans -2 to 5, so one unit is a seventh of it."""
    bars, zero = waterfall(by_hand())
    seventh = 100 / 7
    assert zero == pytest.approx(2 * seventh)
    assert [bar.left for bar in bars] == pytest.approx([0, 0, 4 * seventh, 4 * seventh, 6 * seventh, 2 * seventh])
    assert [bar.width for bar in bars] == pytest.approx(
        [2 * seventh, 5 * seventh, seventh, 3 * seventh, seventh, 4 * seventh]
    )
    assert [bar.kind for bar in bars] == ["bias", "for", "against", "for", "against", "total"]
    assert [bar.value for bar in bars] == ["−2.00", "+5.00", "−1.00", "+3.00", "−1.00", "+4.00"]
    assert [bar.percent for bar in bars] == ["", "62.5", "−12.5", "37.5", "−12.5", ""]


def test_what_belongs_to_no_pixel_is_said() -> None:
    """2.5 of an activation of 10, and of 8 positive evidence."""
    picture = Image.new("RGB", (20, 10))
    trace_of = Trace(torch.zeros(1), torch.zeros(1), {"Final": 8}, (by_hand(2.5),))
    (view,) = image_view("x", picture, trace_of).classes
    assert (view.pixels.missing, view.concepts[0].pixels.missing) == ("31.2", "25.0")
    (view,) = image_view("x", picture, Trace(torch.zeros(1), torch.zeros(1), {}, (by_hand(1e-6),))).classes
    assert view.pixels.missing == view.concepts[0].pixels.missing == ""
