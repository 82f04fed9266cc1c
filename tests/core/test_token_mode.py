"""Nothing here starts or joins Ray without saying how it authenticates: Ray's defaults differ between entry points."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TEXTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "cluster/**/*", "serve/**/*.yaml", "Makefile", ".ci/*")
    for path in ROOT.glob(pattern)
    if path.is_file()
)
CODE = sorted(path for folder in ("raytrain_xai", "serve", "tests", "bench") for path in (ROOT / folder).rglob("*.py"))
OWN = Path(__file__).resolve()
SAYS_MODE = re.compile(r"RAY_AUTH_MODE[\"']?\s*(=|:|,)\s*[\"']?(token|disabled)|prepare_environment|import_ray")


@pytest.mark.parametrize("file", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_written_commands_say_the_mode(file: Path) -> None:
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        pytest.skip("no text")
    for start in re.finditer(r"^.*\bray start .*$", text, re.M):
        assert "RAY_AUTH_MODE=token" in start[0], f"{file.name}: {start[0].strip()}"


def test_only_one_place_of_the_package_connects_to_ray() -> None:
    """So that the mode is set in one place, before Ray is imported."""
    found = {path.relative_to(ROOT).as_posix() for path in CODE if re.search(r"\bray\.init\(", path.read_text())}
    assert found - {OWN.relative_to(ROOT).as_posix()} == {"raytrain_xai/runners/cluster.py"}


def test_what_starts_nodes_in_code_says_the_mode() -> None:
    starts = re.compile(r"ray\.scripts\.scripts|from ray\.cluster_utils")
    found = [path for path in CODE if path != OWN and starts.search(path.read_text())]
    assert found, "the tests of clusters start some"
    assert not [path.name for path in found if not SAYS_MODE.search(path.read_text())]


def test_jobs_are_submitted_with_the_mode_set() -> None:
    """Ray's client for jobs sends no token unless it is told to, although it has one."""
    found = [path for path in CODE if path != OWN and "JobSubmissionClient(" in path.read_text()]
    assert found, "the package submits jobs"
    assert not [path.name for path in found if "RAY_AUTH_MODE" not in path.read_text()]
