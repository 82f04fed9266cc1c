"""``annotate suggest`` from the command line to the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from raytrain_xai.cli.annotate import annotate_group
from raytrain_xai.errors import ConfigError


@pytest.fixture(scope="module")
def run(objects: str, make_run, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_run(tmp_path_factory.mktemp("runs"), "net", objects, model="bcos_resnet_tiny", image_size=32)


def call(*arguments: object) -> Result:
    return CliRunner().invoke(annotate_group, ["suggest", *map(str, arguments)])


def test_two_rounds_of_annotation(run: str, tmp_path: Path) -> None:
    options = ("--strategy", "attribution_entropy", "--budget", 6)
    done = call(run, *options, "--out", tmp_path / "one")
    assert done.exit_code == 0, done.output
    assert "6 of 24 images by attribution_entropy" in done.output
    order = json.loads((tmp_path / "one/order.json").read_text())
    assert len(order["ids"]) == len(list((tmp_path / "one/images").iterdir())) == 6
    again = call(run, *options, "--out", tmp_path / "two", "--annotated", tmp_path / "one/order.json")
    assert again.exit_code == 0, again.output
    assert "6 of 18 images" in again.output
    assert not set(order["ids"]) & set(json.loads((tmp_path / "two/order.json").read_text())["ids"])
    page = (tmp_path / "one/suggestions.html").read_text()
    assert page.count('<article class="example">') == 6
    assert all(f"image {name}" in page for name in order["ids"])
    assert f"score {order['scores'][0]:.3f}" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "predicted boxes" not in page


def test_predicted_boxes_are_asked_for(run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network of this run has random weights and finds nothing; here it is taken at its word anyway."""
    monkeypatch.setattr("raytrain_xai.annotation.looks._FOUND", 0.0)
    done = call(run, "--strategy", "random", "--budget", 2, "--predictions", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    tasks = json.loads((tmp_path / "out/label_studio/tasks.json").read_text())
    assert all(task["predictions"][0]["model_version"] == "net step-00000020" for task in tasks)
    assert "predicted boxes" in (tmp_path / "out/suggestions.html").read_text()


def test_a_folder_takes_one_list(run: str, tmp_path: Path) -> None:
    assert call(run, "--strategy", "random", "--budget", 2, "--out", tmp_path).exit_code == 0
    before = (tmp_path / "order.json").read_bytes()
    refused = call(run, "--strategy", "class_balanced", "--budget", 2, "--out", tmp_path)
    assert isinstance(refused.exception, ConfigError)
    assert "holds suggestions already" in str(refused.exception)
    assert (tmp_path / "order.json").read_bytes() == before
