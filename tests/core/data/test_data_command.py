"""The command as a user meets it: output, exit codes, and one line for an error."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from raytrain_xai.cli.data import data_group
from raytrain_xai.data.dataset import open_dataset
from raytrain_xai.errors import ConfigError, DataError


def run(*arguments: object) -> Result:
    return CliRunner().invoke(data_group, [str(a) for a in arguments])


@pytest.fixture
def voc(devkit):
    for number in range(3):
        devkit.add("train", f"t{number}", [("cat", (1, 1, 20, 20))])
    devkit.add("train", "rare", [("cow", (1, 1, 20, 20))])
    devkit.add("val", "v", [("cat", (3, 3, 20, 20))])
    return devkit


def test_prepare_then_info(voc, tmp_path: Path) -> None:
    dest = tmp_path / "out"
    done = run("prepare", "voc2007", voc.root.parent, dest, "--min-images", 2, "--workers", 1)
    assert done.exit_code == 0, done.output
    assert "voc2007: 3 train, 1 val, 1 classes" in done.output
    assert "cow (1)" in done.output
    assert open_dataset(str(dest)).classes == ("cat",)
    shown = run("info", dest, "--out", tmp_path / "sheet.png")
    assert shown.exit_code == 0, shown.output
    assert "multilabel, 1 classes" in shown.output
    assert any("cat" in line and "3" in line for line in shown.output.splitlines())
    assert Image.open(tmp_path / "sheet.png").format == "PNG"


def test_bad_records_are_listed_with_exit_code_unless_skipped(voc, tmp_path: Path) -> None:
    image = voc.root / "JPEGImages" / "t1.jpg"
    image.write_bytes(image.read_bytes()[:200])
    arguments = ("prepare", "voc2007", voc.root, tmp_path / "out", "--workers", 1)
    done = run(*arguments)
    assert isinstance(done.exception, DataError)  # what the entry point turns into exit code 2
    assert "1 bad records left out" in str(done.exception)
    assert f"bad record in train: {image}: " in done.output
    assert open_dataset(str(tmp_path / "out")).splits == {"train": 3, "val": 1}
    again = run(*arguments)
    assert "--overwrite" in str(again.exception)
    accepted = run(*arguments, "--overwrite", "--skip-bad")
    assert accepted.exit_code == 0
    assert f"bad record in train: {image}: " in accepted.output


def test_scenes_need_no_source(tmp_path: Path) -> None:
    dest = tmp_path / "birds"
    options = ("--images", 16, "--image-size", 32, "--correlation", 1.0, "--unseen", "--seed", 3, "--workers", 1)
    assert run("prepare", "scenes-birds", dest, *options).exit_code == 0
    shown = run("info", dest).output
    assert "images=16, size=32, seed=3, unseen=True, correlation=1.0" in shown
    assert "waterbird_on_land" in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("voc2007", "DEST"), "voc2007 needs the folder"),
        (
            ("voc2007", "SRC", "DEST", "--correlation", "0.5"),
            "no option correlation; it is for scenes-birds",
        ),
        (("scenes-multi", "DEST", "--correlation", "0.5"), "scenes-multi has no option correlation"),
        (("scenes-birds", "a", "b", "c"), "got 3 places"),
        (("scenes-birds", "gs://bucket/x"), "gs:// is not supported"),
    ],
)
def test_wrong_requests_name_the_remedy(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    arguments = tuple(str(tmp_path / a) if a in ("SRC", "DEST") else a for a in arguments)
    done = run("prepare", *arguments)
    assert isinstance(done.exception, ConfigError)
    assert message in str(done.exception)


def test_unknown_kind_lists_the_kinds() -> None:
    done = run("prepare", "voc2008", "a", "b")
    assert done.exit_code == 2
    assert "'voc2012'" in done.output
