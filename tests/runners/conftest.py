"""A small real data set and small configurations for runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.config import RunConfig, parse_concept_config, parse_config
from raytrain_xai.data.prepare import prepare
from raytrain_xai.data.scenes import SceneOptions, read_scenes_birds
from raytrain_xai.runners.train import Launch, start_run

MakeConfig = Callable[..., RunConfig]
MakeConcepts = Callable[..., ConceptRunConfig]


@pytest.fixture(scope="session")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scenes-birds: 24 training, 6 validation, 12 test images of 48 pixels, in shards of 10."""
    folder = tmp_path_factory.mktemp("data") / "birds"
    prepare(read_scenes_birds(None, SceneOptions(num_train=24, size=48)), str(folder), shard_rows=10)
    return folder


@pytest.fixture
def make_config(birds: Path, tmp_path: Path) -> MakeConfig:
    """A run in this process: 2 epochs of 3 steps; keyword arguments replace keys, dicts go one level deep."""

    def make(**changes: Any) -> RunConfig:
        raw: dict[str, Any] = {
            "name": "run",
            "storage": str(tmp_path / "runs"),
            "epochs": 2,
            "workers": 0,
            "batch_size": 8,
            "data": {"path": str(birds), "image_size": 48, "augment": "crop"},
            "model": {"name": "bcos_resnet_tiny", "norm_statistics": "batch"},
            "optim": {"lr": 1e-3},
            "guidance": {"weight": 0.05, "annotated_fraction": 0.5},
            "tracking": {"log_every_steps": 1, "tensorboard": False},
        }
        for key, value in changes.items():
            raw[key] = {**raw.get(key, {}), **value} if isinstance(value, dict) else value
        return parse_config(raw)

    return make


@pytest.fixture(scope="session")
def network(birds: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Run folder of a small B-cos network, trained for one epoch."""
    raw = {
        "name": "network", "storage": str(tmp_path_factory.mktemp("networks")), "epochs": 1, "workers": 0,
        "batch_size": 8, "data": {"path": str(birds), "image_size": 48},
        "model": {"name": "bcos_resnet_tiny", "norm_statistics": "batch"}, "tracking": {"tensorboard": False},
    }  # fmt: skip
    return start_run(parse_config(raw), Launch("local", [].append)).run


@pytest.fixture
def make_concepts(network: str, tmp_path: Path) -> MakeConcepts:
    """A concept run in this process; keyword arguments replace keys, dicts go one level deep."""

    def make(**changes: Any) -> ConceptRunConfig:
        raw: dict[str, Any] = {
            "job": "concepts", "name": "concepts", "storage": str(tmp_path / "runs"), "epochs": 3, "workers": 0,
            "batch_size": 72, "network": network, "layer": "Mid3", "features": {"reservoir": 400},
            "sae": {"latents": 48, "k": 4}, "evaluation": {"every_epochs": 1},
            "tracking": {"log_every_steps": 3, "tensorboard": False},
        }  # fmt: skip
        for key, value in changes.items():
            raw[key] = {**raw.get(key, {}), **value} if isinstance(value, dict) else value
        return parse_concept_config(raw)

    return make
