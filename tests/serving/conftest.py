"""A service over small random runs, without Ray, and a client of its API."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from colours import SIDE, colour_model, write_colour_run
from PIL import Image
from starlette.concurrency import run_in_threadpool
from starlette.testclient import TestClient

from raytrain_xai.insight.image_index import build_index
from raytrain_xai.insight.image_rows import ImageRows
from raytrain_xai.serving.engine import AnyJob, run_jobs
from raytrain_xai.serving.insight_jobs import ImageSegments
from raytrain_xai.serving.jobs import ImageAnswer
from raytrain_xai.serving.model_store import ModelStore, Served, load_served
from raytrain_xai.serving.served_insight import ServedInsight
from raytrain_xai.serving.served_model import ModelKey, RunAddress
from raytrain_xai.storage import locate
from serve.api import create_api
from serve.links import Links
from serve.meter import Meter
from serve.security.keys import new_key
from serve.service import Service
from serve.settings import ModelSettings, ServeSettings, VersionSettings

MakeService = Callable[[ServeSettings], Service]


@pytest.fixture(scope="session")
def make_service() -> MakeService:
    """``make_service(settings)`` -> a service on them that has nothing loaded."""
    return _make_service


@pytest.fixture(scope="session")
def served_models(
    concept_runs: dict[str, str], objects: str, make_run: Callable[..., str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, ModelSettings]:
    """``concepts`` (Final, and Mid2 below it), and ``plain`` in versions ``a`` (weight 3) and ``b`` (weight 1)."""
    storage: Path = tmp_path_factory.mktemp("plain-runs")
    runs = {name: make_run(storage, name, objects, image_size=48, seed=seed) for seed, name in enumerate("ab")}
    return {
        "concepts": ModelSettings(
            versions={"1": VersionSettings(run=concept_runs["Final"], also=(concept_runs["Mid2"],))}
        ),
        "plain": ModelSettings(
            versions={"a": VersionSettings(run=runs["a"], weight=3), "b": VersionSettings(run=runs["b"], weight=1)}
        ),
    }


@pytest.fixture(scope="session")
def colour_models(objects: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSettings]:
    """``colours``: an encoder made by hand with a described run, see :mod:`colours`; ``val`` of objects is indexed."""
    run = write_colour_run(tmp_path_factory.mktemp("colour-runs"))
    build_index(colour_model(), ImageRows([objects], "val", SIDE), "val", locate(run).child("insight", "index-val"))
    return {"colours": ModelSettings(versions={"1": VersionSettings(run=run)})}


@pytest.fixture(scope="session")
def concept_service(served_models: dict[str, ModelSettings], make_service: MakeService) -> Service:
    """Service on ``served_models`` with default settings; shared, so change nothing that stays."""
    return make_service(ServeSettings(models=served_models))


@pytest.fixture(scope="session")
def client(concept_service: Service) -> TestClient:
    """Client of ``concept_service``; errors of the service are answers, as they are for other clients."""
    return TestClient(create_api(concept_service), raise_server_exceptions=False)


@pytest.fixture(scope="session")
def png() -> bytes:
    """A picture of 60 x 40 pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def _make_service(settings: ServeSettings) -> Service:
    addresses = {
        name: {version: RunAddress(v.run, v.also, v.weight) for version, v in model.versions.items()}
        for name, model in settings.served.items()
    }
    models = ModelStore(addresses, memory_bytes=settings.replica.memory_bytes, load=_load)
    links = Links(settings.monitor.links, max_bytes=settings.monitor.links_bytes)
    return Service(settings, models, _answer, links, Meter())


def _load(key: ModelKey, address: RunAddress, device: torch.device | str = "cpu") -> Served:
    """Runs are read; the encoder of ``colours`` is made, since it has no weights that could be read."""
    return ServedInsight(key, colour_model()) if key.name == "colours" else load_served(key, address, device)


async def _answer(job: AnyJob) -> list[ImageAnswer] | list[ImageSegments]:
    """One job at a time, in a thread as in a replica."""
    (answers,) = await run_in_threadpool(run_jobs, [job])
    if isinstance(answers, Exception):
        raise answers
    return answers


@pytest.fixture
def tokens(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Role -> key, of clients named as the roles."""
    pairs = {role: new_key(role, role) for role in ("predict", "explain", "edit")}  # type: ignore[arg-type]
    monkeypatch.setenv("RAYTRAIN_XAI_KEYS", "\n".join(key.model_dump_json() for _, key in pairs.values()))
    return {role: token for role, (token, _) in pairs.items()}
