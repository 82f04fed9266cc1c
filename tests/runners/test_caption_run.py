"""Caption runs in this process: what they write, that stopping anywhere changes nothing, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from written import folder, records, step_files

from raytrain_xai.caption_config import CaptionRunConfig
from raytrain_xai.captioning.corpus import read_corpus
from raytrain_xai.captioning.reading import load_decoder
from raytrain_xai.checkpoint import complete_steps, read_checkpoint_of
from raytrain_xai.config import parse_job
from raytrain_xai.data.prepare import prepare
from raytrain_xai.data.sources import read_source
from raytrain_xai.errors import ConfigError, RunError
from raytrain_xai.insight.caption_scores import mention_scores, mentioned
from raytrain_xai.runners import caption_job, caption_loop
from raytrain_xai.runners.caption_loop import build_learner
from raytrain_xai.runners.train import Launch, resume_run, start_run
from raytrain_xai.runners.worker import Worker
from raytrain_xai.storage import locate

DIM = 26
LAST = 9  # steps of three epochs: 24 images, 8 sentences a step


def ignore(_: dict[str, Any]) -> None:
    """Show nothing."""


QUIET = Launch("local", ignore)


class LetterEncoder:
    """Texts are counts of letters; patches are colours in the first three dimensions."""

    name, fingerprint, dim, multiple, image_size, logit_scale = "letters", "f0", DIM, 16, 48, 1.0

    def __init__(self) -> None:
        self.text_mean = torch.full((DIM,), 0.05)
        self.device = torch.device("cpu")

    def patches(self, images: Tensor) -> Tensor:
        return functional.pad(functional.avg_pool2d(images.float() / 255, 16), (0, 0, 0, 0, 0, DIM - 3))

    def text(self, texts: Sequence[str]) -> Tensor:
        counts = [[text.lower().count(chr(97 + letter)) for letter in range(DIM)] for text in texts]
        return functional.normalize(torch.tensor(counts, dtype=torch.float32).view(-1, DIM), dim=1)


MakeCaptions = Callable[..., CaptionRunConfig]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> str:
    """24 / 6 / 12 composed scenes of eight classes, several in an image."""
    dest = str(tmp_path_factory.mktemp("data") / "scenes")
    prepare(read_source("scenes-multi", None, 0, {"num_train": 24, "size": 48}), dest)
    return dest


@pytest.fixture
def make_captions(scenes: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeCaptions:
    """A caption run in this process, of the encoder above; keyword arguments replace keys."""
    monkeypatch.setattr(caption_job, "load_encoder", lambda *_, **__: LetterEncoder())

    def make(**changes: Any) -> CaptionRunConfig:
        raw: dict[str, Any] = {
            "job": "caption", "name": "captions", "storage": str(tmp_path / "runs"), "epochs": 3, "workers": 0,
            "batch_size": 8, "data": [{"path": scenes}], "decoder": {"width": 16, "layers": 1, "heads": 2},
            "evaluation": {"every_epochs": 1}, "tracking": {"log_every_steps": 1, "tensorboard": False},
            **changes,
        }  # fmt: skip
        config = parse_job(raw)
        assert isinstance(config, CaptionRunConfig)
        return config

    return make


def test_a_run_leaves_a_decoder_that_was_measured(make_captions: MakeCaptions) -> None:
    config = make_captions()
    outcome = start_run(config, QUIET)
    assert json.loads((folder(config) / "metrics.json").read_text()) == outcome.metrics
    steps = records(config, "step")
    assert [line["step"] for line in steps] == list(range(1, LAST + 1))
    assert steps[-1]["loss"] < steps[0]["loss"]
    evaluated = [line["val"] for line in records(config, "epoch")]
    assert outcome.metrics["val"] == max(evaluated, key=lambda val: val["f1"])
    decoder = load_decoder(outcome.run, LetterEncoder())
    corpus = read_corpus(locate(outcome.run))
    held = corpus.held["test"]
    captions = decoder.write(held.vectors)
    found = mention_scores(mentioned(captions, corpus.about["categories"]), held.present, held.known)
    assert vars(found) == outcome.metrics["test"]
    selected = read_checkpoint_of(locate(outcome.run))
    assert selected.step == outcome.metrics["selected"]["step"]


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("step", [0, 4, 7])
def test_stopping_changes_nothing(make_captions: MakeCaptions, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """A run that ends in the middle of any epoch and is resumed ends with the same bits."""
    whole = make_captions(name="whole")
    start_run(whole, QUIET)
    config = make_captions(checkpoint={"every_steps": 2})
    real, calls = caption_loop.apply_gradients, 0

    def apply_or_die(*args: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == step + 1:
            raise Killed
        real(*args)

    monkeypatch.setattr(caption_loop, "apply_gradients", apply_or_die)
    with pytest.raises(Killed):
        start_run(config, QUIET)
    monkeypatch.setattr(caption_job, "load_encoder", None)  # the corpus is there: nobody asks for the encoder again
    outcome = resume_run(str(folder(config)), [], QUIET)
    assert step_files(config, LAST) == step_files(whole, LAST)
    assert outcome.metrics == json.loads((folder(whole) / "metrics.json").read_text())


def test_workers_share_out_a_step(make_captions: MakeCaptions) -> None:
    """The sentences, vectors and noise of two workers are those of one, dealt out."""
    config = make_captions()
    start_run(config, QUIET)
    worker = Worker(0, 1, torch.device("cpu"), ignore, ignore)

    class Rank:
        world_size = 2

        def __init__(self, rank: int) -> None:
            self.rank = rank

    parts: list[list[tuple[Tensor, Tensor]]] = []
    for workers in (None, Rank(0), Rank(1)):
        learner = build_learner(worker, config)
        if workers is not None:
            learner.workers = workers
        learner.start(0)
        parts.append(list(learner.epoch(1, 1)))
    alone, *shares = parts
    assert len(alone) == 2
    for step, (vectors, tokens) in enumerate(alone):
        for rank, share in enumerate(shares):
            assert torch.equal(share[step][0], vectors[rank::2]) and torch.equal(share[step][1], tokens[rank::2])
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(8))


def test_an_epoch_says_every_sentence_once(make_captions: MakeCaptions) -> None:
    """Without noise every vector is one of those of its sentence."""
    config = make_captions(noise=0)
    start_run(config, QUIET)
    learner = build_learner(Worker(0, 1, torch.device("cpu"), ignore, ignore), config)
    learner.start(0)
    corpus = learner.corpus
    said = [sentence for _, tokens in learner.epoch(0, 0) for sentence in tokens.tolist()]
    assert sorted(said) == sorted(corpus.tokens.tolist())
    sources = functional.normalize(corpus.sources.float(), dim=2)
    for vectors, tokens in learner.epoch(0, 0):
        for vector, sentence in zip(vectors, tokens, strict=True):
            rows = (corpus.tokens == sentence).all(dim=1)
            assert (sources[rows] - vector).norm(dim=2).min() < 1e-5


def test_a_bad_number_stops_the_run(make_captions: MakeCaptions, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_captions()
    real = caption_loop.build_learner

    def broken(*args: Any) -> Any:
        learner = real(*args)
        with torch.no_grad():
            learner.decoder.norm.weight[0] = float("nan")
        return learner

    monkeypatch.setattr(caption_loop, "build_learner", broken)
    with pytest.raises(RunError, match=r"non-finite parameter norm.weight at step 0"):
        start_run(config, QUIET)
    bundle = json.loads((folder(config) / "failure" / "step-00000000.json").read_text())
    assert bundle["first_bad"] == "parameter norm.weight"
    assert complete_steps(locate(str(folder(config))).child("checkpoints")) == []


def test_bad_input_starts_nothing(make_captions: MakeCaptions) -> None:
    with pytest.raises(ConfigError, match="batch_size 9 does not divide into 2"):
        make_captions(batch_size=9, workers=2)
    with pytest.raises(ConfigError, match="width 10 is no multiple of heads 4"):
        make_captions(decoder={"width": 10})
    config = make_captions()
    renamed = config.data[0].model_copy(update={"names": {"unicorn": "horse"}})
    with pytest.raises(ConfigError, match="names has unicorn"):
        start_run(config.model_copy(update={"data": (renamed,)}), QUIET)
    assert not folder(config).exists()
