"""Fixtures shared by all tests: real data, and small finished runs on composed scenes with random weights."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from raytrain_xai.checkpoint import Checkpoint, write_checkpoint
from raytrain_xai.concept_runs.model import build_sae, concept_state
from raytrain_xai.concept_runs.network import adopt_network, store_network
from raytrain_xai.concepts.layer import to_vectors
from raytrain_xai.config import RunConfig, parse_concept_config, parse_config
from raytrain_xai.data.dataset import open_dataset
from raytrain_xai.data.loader import load_samples
from raytrain_xai.data.prepare import prepare
from raytrain_xai.data.sources import read_source
from raytrain_xai.language.minilm import MiniLm, load_minilm
from raytrain_xai.models.zoo import build_network
from raytrain_xai.run_folder import create_run, write_config, write_json
from raytrain_xai.storage import locate, write_bytes

REPOSITORY = Path(__file__).resolve().parents[1]
STEPS_PER_EPOCH = 10
MakeRun = Callable[..., str]


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


@pytest.fixture(scope="session")
def minilm() -> MiniLm:
    """The text encoder of aligned encoders; seconds to read, so once."""
    return load_minilm()


@pytest.fixture(scope="session")
def birds(tmp_path_factory: pytest.TempPathFactory) -> str:
    """24 / 6 / 12 composed scenes of two bird classes in four groups."""
    dest = str(tmp_path_factory.mktemp("data") / "birds")
    prepare(read_source("scenes-birds", None, 0, {"num_train": 24, "size": 48}), dest)
    return dest


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> str:
    """24 / 6 / 12 composed scenes of eight classes, several in an image, no groups."""
    dest = str(tmp_path_factory.mktemp("data") / "objects")
    prepare(read_source("scenes-multi", None, 0, {"num_train": 24, "size": 48}), dest)
    return dest


@pytest.fixture(scope="session")
def make_run() -> MakeRun:
    """``make_run(storage, name, data, **sections)`` -> address of a finished run of two epochs."""
    return _make_run


@pytest.fixture(scope="session")
def concept_runs(objects: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tap -> concept run (24 latents, 3 active) of one random B-cos network for ``objects``, at Mid2 and Final."""
    storage = tmp_path_factory.mktemp("concept-runs")
    network = _make_run(storage, "net", objects, model="bcos_resnet_tiny", image_size=48)
    return {tap: _make_concept_run(storage, tap, network, objects) for tap in ("Mid2", "Final")}


@pytest.fixture
def s3_storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a folder on a real HTTP S3 server on loopback."""
    import boto3
    from moto.server import ThreadedMotoServer  # a second to import, for the few tests that need it

    for name, value in (("ACCESS_KEY_ID", "t"), ("SECRET_ACCESS_KEY", "t"), ("DEFAULT_REGION", "us-east-1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="bucket")
    yield f"s3://bucket/runs?endpoint_override={host}:{port}&scheme=http"
    server.stop()


def _make_run(
    storage: Path, name: str, data: str, *, model: str = "squeezenet1_1", image_size: int = 32, seed: int = 0,
    test: Mapping[str, float] | None = None, **sections: Any,
) -> str:  # fmt: skip
    raw = {
        "name": name, "storage": str(storage), "seed": seed, "epochs": 2,
        "data": {"path": data, "image_size": image_size}, "model": {"name": model}, **sections,
    }  # fmt: skip
    config = parse_config(raw)
    at = create_run(config)
    history = [
        {
            "step": STEPS_PER_EPOCH * epoch,
            "epoch": epoch,
            "val": {"f1": f1, "epg": epg, "iou": 0.2, "iou_threshold": 0.3},
        }
        for epoch, (f1, epg) in enumerate([(0.5, 0.25), (0.75, 0.5)], start=1)
    ]
    _write_weights(at.child("checkpoints"), config, data, history)
    final = {
        "val": history[-1]["val"], "selected": {"step": history[-1]["step"], "epoch": 2}, "iou_threshold": 0.3,
        "test": {"f1": 0.7, "epg": 0.45, "iou": 0.25} if test is None else dict(test),
    }  # fmt: skip
    write_json(at.child("metrics.json"), final)
    points = [{"step": h["step"], "epoch": h["epoch"], **h["val"], "on_front": h is history[-1]} for h in history]
    write_json(at.child("pareto.json"), {"points": points})
    write_bytes(at.child("metrics.jsonl"), "".join(json.dumps(r) + "\n" for r in _log(history)).encode())
    return at.uri


def _make_concept_run(storage: Path, tap: str, network: str, data: str) -> str:
    """A finished run whose dictionary is made of feature vectors of the data, so that codes are not empty."""
    config = parse_concept_config({
        "job": "concepts", "name": f"concepts-{tap}", "storage": str(storage), "network": network, "layer": tap,
        "workers": 0, "batch_size": 64, "epochs": 1, "sae": {"latents": 24, "k": 3},
    })  # fmt: skip
    adopted = adopt_network(config)
    batch, _ = load_samples(data, "train", list(range(24)), 48)
    with torch.no_grad():
        vectors = to_vectors(adopted.network.features(batch.images, tap)).flatten(0, 1)
        generator = torch.Generator().manual_seed(0)
        rows = torch.nn.functional.normalize(vectors[torch.randperm(len(vectors), generator=generator)[:24]], dim=1)
    at = locate(config.storage).child(config.name)
    store_network(at.child("network"), adopted)
    write_config(at, config)
    state = {
        "step": 5, "epoch": 1, "step_in_epoch": 0, "history": [], "mlflow_id": None,
        **concept_state(config, adopted.network, rows.shape[1]),
    }  # fmt: skip
    weights = build_sae(config, rows.shape[1]).state_dict() | {"encoder": rows, "dictionary": rows}
    write_checkpoint(at.child("checkpoints"), Checkpoint(5, weights, {}, state), lambda: None)
    write_json(at.child("metrics.json"), {"selected": {"step": 5, "epoch": 1}})
    return at.uri


def _write_weights(folder: Any, config: RunConfig, data: str, history: list[dict[str, Any]]) -> None:
    info = open_dataset(data)
    for entry in history:
        torch.manual_seed(config.seed + entry["epoch"])
        network = build_network(config.model.name, len(info.classes), weights=None, norm_statistics="frozen")
        state = {
            "step": entry["step"], "epoch": entry["epoch"], "step_in_epoch": 0, "history": history,
            "data": {
                "classes": info.classes, "task": info.task, "groups": info.groups, "fingerprint": info.fingerprint,
            },
        }  # fmt: skip
        write_checkpoint(folder, Checkpoint(entry["step"], network.net.state_dict(), {}, state), lambda: None)


def _log(history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A first attempt of 30 s, a break, and a second one of 50 s."""
    return [
        {"kind": "event", "event": "started", "step": 0, "epoch": 0, "attempt": 1, "time": 1000.0},
        {"kind": "step", "step": 5, "epoch": 0, "loss": 0.9, "cls": 0.7, "loc": 0.2, "attempt": 1, "time": 1020.0},
        {"kind": "epoch", "attempt": 1, "time": 1030.0, **history[0]},
        {"kind": "event", "event": "started", "step": 10, "epoch": 1, "attempt": 2, "time": 2000.0},
        {"kind": "step", "step": 15, "epoch": 1, "loss": 0.5, "cls": 0.4, "loc": 0.1, "attempt": 2, "time": 2025.0},
        {"kind": "epoch", "attempt": 2, "time": 2050.0, **history[1]},
    ]
