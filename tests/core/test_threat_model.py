"""Every test that the threat model leans on exists."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "threat-model.md"


def test_what_is_cited_is_there() -> None:
    cited = re.findall(r"`((?:core|runners|serving)/[\w/]*test_\w+\.py)(?:::(\w+))?`", PAGE.read_text(encoding="utf-8"))
    assert len(cited) > 20
    for file, name in cited:
        assert (TESTS / file).is_file(), file
        assert f"def {name}" in (TESTS / file).read_text(encoding="utf-8"), f"{file}::{name}"


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", PAGE.read_text(encoding="utf-8"))
    assert links
    assert all((PAGE.parent / link).exists() for link in links if "://" not in link)
