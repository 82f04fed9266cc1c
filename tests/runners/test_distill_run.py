"""Distillation as a run in this process: its log, its metrics, stopping in between, what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from written import records

from raytrain_xai.checkpoint import load_network
from raytrain_xai.config import RunConfig
from raytrain_xai.data.loader import TrainingData
from raytrain_xai.data.run_data import open_run_data
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.runners import loop
from raytrain_xai.runners.train import Launch, resume_run, start_run
from raytrain_xai.runners.tutor import build_tutor

MakeConfig = Callable[..., RunConfig]
QUIET = Launch("local", lambda _: None)
STUDENT: dict[str, Any] = {
    "guidance": {"weight": 0.0},
    "data": {"image_size": 32, "augment": "flip"},
    "optim": {"lr": 1e-2},
    "evaluation": {"select": "best_accuracy"},
}


class Killed(Exception):
    """Stands for the end of the process."""


def student(make_config: MakeConfig, teacher: str, name: str = "student", **changes: Any) -> RunConfig:
    distill = {"teacher": teacher, "explanation_weight": 0.5} | changes.pop("distill", {})
    return make_config(**STUDENT | {"name": name, "distill": distill} | changes)


def files(config: RunConfig, name: str) -> bytes:
    return (Path(config.storage) / config.name / "checkpoints" / "step-00000006" / name).read_bytes()


def test_logged_parts_add_up_and_the_student_comes_closer(make_config: MakeConfig, network: str) -> None:
    distill = {"kd_weight": 2.0, "truth_weight": 0.25, "explain_every": 2}
    config = student(make_config, network, epochs=12, distill=distill, evaluation={"every_epochs": 6})
    outcome = start_run(config, QUIET)
    steps = records(config, "step")
    for record in steps:
        explained = 0.5 * record["exp"] if (record["step"] - 1) % 2 == 0 else 0.0
        assert ("exp" in record) == (explained > 0)
        assert record["loss"] == pytest.approx(2 * record["kd"] + 0.25 * record["cls"] + explained, rel=1e-4)
    exp = [record["exp"] for record in steps if "exp" in record]
    assert sum(exp[-3:]) / 3 < sum(exp[:3]) / 3 - 0.2
    vals = [record["val"] for record in records(config, "epoch")]
    assert vals[-1]["similarity"] > vals[0]["similarity"] + 0.1
    for split in ("val", "test"):
        assert {"f1", "accuracy", "agreement", "similarity", "empty_explanations"} <= outcome.metrics[split].keys()
    student_network, *_ = load_network(outcome.run)  # needs no teacher
    assert student_network.name == config.model.name


def test_a_student_of_itself_agrees_completely(make_config: MakeConfig, network: str) -> None:
    model = {"weights": network, "norm_statistics": "frozen"}
    config = student(make_config, network, epochs=1, model=model, optim={"lr": 1e-12})
    metrics = start_run(config, QUIET).metrics["val"]
    assert metrics["agreement"] == 1
    assert metrics["similarity"] == pytest.approx(1, abs=1e-5)
    assert metrics["divergence"] == pytest.approx(0, abs=1e-6)
    (first, *_) = records(config, "step")
    assert first["exp"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("baseline", [None, "crd"])
def test_a_run_that_was_killed_ends_with_the_same_bits(
    make_config: MakeConfig, network: str, monkeypatch: pytest.MonkeyPatch, baseline: str | None
) -> None:
    with_baseline = {"explanation_weight": 0.0, "baseline": baseline, "baseline_weight": 0.1}
    distill = {} if baseline is None else with_baseline
    straight, killed = (
        student(make_config, network, name, checkpoint={"every_steps": 1}, distill=distill)
        for name in ("straight", "killed")
    )
    start_run(straight, QUIET)
    real, calls = loop.apply_gradients, []

    def apply_or_die(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 5:
            raise Killed
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "apply_gradients", apply_or_die)
        with pytest.raises(Killed):
            start_run(killed, QUIET)
    resume_run(str(Path(killed.storage) / "killed"), [], QUIET)
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert files(killed, name) == files(straight, name)
    stored = safetensors.torch.load(files(straight, "model.safetensors"))
    training = safetensors.torch.load(files(straight, "optimizer.safetensors"))
    assert not any(key.startswith("aux.") for key in stored)
    assert any(key.startswith("aux.") for key in training) == (baseline is not None)
    if baseline is not None:  # it learned, and its optimiser state is there
        moments = [value for key, value in training.items() if key.startswith("aux.") and key.endswith("/exp_avg")]
        assert moments and all(value.any() for value in moments)


def test_the_teacher_is_laid_out_as_the_student(make_config: MakeConfig, network: str) -> None:
    """The layout changes speed; answers change by rounding, the fingerprint not at all."""
    plain, last = (student(make_config, network, channels_last=value) for value in (False, True))
    info = open_run_data(plain.data, plain.seed)
    tutors = [build_tutor(load_network(network)[0], config, info, torch.device("cpu")) for config in (plain, last)]
    assert tutors[0] is not None and tutors[1] is not None
    for tutor, layout in zip(tutors, (torch.contiguous_format, torch.channels_last), strict=True):
        assert tutor is not None
        kernels = [p for p in tutor.network.net.parameters() if p.ndim == 4 and min(p.shape[1], p.shape[2]) > 1]
        assert kernels and all(p.is_contiguous(memory_format=layout) for p in kernels)
    assert tutors[0].fingerprint == tutors[1].fingerprint
    batch = next(iter(TrainingData(plain, info, rank=0, world_size=1).epoch(0)))
    answers = [tutor.answers(batch, with_maps=True) for tutor in tutors if tutor is not None]
    torch.testing.assert_close(answers[1].logits, answers[0].logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(answers[1].maps, answers[0].maps, rtol=1e-3, atol=1e-4)


def test_resume_with_another_teacher_is_refused(make_config: MakeConfig, network: str, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher.safetensors"
    tensors = load_network(network)[0].net.state_dict()
    safetensors.torch.save_file(tensors, teacher)
    config = student(make_config, f"bcos_resnet_tiny={teacher}", epochs=1)
    run = start_run(config, QUIET).run
    safetensors.torch.save_file({key: value * 1.5 for key, value in tensors.items()}, teacher)
    with pytest.raises(CheckpointError, match=r"has other weights \(fingerprint .*\) than the teacher this"):
        resume_run(run, ["epochs=2"], QUIET)
    assert (Path(run) / "metrics.json").exists(), "the run is as it was"
    assert len(list((Path(run) / "attempts").iterdir())) == 1, "nobody has claimed it"
    safetensors.torch.save_file(tensors, teacher)
    assert resume_run(run, ["epochs=2"], QUIET).metrics["selected"]


def test_unrelated_pictures_teach_without_their_labels(make_config: MakeConfig, network: str, objects: str) -> None:
    data = {"path": objects, "image_size": 32, "augment": "flip"}
    config = student(make_config, network, epochs=1, data=data | {"measured": make_config().data.path})
    metrics = start_run(config, QUIET).metrics
    assert "worst_group" in metrics["test"]  # a metric of the data it is measured on
    assert records(config, "step")[0]["kd"] > 0


def test_few_shots_make_short_epochs(make_config: MakeConfig, network: str) -> None:
    config = student(make_config, network, data={"image_size": 32, "shots": 4}, epochs=3)
    start_run(config, QUIET)
    assert [record["step"] for record in records(config, "epoch")] == [1, 2, 3]  # 2 classes, 8 images, 1 step each


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distill": {"teacher": "bcosified_squeezenet1_1=voc"}}, "the first difference is class 0: 'bicycle' of"),
        ({"distill": {"teacher": "nowhere"}}, "nowhere is not a run"),
        ({"distill": {"explanation": "weights"}, "model": {"name": "squeezenet1_1", "weights": "imagenet"}}, "is none"),
        ({"data": {"shots": 2}}, "more than the 4 training samples"),
    ],
)
def test_what_cannot_work_is_refused_before_the_run_is_made(
    make_config: MakeConfig, network: str, changes: dict[str, Any], message: str
) -> None:
    config = student(make_config, network, **changes)
    with pytest.raises(ConfigError, match=message):
        start_run(config, QUIET)
    assert not (Path(config.storage) / config.name).exists()


@pytest.mark.ray
def test_two_workers_learn_what_one_learns(make_config: MakeConfig, network: str) -> None:
    crd = {"baseline": "crd", "baseline_weight": 0.1}  # a memory that all workers fill
    sgd = {"name": "sgd", "lr": 1e-2}  # Adam's first steps have the size of the rate, whatever that of the gradient
    one = student(make_config, network, "one", epochs=1, workers=1, distill=crd, optim=sgd)
    two = one.model_copy(update={"name": "two", "workers": 2})
    found = [start_run(config, QUIET).metrics["val"] for config in (one, two)]
    assert found[0]["agreement"] == found[1]["agreement"]
    for name in ("similarity", "divergence"):
        assert found[0][name] == pytest.approx(found[1][name], abs=1e-4)
    weights = [load_network(str(Path(config.storage) / config.name))[0].net.state_dict() for config in (one, two)]
    for key, value in weights[0].items():
        torch.testing.assert_close(
            weights[1][key], value, atol=1e-5, rtol=1e-3, msg=lambda text, key=key: f"{key}: {text}"
        )
