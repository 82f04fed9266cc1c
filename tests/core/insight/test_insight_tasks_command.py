"""Commands of segmentation, classification, search, probes and scores, from arguments to files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from small_encoder import SmallEncoder, random_images, small_model

from raytrain_xai.cli.insight import insight_group
from raytrain_xai.errors import ConfigError
from raytrain_xai.report.answer_page import parts_of

LABELS = ["--label", "dog", "--label", "cat", "--label", "red tree"]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Address of a run whose model has random weights."""

    def load(run: str, **_: Any) -> Any:
        model = small_model(SmallEncoder(image_size=48))
        return type(model)(**{**vars(model), "origin": run, "names": {1: "<b>fur</b>"}})

    monkeypatch.setattr("raytrain_xai.insight.model.load_insight", load)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("job: concepts\n")
    return str(folder)


@pytest.fixture
def pictures(tmp_path: Path) -> str:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, image in enumerate(random_images(2, 60, 90)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    return str(folder)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(insight_group, list(arguments), catch_exceptions=False)


def test_segment_writes_labels_json_and_a_page(run: str, pictures: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = invoke("segment", run, pictures, *LABELS, "--background", "0.1", "--top", "3", "--out", str(out))
    assert done.exit_code == 0, done.output
    index = json.loads((out / "segments.json").read_text())
    assert index["texts"] == ["dog", "cat", "red tree"]
    for image in index["images"]:
        labels = np.asarray(Image.open(out / image["labels"]))
        assert labels.shape == (60, 90)
        for found in image["segments"]:
            own = (labels == index["texts"].index(found["text"]) + 1).mean()
            assert found["share"] == pytest.approx(own)
            assert sum(part["value"] for part in found["parts"]) == pytest.approx(found["score"], abs=1e-5)
            assert len(found["parts"]) <= 5
    page = (out / "segments.html").read_text()
    assert "<b>fur</b>" not in page


def test_segment_slides_windows_and_takes_words_as_background(run: str, pictures: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = invoke("segment", run, pictures, *LABELS, "--background-label", "sky", "--window", "32", "--out", str(out))
    assert done.exit_code == 0, done.output
    index = json.loads((out / "segments.json").read_text())
    assert np.asarray(Image.open(out / index["images"][0]["labels"])).shape == (32, 48)


def test_classify_writes_sums(run: str, pictures: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = invoke("classify", run, pictures, *LABELS, "--classes", "2", "--top", "4", "--out", str(out))
    assert done.exit_code == 0, done.output
    for image in json.loads((out / "classes.json").read_text())["images"]:
        best = sorted(image["scores"].values(), reverse=True)[:2]
        assert [image["scores"][found["text"]] for found in image["texts"]] == best
        for found, score in zip(image["texts"], best, strict=True):
            assert sum(part["value"] for part in found["parts"]) == pytest.approx(score, abs=1e-5)
    assert (out / "classes.html").read_text().count("data:image/jpeg") == 4


def test_an_index_is_built_and_searched(run: str, objects: str, tmp_path: Path) -> None:
    at = str(tmp_path / "index")
    assert invoke("index", run, "--data", objects, "--split", "val", "--out", at).exit_code == 0
    by_name = invoke("search", at, "--text", "dog", "--count", "3", "--json")
    hits = [json.loads(line) for line in by_name.output.splitlines()]
    assert len(hits) == 3 and hits[0]["score"] >= hits[1]["score"] >= hits[2]["score"]
    assert invoke("search", at, "--concept", "1", "--count", "2").output.count("\n") == 2
    with pytest.raises(ConfigError, match="one question"):
        invoke("search", at, "--concept", "1", "--text", "dog")


def test_probe_and_score_write_their_numbers(run: str, objects: str, tmp_path: Path) -> None:
    done = invoke("probe", run, "--data", objects, "--penalties", "2", "--smallest", "0.5")
    assert done.exit_code == 0 and done.output.count("chosen") == 1
    assert (Path(run) / "insight" / "probe" / "probe.json").is_file()
    out = tmp_path / "scores.json"
    done = invoke("score", run, "--data", objects, "--min-images", "2", "--split", "val", "--out", str(out))
    assert done.exit_code == 0
    assert json.loads(out.read_text())["images"] == 6


def test_contradictory_questions_are_refused(run: str, pictures: str, tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="one rule"):
        invoke("segment", run, pictures, *LABELS, "--background", "0.1", "--things", *out)
    with pytest.raises(ConfigError, match="no text"):
        invoke("classify", run, pictures, *out)
    with pytest.raises(ConfigError, match="pictures to explain"):
        invoke("classify", run, pictures, *LABELS, "--out", pictures)


def test_parts_show_the_strongest_of_either_sign_and_sum_to_the_score() -> None:
    concept = torch.tensor([0.1, -0.4, 0.0, 0.3, -0.05])
    parts = parts_of(concept, 0.2, lambda k: f"c{k}", 2)
    assert [(part.label, round(part.value, 6), part.concept) for part in parts] == [
        ("c3", 0.3, 3), ("c1", -0.4, 1), ("2 others", 0.05, None), ("bias", 0.2, None),
    ]  # fmt: skip
    assert [part.label for part in parts_of(concept, 0.2, str, 9)][-2:] == ["1", "bias"]
