"""The report page: complete, self-contained, escaped, and the same twice."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from raytrain_xai.data.boxes import rasterise
from raytrain_xai.data.loader import load_samples
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.explain import Explainer
from raytrain_xai.guidance.metrics import energy_pointing_game
from raytrain_xai.report import page
from raytrain_xai.report.gallery import NUM_IMAGES, build_gallery
from raytrain_xai.report.page import write_report

GROUPS = {f"group_{name}": value for name, value in [("landbird_on_land", 1.0), ("waterbird_on_land", 0.25)]}
GRADCAM = {"attribution": "gradcam", "layer": "Final"}


class Page(HTMLParser):
    """Tags with attributes, and the text outside of style sheets."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._in_style = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 - the name of the base class
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if not self._in_style:
            self.text += data

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture(scope="module")
def runs(make_run: Any, birds: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """An unguided and a guided run on the bird scenes."""
    folder = tmp_path_factory.mktemp("runs")
    plain = make_run(
        folder, "plain", birds, guidance=GRADCAM, test={"f1": 0.6, "epg": 0.25, "worst_group": 0.1, **GROUPS}
    )
    guided = make_run(
        folder, "guided", birds, seed=5, guidance=GRADCAM | {"weight": 0.5},
        test={"f1": 0.7, "epg": 0.75, "worst_group": 0.25, **GROUPS},
    )  # fmt: skip
    return [plain, guided]


@pytest.fixture(scope="module")
def html(runs: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    return Path(write_report(runs, str(tmp_path_factory.mktemp("page") / "report.html"))).read_text()


def test_page_has_every_section(html: str) -> None:
    text = Page(html).text
    for heading in (
        "Results", "Test split", "Validation split", "The same images through every run", "Accuracy per group",
        "Training", "Classification loss", "Localisation loss", "F1, validation", "F1 against EPG", "What differs",
    ):  # fmt: skip
        assert heading in text, heading
    assert "1 min 20 s" in text  # training time
    assert re.search(r"energy × 0.5, gradcam at Final\s*100 % of boxes", text)
    assert re.search(r"guidance\.weight\s*0\.0\s*0\.5", text)


def test_best_values_are_marked(html: str) -> None:
    marked = re.findall(r'<td class="number best">([^<]*)</td>', html)
    assert marked == ["70.0", "25.0", "75.0"]  # test F1, worst group, EPG of the guided run; validation is equal


def test_every_image_goes_through_every_run(html: str, runs: list[str]) -> None:
    parsed = Page(html)
    sources = [attributes["src"] or "" for tag, attributes in parsed.tags if tag == "img"]
    assert parsed.count("article") == NUM_IMAGES  # all of the 12 test images
    assert len(sources) == NUM_IMAGES * (1 + len(runs))
    assert all(source.startswith("data:image/jpeg;base64,") for source in sources)
    for group in ("landbird_on_land", "landbird_on_water", "waterbird_on_land", "waterbird_on_water"):
        assert parsed.text.count(f"in group {group}") == 3


def test_nothing_is_fetched(html: str) -> None:
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    assert not re.findall(r"url\((?!#)", html)
    parsed = Page(html)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in parsed.tags}
    for _, attributes in parsed.tags:
        for name in ("src", "href"):
            assert (attributes.get(name) or "#").startswith(("data:", "#"))


def test_light_and_dark_and_narrow(html: str) -> None:
    assert "prefers-color-scheme: dark" in html
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in html
    assert "currentColor" in html


def test_equal_runs_give_equal_pages_and_several_go_to_the_current_folder(
    html: str, runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert write_report(runs) == "report.html"
    assert (tmp_path / "report.html").read_text() == html


def test_user_texts_are_escaped(make_run: Any, birds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Class, group and sample names come from files of others; configurations hold free texts."""
    hostile = "<img src=x onerror=alert(1)>"
    run = make_run(
        tmp_path, "run", birds, guidance=GRADCAM, test={"f1": 0.5, f"group_{hostile}": 0.5},
        tracking={"mlflow": hostile},
    )  # fmt: skip
    other = make_run(tmp_path, "other", birds, guidance=GRADCAM, test={"f1": 0.5, f"group_{hostile}": 0.5})
    real = page.build_gallery

    def renamed(*arguments: Any) -> list[Any]:
        return [type(e)(hostile, hostile, hostile, e.photo, e.has_boxes, e.tiles) for e in real(*arguments)]

    monkeypatch.setattr(page, "build_gallery", renamed)
    html = Path(write_report([run, other], str(tmp_path / "r.html"))).read_text()
    assert hostile not in html
    assert Page(html).text.count(hostile) > 2 * NUM_IMAGES


def test_gallery_shows_what_the_network_says(runs: list[str], birds: str) -> None:
    explainer = Explainer.load(runs[0])
    gallery = build_gallery([explainer], birds, "test")
    assert gallery == build_gallery([explainer], birds, "test")
    batch, _ = load_samples(birds, "test", [example.id for example in gallery], 32)
    explanations = explainer(batch.images, top=2)
    for row, (example, explanation) in enumerate(zip(gallery, explanations, strict=True)):
        target = explainer.classes.index(example.target)
        assert batch.labels[row, target] == 1
        region = rasterise(batch.boxes[row : row + 1], batch.box_labels[row : row + 1] == target, (32, 32))
        [attribution] = [explained.attribution for explained in explanation.classes if explained.index == target]
        [tile] = example.tiles
        assert tile.probability == pytest.approx(float(explanation.probabilities[target]), abs=1e-6)
        assert tile.epg == pytest.approx(float(energy_pointing_game(attribution[None], region)))
        says = int(explanation.logits.argmax())
        assert tile.verdict == ("" if says == target else f"says {explainer.classes[says]}")
        assert tile.rgba is None


def test_bcos_runs_of_a_multilabel_task(make_run: Any, objects: str, tmp_path: Path) -> None:
    run = make_run(tmp_path, "objects", objects, model="bcos_resnet_tiny", test={"f1": 0.1})
    target = write_report([run])
    assert target == f"{run}/report.html"
    parsed = Page(Path(target).read_text())
    assert parsed.count("img") == 3 * parsed.count("article")  # photograph, heatmap, explanation in colour
    assert "in group" not in parsed.text
    assert "Accuracy per group" not in parsed.text
    assert "What differs" not in parsed.text
    [example, *_] = build_gallery([Explainer.load(run)], objects, "test")
    # The fresh head says -log 7 for every class: nothing is found.
    assert example.tiles[0].verdict == "not found"
    assert example.tiles[0].probability == pytest.approx(1 / 8, abs=0.02)


def test_what_cannot_be_compared_is_refused(make_run: Any, runs: list[str], objects: str, tmp_path: Path) -> None:
    other = make_run(tmp_path, "objects", objects, guidance=GRADCAM)
    with pytest.raises(ConfigError, match="different classes"):
        write_report([runs[0], other])
    with pytest.raises(DataError, match="nowhere"):
        write_report(runs, data=str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="landbird"):
        write_report(runs, data=objects)


def test_colours_of_the_page_and_of_the_charts_agree(html: str) -> None:
    assert html.count("background:#0a84c6") > 3
    assert "stroke: #0a84c6" in html
