"""Scoring concepts on Ray workers gives what one process gives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raytrain_xai.checkpoint import Checkpoint, write_checkpoint
from raytrain_xai.concept_runs.model import build_sae, concept_state
from raytrain_xai.concept_runs.network import adopt_network, store_network
from raytrain_xai.concept_runs.scoring import ScoreJob
from raytrain_xai.config import parse_concept_config
from raytrain_xai.run_folder import write_config, write_json
from raytrain_xai.runners import score_concepts as module
from raytrain_xai.runners.score_concepts import score_concepts
from raytrain_xai.runners.tasks import Crew
from raytrain_xai.sections import ResourcesConfig
from raytrain_xai.storage import locate

DIM = 128  # of SqueezeNet at Mid1


@pytest.fixture
def concept_run(birds: Path, tmp_path: Path) -> str:
    config = parse_concept_config({
        "job": "concepts", "name": "concepts", "storage": str(tmp_path), "network": "bcosified_squeezenet1_1=voc",
        "layer": "Mid1", "data": str(birds), "image_size": 48, "workers": 0, "batch_size": 64,
        "sae": {"latents": 32, "k": 4},
    })  # fmt: skip
    adopted = adopt_network(config)
    at = locate(config.storage).child(config.name)
    store_network(at.child("network"), adopted)
    write_config(at, config)
    torch.manual_seed(0)
    state = {
        "step": 1, "epoch": 1, "step_in_epoch": 0, "history": [], "mlflow_id": None,
        **concept_state(config, adopted.network, DIM),
    }  # fmt: skip
    write_checkpoint(
        at.child("checkpoints"), Checkpoint(1, build_sae(config, DIM).state_dict(), {}, state), lambda: None
    )
    write_json(at.child("metrics.json"), {"selected": {"step": 1, "epoch": 1}})
    return at.uri


@pytest.mark.ray
def test_two_workers_score_as_one_process(
    concept_run: str, birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both passes and a fitted baseline, six blocks each, on one cluster."""
    monkeypatch.setattr(module, "_BLOCK", 4)
    job = ScoreJob(
        concept_run, "selected", "squeezenet1_1=imagenet@Mid2", str(birds), "train", baselines=("pca",), components=3
    )
    shown: list[str] = []
    alone = score_concepts(job, Crew(0, ResourcesConfig()), locate(str(tmp_path / "a")), lambda _: None)
    crew = Crew(2, ResourcesConfig(cpus_per_worker=1))
    together = score_concepts(job, crew, locate(str(tmp_path / "b")), lambda record: shown.append(record["kind"]))
    for mine, theirs in zip(together.sources, alone.sources, strict=True):
        assert torch.equal(mine.concept, theirs.concept)
        assert len(mine.concept) > 3
        torch.testing.assert_close(mine.consistency, theirs.consistency, rtol=0, atol=1e-6)
    torch.testing.assert_close(together.random, alone.random, rtol=0, atol=1e-6)
    assert shown.count("tasks") == 12
