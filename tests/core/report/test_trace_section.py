"""Traces as part of reports."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.report.page import write_report
from raytrain_xai.report.trace_section import build_trace_section

MakeRun = Callable[..., str]


def test_images_are_those_of_the_selection_and_sums_are_exact(concept_runs: dict[str, str]) -> None:
    section = build_trace_section([concept_runs["Final"], concept_runs["Mid2"]], num_images=3, num_concepts=2)
    assert (section.split, section.exclusive, len(section.images)) == ("test", False, 3)
    assert section.origin == f"{concept_runs['Final']} and {concept_runs['Mid2']}"
    for image in section.images:
        assert set(image.active) == {"Mid2", "Final"}
        [explained] = image.classes
        assert float(explained.residual.replace("−", "-")) < 1e-3
        assert 1 <= len(explained.concepts) <= 2


def test_report_of_classifiers_shows_traces_besides(
    concept_runs: dict[str, str], make_run: MakeRun, birds: str, tmp_path: Path
) -> None:
    run = make_run(tmp_path, "birds", birds)
    page = Path(write_report([run], concepts=[concept_runs["Final"]])).read_text()
    assert page.count("Decisions, concept by concept") == 1
    assert concept_runs["Final"] in page
    assert page.count('<article class="trace">') == 2
    assert "http" not in page.replace("http-equiv", "")
    assert "Decisions, concept by concept" not in Path(write_report([run])).read_text()


def test_report_of_a_concept_run_shows_its_traces(concept_runs: dict[str, str]) -> None:
    section = build_trace_section([concept_runs["Final"]])
    with pytest.raises(ConfigError, match="leave --concepts out"):
        write_report([concept_runs["Final"]], concepts=[concept_runs["Final"]])
    assert section.images[0].photo.startswith("data:image/jpeg")


def test_wrong_data_is_refused(concept_runs: dict[str, str], birds: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="was trained on 8 classes"):
        build_trace_section([concept_runs["Final"]], data=birds)
    copy = shutil.copytree(concept_runs["Final"], tmp_path / "copy")
    with pytest.raises(ConfigError, match="are both concepts of Final"):
        build_trace_section([concept_runs["Final"], str(copy)])
