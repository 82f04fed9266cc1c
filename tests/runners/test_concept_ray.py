"""A concept run on Ray: features are exported and the autoencoder trained on one cluster, as in one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.runners.train import Launch, start_run

MakeConcepts = Callable[..., ConceptRunConfig]
pytestmark = [pytest.mark.ray, pytest.mark.timeout(280)]


def test_two_ray_workers_export_and_train_as_one_process(make_concepts: MakeConcepts, tmp_path: Path) -> None:
    alone = make_concepts(name="alone", epochs=2, features={"store": str(tmp_path / "alone")})
    shared = make_concepts(name="shared", epochs=2, workers=2, features={"store": str(tmp_path / "shared")})
    expected = start_run(alone, Launch("local", [].append)).metrics
    seen: list[dict[str, Any]] = []
    found = start_run(shared, Launch("local", seen.append)).metrics
    assert found == json.loads((Path(shared.storage) / "shared" / "metrics.json").read_text())
    kinds = [record["kind"] for record in seen]
    assert kinds.index("tasks") < kinds.index("step"), "features first"
    assert [record["step"] for record in seen if record["kind"] == "step"] == list(range(3, 25, 3))
    start = next(record for record in seen if record.get("event") == "start")
    assert start["message"] == "attempt 1 on 2 worker(s), step 0 of 24"
    for split in ("val", "test"):
        assert found["before"][split] == pytest.approx(expected["before"][split], abs=1e-6)
        for key in ("variance_explained", "l0", "carriers"):
            assert found[split][key] == pytest.approx(expected[split][key], rel=2e-2)
    assert found["selected"] == expected["selected"]
