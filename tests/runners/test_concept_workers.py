"""Two workers train the autoencoder that one trains, whether they share out the vectors or the latents."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import concept_gloo
import pytest
import safetensors.torch
import torch
from torch import Tensor, multiprocessing

from raytrain_xai.checkpoint import read_checkpoint_of
from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.config import parse_concept_config
from raytrain_xai.run_folder import create_run
from raytrain_xai.runners.concept_job import plan_concepts
from raytrain_xai.runners.concept_loop import train_concepts
from raytrain_xai.runners.train import Launch, resume_run
from raytrain_xai.storage import locate

KINDS: dict[str, dict[str, Any]] = {
    "topk": {"k": 4},
    "batch_topk": {"k": 4},
    "relu": {"l1_weight": 0.02},
    "jumprelu": {"l0_weight": 0.01, "initial_threshold": 0.05, "bandwidth": 0.02},
}
PARALLEL = ("data", "dictionary")
QUIET = Launch("local", [].append)


def prepared(network: str, at: Path, name: str, kind: str = "topk", **changes: Any) -> ConceptRunConfig:
    """Configuration of a run whose folder is filled, as before the workers start."""
    raw = {
        "job": "concepts", "name": name, "storage": str(at), "epochs": 2, "workers": 0, "batch_size": 72,
        "network": network, "layer": "Mid3", "features": {"store": str(at / "features")},
        "sae": {"kind": kind, "latents": 48, "dead_after_epochs": 0.1, **KINDS[kind]},
        "evaluation": {"every_epochs": 1}, "tracking": {"log_every_steps": 3, "tensorboard": False}, **changes,
    }  # fmt: skip
    job = plan_concepts(parse_concept_config(raw), None)
    create_run(job.config)
    job.prepare(QUIET)
    assert isinstance(job.config, ConceptRunConfig)
    return job.config


@pytest.fixture(scope="module")
def two(network: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, ConceptRunConfig]]]:
    """Folder with what two gloo processes computed, and the configurations of their steps and runs."""
    at = tmp_path_factory.mktemp("two")
    steps = {
        f"{kind}-{parallel}": prepared(network, at, f"{kind}-{parallel}", kind, parallel=parallel)
        for kind in KINDS
        for parallel in PARALLEL
    }
    runs = {f"run-{parallel}": prepared(network, at, f"run-{parallel}", parallel=parallel) for parallel in PARALLEL}
    asked = {
        "steps": {name: config.model_dump(mode="json") for name, config in steps.items()},
        "runs": [config.model_dump(mode="json") for config in runs.values()],
    }
    (at / "asked.json").write_text(json.dumps(asked))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(concept_gloo.main, (port, str(at)), nprocs=concept_gloo.WORLD_SIZE)
    yield at, steps | runs


@pytest.mark.parametrize("name", [f"{kind}-{way}" for kind in KINDS for way in PARALLEL])
def test_two_workers_take_the_steps_of_one(two: tuple[Path, dict[str, ConceptRunConfig]], name: str) -> None:
    """float64; the norm before clipping, moments, firing counts and threshold are part of what is compared."""
    at, configs = two
    torch.set_num_threads(1)
    one = concept_gloo.first_steps(configs[name], 0, 1)
    assert one["encoder"].dtype == torch.float64
    if name.startswith(("topk", "batch_topk")):
        assert float(one[f"sum aux {concept_gloo.STEPS - 1}"]) > 0, "else revival is not compared"
    for rank in range(concept_gloo.WORLD_SIZE):
        found = safetensors.torch.load_file(at / f"{name}-{rank}.safetensors")
        assert found.keys() == one.keys()
        errors = {key: relative_error(found[key], one[key]) for key in one}
        assert max(errors.values()) < 1e-7, errors


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).norm() / b.double().norm().clamp(min=1e-12))


@pytest.mark.parametrize("parallel", PARALLEL)
def test_a_run_of_two_is_a_run_of_one(
    two: tuple[Path, dict[str, ConceptRunConfig]], network: str, tmp_path: Path, parallel: str
) -> None:
    """float32: equal but for rounding. Its checkpoint holds all latents and goes on with another number of workers."""
    _, configs = two
    torch.set_num_threads(1)
    shared = configs[f"run-{parallel}"]
    single = prepared(network, tmp_path, "single")
    expected = train_concepts(concept_gloo.worker(0, 1), single)
    at, alone = (locate(config.storage).child(config.name) for config in (shared, single))
    found = json.loads((Path(at.path) / "metrics.json").read_text())
    for split in ("val", "test"):
        assert found["before"][split] == pytest.approx(expected["before"][split], abs=1e-6)
        for key in ("variance_explained", "l0", "image_l0", "carriers"):
            assert found[split][key] == pytest.approx(expected[split][key], rel=2e-2)
    a, b = read_checkpoint_of(at, "last"), read_checkpoint_of(alone, "last")
    assert a.model.keys() == b.model.keys()
    assert all(relative_error(a.model[key], b.model[key]) < 1e-2 for key in b.model)
    assert len(list((Path(at.path) / "attempts").iterdir())) == 1

    resume_run(at.uri, ["epochs=3", "workers=0"], QUIET)
    resume_run(alone.uri, ["epochs=3"], QUIET)
    a, b = read_checkpoint_of(at, "step-00000036"), read_checkpoint_of(alone, "step-00000036")
    assert all(relative_error(a.model[key], b.model[key]) < 1e-2 for key in b.model)
