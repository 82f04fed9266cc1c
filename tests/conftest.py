"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that start processes of their own run on one worker, so that there is one cluster at a time."""
    for item in items:
        if item.get_closest_marker("ray") or item.get_closest_marker("e2e"):
            item.add_marker(pytest.mark.xdist_group("processes"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real VOC, COCO and CUB subsets; skips when it is not there."""
    folder = Path(os.environ.get("RAYTRAIN_XAI_DATA", REPOSITORY.parent / "shared" / "data")).resolve()
    if not (folder / "VOCdevkit").is_dir():
        pytest.skip(
            f"real data not found at {folder}; set RAYTRAIN_XAI_DATA to the folder that holds VOCdevkit and coco"
        )
    return folder
