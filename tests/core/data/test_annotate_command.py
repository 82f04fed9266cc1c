"""The commands as a user meets them: what they say, exit codes, and one line for an error."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from export_cases import as_json, cvat_coco

from raytrain_xai.cli.main import cli
from raytrain_xai.data.annotation_order import annotation_budget
from raytrain_xai.data.dataset import StoredSplit, open_dataset
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.sections import GuidanceConfig


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


@pytest.fixture
def export(multi: str, tmp_path: Path) -> Path:
    """Two images of train with a box each, one of them of an unknown class, and one without."""
    stored = StoredSplit(multi, "train")
    names = [f"{stored.annotations.ids[row].as_py()}.png" for row in (4, 9, 13)]
    known = stored.info.classes[0]
    drawn = {names[0]: [(known, 0, 0, 9, 9)], names[1]: [("thing", 0, 0, 9, 9)], names[2]: []}
    (tmp_path / "export.json").write_bytes(as_json(cvat_coco(drawn, (64, 64))))
    return tmp_path / "export.json"


def test_import_lists_what_is_bad_and_keeps_the_rest(multi: str, export: Path, tmp_path: Path) -> None:
    dest = tmp_path / "new"
    done = run("annotate", "import", multi, export, dest)
    assert isinstance(done.exception, DataError)  # what the entry point turns into exit code 2
    assert "1 bad records left out, listed above; the others have their boxes in" in str(done.exception)
    assert "unknown class 'thing'" in done.output
    assert f"1 boxes in 1 train images -> {dest}" in done.output
    assert "1 images without boxes in the export are left as they are" in done.output
    assert open_dataset(str(dest)).splits == open_dataset(multi).splits
    skipped = run("annotate", "import", multi, export, dest, "--overwrite", "--skip-bad")
    assert skipped.exit_code == 0, skipped.output
    known = open_dataset(multi).classes[1]
    mapped = run("annotate", "import", multi, export, dest, "--overwrite", "--map", f"thing={known}")
    assert mapped.exit_code == 0, mapped.output
    assert f"2 boxes in 2 train images -> {dest}" in mapped.output
    assert "annotations=export.json" in run("data", "info", dest).output


def test_order_says_how_a_run_uses_it(multi: str, export: Path, tmp_path: Path) -> None:
    known = open_dataset(multi).classes[1]
    done = run("annotate", "order", multi, export, "--map", f"thing={known}", "--out", tmp_path / "order.json")
    assert done.exit_code == 0, done.output
    assert "2 of 40 training images" in done.output
    settings = dict(part.split("=") for part in done.output.split() if part.startswith("guidance."))
    guidance = GuidanceConfig(
        annotation_order=settings["guidance.annotation_order"],
        annotated_fraction=float(settings["guidance.annotated_fraction"]),
    )
    assert np.flatnonzero(annotation_budget(StoredSplit(multi, "train"), guidance, seed=0)).tolist() == [4, 9]


def test_wrong_pairs_are_refused(multi: str, export: Path, tmp_path: Path) -> None:
    for pair in ("thing", "thing=", "=cat"):
        done = run("annotate", "import", multi, export, tmp_path / "new", "--map", pair)
        assert isinstance(done.exception, ConfigError)
        assert f"--map {pair}: expected NAME=CLASS" in str(done.exception)


def test_merge_lists_what_both_hold(multi: str, export: Path, tmp_path: Path) -> None:
    run("annotate", "import", multi, export, tmp_path / "new", "--skip-bad")
    done = run("data", "merge", multi, tmp_path / "new", tmp_path / "both")
    assert isinstance(done.exception, DataError)
    assert "70 images of" in str(done.exception)  # 40 + 10 + 20
    assert "40 train, 10 val, 20 test" in done.output
    assert "left out of val" in done.output
    again = run("data", "merge", multi, tmp_path / "new", tmp_path / "both", "--overwrite", "--skip-bad")
    assert again.exit_code == 0, again.output
