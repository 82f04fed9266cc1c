"""Concept runs of an encoder in this process: what they write, that stopping changes nothing, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
import torch
from colours import ColourEncoder
from torch import Tensor
from written import folder, step_files

from raytrain_xai.checkpoint import read_checkpoint_of
from raytrain_xai.concepts.layer import to_vectors
from raytrain_xai.concepts.matryoshka_step import geometric_median
from raytrain_xai.concepts.update import apply_update, build_adam, project_gradients
from raytrain_xai.concepts.workers import ALONE
from raytrain_xai.config import parse_insight_config
from raytrain_xai.data.loader import evaluation_batches
from raytrain_xai.errors import CheckpointError, ConfigError, DataError
from raytrain_xai.features import origin
from raytrain_xai.insight import model as insight_model
from raytrain_xai.insight.model import load_insight
from raytrain_xai.insight_config import InsightRunConfig
from raytrain_xai.runners import insight_job, insight_loop, sae_learner
from raytrain_xai.runners.history import Position
from raytrain_xai.runners.insight_loop import InsightSession, build_insight_session, take_insight_step
from raytrain_xai.runners.train import Launch, resume_run, start_run
from raytrain_xai.runners.worker import Worker
from raytrain_xai.storage import locate

MakeInsight = Callable[..., InsightRunConfig]
SAE = {"latents": 8, "k": 1, "group_fractions": [0.25, 0.75], "dead_after_epochs": 0.2}
LAST = 24  # steps of two epochs: 24 + 24 images of 16 patches, 64 patches a step


def ignore(_: dict[str, Any]) -> None:
    """Show nothing."""


QUIET = Launch("local", ignore)


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """``embedded`` is the encoder of colours."""
    use(monkeypatch, ColourEncoder())
    yield


def use(monkeypatch: pytest.MonkeyPatch, encoder: ColourEncoder) -> None:
    for module in (insight_job, insight_loop, origin, insight_model):
        monkeypatch.setattr(module, "load_encoder", lambda text, *, device="cpu": encoder)  # noqa: ARG005


@pytest.fixture
def make_insight(objects: str, birds: Path, tmp_path: Path) -> MakeInsight:
    """``make_insight(**changes)`` -> configuration of a run on two data sets."""

    def make(name: str = "run", **changes: Any) -> InsightRunConfig:
        return parse_insight_config({
            "job": "concepts", "name": name, "storage": str(tmp_path / "runs"), "encoder": "embedded", "workers": 0,
            "data": [str(objects), str(birds)], "epochs": 2, "batch_size": 64, "tracking": {"log_every_steps": 4},
            "sae": SAE,
            "optim": {"lr": 1e-2, "warmup_epochs": 0}, "evaluation": {"batch_size": 5}, **changes,
        })  # fmt: skip

    return make


@pytest.mark.parametrize("unit", [False, True], ids=["as they are", "of length 1"])
def test_a_run_leaves_a_complete_folder_and_loads(make_insight: MakeInsight, unit: bool) -> None:
    config = make_insight(sae={**SAE, "unit_inputs": unit})
    outcome = start_run(config, QUIET)
    assert outcome.metrics == json.loads((folder(config) / "metrics.json").read_text())
    assert outcome.metrics.keys() == {"val", "test", "selected", "dictionary"}
    assert outcome.metrics["selected"] == {"step": LAST, "epoch": 2}
    model = load_insight(str(folder(config)))
    assert model.sae.group_sizes.tolist() == [2, 6]
    assert float(model.sae.threshold) > 0
    assert model.name(3) == "concept 3" and model.relations is None
    test = outcome.metrics["test"]
    vectors = torch.cat([
        to_vectors(model.encoder.patches(batch.images)).flatten(0, 1)
        for path in config.data
        for batch in evaluation_batches(path, "test", 32, 100)
    ])  # fmt: skip
    if unit:
        vectors = vectors / vectors.norm(dim=1, keepdim=True)
    with torch.no_grad():
        dense = ((vectors - model.sae.decoder_bias) @ model.sae.encoder.T + model.sae.encoder_bias).double()
        dense = torch.where(dense > model.sae.threshold, dense, 0).float()
        error = (vectors - dense @ model.sae.dictionary - model.sae.decoder_bias).square().sum()
    variance = (vectors - vectors.mean(dim=0)).square().sum()
    assert test["variance_explained"] == pytest.approx(float(1 - error / variance), abs=1e-5)
    assert test["variance_explained"] > 0.3, "24 steps teach something"
    assert test["l0"] == pytest.approx(float((dense > 0).sum(dim=1).float().mean()), rel=1e-6)
    assert test["dead"] == float(((dense > 0).sum(dim=0) == 0).sum())


def test_codes_and_reconstruction_of_images(make_insight: MakeInsight) -> None:
    config = make_insight(epochs=1)
    start_run(config, QUIET)
    model = load_insight(str(folder(config)))
    batch = next(iter(evaluation_batches(config.data[0], "val", 32, 3)))
    code, size = model.codes(batch.images)
    assert size == (4, 4) and code.values.shape[:2] == (3, 16)
    rebuilt = model.reconstruct(code, size)
    patches = model.encoder.patches(batch.images)
    assert rebuilt.shape == patches.shape
    at = model.sae(patches[1, :, 2, 3][None])[0]
    torch.testing.assert_close(rebuilt[1, :, 2, 3], at)


@pytest.mark.parametrize("store", [False, True], ids=["from the encoder", "from a store"])
def test_a_run_that_was_killed_ends_with_the_same_bits(
    make_insight: MakeInsight, monkeypatch: pytest.MonkeyPatch, store: bool, tmp_path: Path
) -> None:
    features = {"store": str(tmp_path / "store")} if store else {"per_image": 16}
    straight, killed = make_insight("straight", features=features), make_insight("killed", features=features)
    start_run(straight, QUIET)
    real, calls = sae_learner.apply_update, 0

    def apply_or_die(*args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 15:
            raise KeyboardInterrupt
        real(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(sae_learner, "apply_update", apply_or_die)
        with pytest.raises(KeyboardInterrupt):
            start_run(killed, QUIET)
    resume_run(str(folder(killed)), [], QUIET)
    assert step_files(killed, LAST) == step_files(straight, LAST) != {}


def test_the_decoder_bias_starts_at_the_geometric_median(make_insight: MakeInsight) -> None:
    session = build_insight_session(Worker(0, 1, torch.device("cpu"), ignore, ignore), make_insight())
    x = next(iter(session.source.epoch(0)))
    raw = x * session.source.scale
    take_insight_step(session, x, Position())
    torch.testing.assert_close(session.sae.decoder_bias.detach(), geometric_median(raw))
    assert raw.min() >= 0 and 0.5 < raw.max() <= 1, "colours as the encoder gives them"
    before = session.sae.decoder_bias.detach().clone()
    take_insight_step(session, x, Position().after_step())
    torch.testing.assert_close(session.sae.decoder_bias.detach(), before)


@dataclass
class Pair:
    """Two threads that exchange tensors, as workers do."""

    barrier: Barrier = field(default_factory=lambda: Barrier(2, timeout=60))
    slots: list[Tensor] = field(default_factory=lambda: [torch.empty(0)] * 2)

    def exchange(self, rank: int, values: Tensor) -> list[Tensor]:
        self.slots[rank] = values
        self.barrier.wait()
        both = [slot.clone() for slot in self.slots]
        self.barrier.wait()
        return both


@dataclass
class OneOfTwo:
    pair: Pair
    rank: int
    world_size: int = 2

    def sum(self, values: Tensor) -> Tensor:
        return values.copy_(torch.stack(self.pair.exchange(self.rank, values)).sum(dim=0))

    def gather(self, values: Tensor) -> Tensor:
        return torch.cat(self.pair.exchange(self.rank, values))


def first_steps(session: InsightSession) -> dict[str, Tensor]:
    """Parameters, threshold and counts after some steps in float64."""
    session = replace(session, optimizer=build_adam(session.sae.double()))
    position = Position()
    for step, x in zip(range(6), session.source.epoch(0), strict=False):
        result = take_insight_step(session, x.double(), position)
        norm = project_gradients(session.sae, result.gradients)
        apply_update(session.sae, result.gradients, norm, session.optimizer, lr=1e-2, clip_norm=0.1)
        session.usage.update(result.fired, 64)
        position = position.after_step()
        assert position.step == step + 1
    return {**session.sae.state_dict(), "fired": session.usage.fired, "idle": session.usage.idle}


@pytest.mark.parametrize("store", [False, True], ids=["from the encoder", "from a store"])
def test_two_workers_are_one(
    make_insight: MakeInsight, monkeypatch: pytest.MonkeyPatch, store: bool, tmp_path: Path
) -> None:
    config = make_insight(features={"store": str(tmp_path / "store")} if store else {})
    if store:
        start_run(config, QUIET)  # exports
    here, pair = Worker(0, 1, torch.device("cpu"), ignore, ignore), Pair()
    sessions: list[InsightSession] = []
    for workers in (ALONE, OneOfTwo(pair, 0), OneOfTwo(pair, 1)):
        monkeypatch.setattr(insight_loop, "joined_workers", lambda workers=workers: workers)
        sessions.append(build_insight_session(here, config))
    alone = first_steps(sessions[0])
    with ThreadPoolExecutor(2) as pool:
        for found in pool.map(first_steps, sessions[1:]):
            for name, value in alone.items():
                torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-9, msg=name)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"data": []}, ConfigError, "data names no prepared data set"),
        ({"image_size": 36}, ConfigError, "image_size=36 is no multiple of the 8 pixels of a patch of colours; set 32"),
        (
            {"sae": {"latents": 8, "k": 3, "group_fractions": [1.0]}},
            ConfigError,
            "sae.k=3 active latents are no",
        ),
        ({"batch_size": 1024}, ConfigError, "batch_size 1024 is more than the 768 vectors of an epoch"),
        ({"features": {"split": "training"}}, DataError, "no image in the split 'training'"),
    ],
)
def test_what_is_refused(
    make_insight: MakeInsight, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    config = make_insight(**changes)
    with pytest.raises(error, match=message):
        start_run(config, QUIET)
    assert not folder(config).exists()


def test_another_encoder_under_the_same_name_is_refused(
    make_insight: MakeInsight, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_insight(epochs=1)
    start_run(config, QUIET)
    assert read_checkpoint_of(locate(str(folder(config)))).state["encoder"]["name"] == "colours"
    use(monkeypatch, replace(ColourEncoder(), fingerprint="9" * 64))
    with pytest.raises(CheckpointError, match="fingerprint 000000000000, the one found now has 999999999999"):
        load_insight(str(folder(config)))
    with pytest.raises(CheckpointError, match="train concepts on this one"):
        resume_run(str(folder(config)), ["epochs=2"], QUIET)


def test_a_run_of_concepts_in_a_network_is_no_run_of_an_encoder(concept_runs: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="one of the concepts of an encoder is needed here"):
        load_insight(concept_runs["Mid2"])
