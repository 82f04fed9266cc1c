"""``eval``, ``explain`` and ``report`` as typed on a command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from raytrain_xai.cli.model import eval_command, explain_command, report_command
from raytrain_xai.errors import DataError


@pytest.fixture(scope="module")
def run(make_run: Any, birds: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    guidance = {"attribution": "gradcam", "layer": "Final"}
    return make_run(tmp_path_factory.mktemp("runs"), "birds", birds, guidance=guidance)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    file = tmp_path / "duck.png"
    Image.linear_gradient("L").resize((40, 30)).convert("RGB").save(file)
    return file


def invoke(command: Any, *arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)


def test_eval_prints_and_writes_the_same_numbers(run: str, tmp_path: Path) -> None:
    out = tmp_path / "m.json"
    result = invoke(eval_command, run, "--split", "val", "--checkpoint", "step-00000010", "--out", out)
    assert result.exit_code == 0
    written = json.loads(out.read_text())
    printed = dict(line.split() for line in result.output.splitlines() if line.startswith("  "))
    assert printed == {name: f"{value:.4f}" for name, value in written.items()}
    assert "step-00000010, split val" in result.output
    assert f"written to {out}" in result.output


def classes_of(out: Path) -> list[list[str]]:
    index = json.loads((out / "explanations.json").read_text())
    return [[entry["class"] for entry in image["explanations"]] for image in index["images"]]


def test_explain_takes_the_strongest_class_unless_told_otherwise(run: str, picture: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = invoke(explain_command, run, picture, "--out", out)
    [image] = json.loads((out / "explanations.json").read_text())["images"]
    [entry] = image["explanations"]
    assert entry["logit"] == max(image["logits"].values())
    assert f"{picture}: {entry['class']} {entry['probability']:.2f}" in result.output
    for name in ("landbird", "waterbird"):
        invoke(explain_command, run, picture, "--out", out, "--class", name)
        assert classes_of(out) == [[name]]
    invoke(explain_command, run, picture, "--out", out, "--class", "landbird", "--top", 2)
    assert sorted(classes_of(out)[0]) == ["landbird", "waterbird"]


def test_explain_writes_nothing_when_an_input_is_bad(run: str, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(picture.read_bytes()[:60])
    with pytest.raises(DataError, match=r"bad\.png"):
        invoke(explain_command, run, picture, tmp_path / "bad.png", "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_report_says_where_it_wrote(run: str) -> None:
    result = invoke(report_command, run)
    assert result.output == f"written to {run}/report.html\n"
    assert Path(run, "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("command", [eval_command, explain_command, report_command])
def test_missing_arguments_are_named(command: Any) -> None:
    result = invoke(command)
    assert result.exit_code == 2
    assert "Missing argument" in result.output
