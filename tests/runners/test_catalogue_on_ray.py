"""A catalogue made by Ray workers is the one that one process makes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raytrain_xai.checkpoint import Checkpoint, write_checkpoint
from raytrain_xai.concept_runs.model import build_sae, concept_state
from raytrain_xai.concept_runs.network import adopt_network, store_network
from raytrain_xai.config import parse_concept_config
from raytrain_xai.run_folder import write_config, write_json
from raytrain_xai.runners import catalogue as module
from raytrain_xai.runners.catalogue import build_catalogue
from raytrain_xai.runners.tasks import Crew
from raytrain_xai.sections import ResourcesConfig
from raytrain_xai.storage import locate

TABLES = ("concepts", "examples", "coactivation", "images")


@pytest.fixture
def concept_run(birds: Path, tmp_path: Path) -> str:
    config = parse_concept_config({
        "job": "concepts", "name": "run", "storage": str(tmp_path), "network": "bcosified_squeezenet1_1=voc",
        "layer": "Mid1", "data": str(birds), "image_size": 48, "workers": 0, "sae": {"latents": 32, "k": 4},
    })  # fmt: skip
    adopted = adopt_network(config)
    at = locate(config.storage).child(config.name)
    store_network(at.child("network"), adopted)
    write_config(at, config)
    torch.manual_seed(0)
    weights = build_sae(config, 128).state_dict()
    about = concept_state(config, adopted.network, 128)
    state = {"step": 1, "epoch": 1, "step_in_epoch": 0, "history": [], "mlflow_id": None, **about}
    write_checkpoint(at.child("checkpoints"), Checkpoint(1, weights, {}, state), lambda: None)
    write_json(at.child("metrics.json"), {"selected": {"step": 1, "epoch": 1}})
    return at.uri


@pytest.mark.ray
def test_two_workers_make_the_catalogue_of_one(
    concept_run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative addresses too: workers have a working directory of their own. Both passes use one cluster."""
    monkeypatch.setattr(module, "_IMAGES_PER_TASK", 4)
    monkeypatch.setattr(module, "_PAIRS_PER_TASK", 50)
    monkeypatch.chdir(tmp_path)
    shown: list[str] = []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker: more of them order sums differently
    alone = build_catalogue(concept_run, Crew(0, ResourcesConfig()), lambda _: None, split="train", out="a")
    torch.set_num_threads(threads)
    crew = Crew(2, ResourcesConfig(cpus_per_worker=1))
    together = build_catalogue("run", crew, lambda record: shown.append(record["kind"]), split="train", out="b")
    for name in TABLES:
        assert together.table(name).equals(alone.table(name)), name
    assert together.table("examples").num_rows > 100
    assert shown.count("tasks") > 8
