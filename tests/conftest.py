"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with the real VOC, COCO and CUB subsets; skips when it is not there."""
    folder = Path(os.environ.get("RAYTRAIN_XAI_DATA", REPOSITORY.parent / "shared" / "data")).resolve()
    if not (folder / "VOCdevkit").is_dir():
        pytest.skip(
            f"real data not found at {folder}; set RAYTRAIN_XAI_DATA to the folder that holds VOCdevkit and coco"
        )
    return folder
