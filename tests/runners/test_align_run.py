"""Alignment runs in this process: what they write, that stopping anywhere changes nothing, and what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from written import records, step_files

from raytrain_xai.align_config import AlignRunConfig
from raytrain_xai.checkpoint import complete_steps, read_checkpoint_of
from raytrain_xai.config import parse_job
from raytrain_xai.errors import ConfigError, DataError, RunError
from raytrain_xai.language.backbone import Backbone
from raytrain_xai.report.page import write_report
from raytrain_xai.runners import align_loop, align_session
from raytrain_xai.runners.job import Launch
from raytrain_xai.runners.train import resume_run, start_run
from raytrain_xai.storage import locate

LAST = 8  # steps of two epochs
MakeAlign = Callable[..., AlignRunConfig]


def ignore(_: dict[str, Any]) -> None:
    """Show nothing."""


QUIET = Launch("local", ignore)


class Killed(Exception):
    """Stands for the end of the process."""


@dataclass
class LetterTexts:
    """A text encoder without weights: vectors drawn by the letters of a text."""

    fingerprint: str = "0" * 64
    dim: int = 16
    text_mean: Tensor = field(default_factory=lambda: torch.zeros(16))

    def text(self, texts: Sequence[str]) -> Tensor:
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") for text in texts]
        drawn = [torch.randn(16, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return functional.normalize(torch.stack(drawn), dim=1)


@pytest.fixture
def make_align(objects: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeAlign:
    """SqueezeNet at 48 pixels: 3 x 3 patches of the 24 training scenes."""
    monkeypatch.setattr(align_session, "load_minilm", lambda _: LetterTexts())

    def make(name: str = "run", **changes: Any) -> AlignRunConfig:
        raw = {
            "job": "align", "name": name, "storage": str(tmp_path), "workers": 0, "epochs": 2, "epoch_steps": 4,
            "backbone": "squeezenet1_1", "image_size": 48, "hidden": 8, "features": str(tmp_path / "features"),
            "sources": [{"path": str(objects), "images": 10}], "evaluation": {"path": str(objects), "min_images": 1},
            "tracking": {"log_every_steps": 2, "tensorboard": False}, **changes,
        }  # fmt: skip
        config = parse_job(raw)
        assert isinstance(config, AlignRunConfig)
        return config

    return make


def test_a_run_leaves_a_complete_folder(make_align: MakeAlign) -> None:
    config = make_align()
    outcome = start_run(config, QUIET)
    at = Path(config.storage) / config.name
    assert outcome.metrics == json.loads((at / "metrics.json").read_text())
    assert outcome.metrics.keys() == {"val", "test", "selected"}
    assert all(0 < outcome.metrics[split][name] <= 1 for split in ("val", "test") for name in ("map", "map_pooled"))
    steps = records(config, "step")
    assert [record["step"] for record in steps] == [2, 4, 6, 8]
    for record in steps:
        assert record["loss"] == pytest.approx(record["distil"] + 5 * record["multilabel"], rel=1e-5)
        assert record["multiclass"] == 0
    assert steps[-1]["loss"] < steps[0]["loss"]
    about = read_checkpoint_of(locate(str(at))).state["encoder"]
    assert (about["backbone"], about["hidden"], about["dim"], about["image_size"]) == ("squeezenet1_1", 8, 16, 48)
    with pytest.raises(ConfigError, match="there is no page about"):
        write_report([str(at)])


@pytest.mark.parametrize("step", [2, 6], ids=["first epoch", "second epoch"])
def test_a_run_that_was_stopped_ends_with_the_same_bits(
    step: int, make_align: MakeAlign, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, stopped = make_align("whole"), make_align("stopped", checkpoint={"every_steps": 1})
    start_run(whole, QUIET)
    real, calls = align_loop.align_step, 0

    def step_or_die(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == step + 1:
            raise Killed
        return real(*arguments)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(align_loop, "align_step", step_or_die)
        start_run(stopped, QUIET)
    at = Path(stopped.storage) / stopped.name
    assert max(complete_steps(locate(str(at / "checkpoints")))) == step
    resume_run(str(at), [], QUIET)
    assert step_files(stopped, LAST) == step_files(whole, LAST)


def test_best_map_is_the_checkpoint_that_ranks_best(make_align: MakeAlign) -> None:
    config = make_align(evaluation={**make_align().evaluation.model_dump(), "select": "best_map"})
    outcome = start_run(config, QUIET)
    measured = {r["step"]: r["val"]["map"] for r in records(config, "epoch")}
    assert outcome.metrics["val"]["map"] == max(measured.values()) == measured[outcome.metrics["selected"]["step"]]


def test_numbers_that_are_none_stop_the_run(make_align: MakeAlign, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Backbone.features
    monkeypatch.setattr(Backbone, "features", lambda self, images: real(self, images) * float("nan"))
    with pytest.raises(RunError, match=r"non-finite loss or gradient at step 0 \(epoch 0\)"):
        start_run(make_align(), QUIET)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"sources": [{"path": "OBJECTS", "images": 25}]}, ConfigError, "25 images of a step are more than the 24"),
        ({"sources": [{"path": "OBJECTS", "images": 5, "terms": "voc"}]}, DataError, "table voc has no term for"),
        ({"evaluation": {"path": "OBJECTS", "min_images": 13}}, ConfigError, "no class has more than"),
        ({"evaluation": {"path": "BIRDS", "min_images": 1}}, ConfigError, "has one label an image"),
        ({"templates": "nouns"}, ConfigError, "no template family 'nouns'"),
        ({"sources": [{"path": "/nowhere", "images": 5}]}, DataError, "/nowhere"),
    ],
)
def test_wrong_input_is_refused_before_there_is_a_folder(
    changes: dict[str, Any], error: type[Exception], message: str, make_align: MakeAlign, objects: str, birds: str
) -> None:
    written = json.loads(json.dumps(changes).replace("OBJECTS", str(objects)).replace("BIRDS", str(birds)))
    config = make_align(**written)
    with pytest.raises(error, match=message):
        start_run(config, QUIET)
    assert not (Path(config.storage) / config.name).exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": []}, "sources"),
        ({"sources": [{"path": "a", "images": 1}, {"path": "a", "images": 2}]}, "twice"),
        ({"loss": {"distil_weight": 0, "multilabel_weight": 0, "multiclass_weight": 0}}, "every weight is 0"),
        ({"backbone": "vit"}, "backbone"),
        ({"colour": 1}, "colour"),
    ],
)
def test_wrong_configurations_name_the_key(changes: dict[str, Any], message: str, make_align: MakeAlign) -> None:
    with pytest.raises(ConfigError, match=message):
        make_align(**changes)


@pytest.mark.ray
def test_two_ray_workers_train_what_one_process_trains(make_align: MakeAlign, minilm: Any) -> None:
    """With the real text encoder, whose vectors lie in the store already: it takes a minute to make them."""
    from raytrain_xai.language.prompts import find_family
    from raytrain_xai.language.terms import read_terms
    from raytrain_xai.language.text_cache import TextCache

    alone, together = make_align("alone"), make_align("together", workers=2)
    assert alone.features is not None
    names = [*read_terms("imagenet").values(), *open_classes(alone)]
    drawn = functional.normalize(torch.randn(len(names), minilm.dim, generator=torch.Generator().manual_seed(0)), dim=1)
    cache = TextCache(locate(alone.features).child("texts"))
    cache.vectors(names, of=(minilm.fingerprint, *find_family("plain")), encode=lambda new: drawn[: len(new)])
    align_session.load_minilm = lambda _: minilm  # the fixture of make_align puts it back
    start_run(alone, QUIET)
    start_run(together, QUIET)
    mine, theirs = (
        read_checkpoint_of(locate(str(Path(config.storage) / config.name))).model for config in (alone, together)
    )
    torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)


def open_classes(config: AlignRunConfig) -> list[str]:
    from raytrain_xai.data.dataset import open_dataset
    from raytrain_xai.language.terms import terms_of

    return list(terms_of(open_dataset(config.sources[0].path).classes, None))
