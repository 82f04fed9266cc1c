"""A teacher and students on one split: numbers of each by itself, groups in and out of the training distribution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raytrain_xai.checkpoint import load_network
from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.data.loader import evaluation_batches, load_samples
from raytrain_xai.data.prepare import prepare
from raytrain_xai.data.sources import read_source
from raytrain_xai.distill.agreement import evaluate_agreement, summarise_agreement
from raytrain_xai.distill.teacher import LiveTeacher
from raytrain_xai.distill_comparison import compare, distribution_accuracy, group_counts
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.evaluation import measure_run

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def confounded(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Bird scenes whose background always fits in training, and never tells in the test."""
    dest = str(tmp_path_factory.mktemp("data") / "confounded")
    prepare(read_source("scenes-birds", None, 0, {"num_train": 16, "size": 48, "correlation": 1.0}), dest)
    return dest


@pytest.fixture(scope="module")
def runs(make_run: Any, confounded: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A B-cos teacher, a B-cos student and a plain one that learns by Grad-CAM."""
    folder = tmp_path_factory.mktemp("runs")
    teacher = make_run(folder, "teacher", confounded, model="bcos_resnet_tiny", image_size=48)
    taught = {"distill": {"teacher": teacher, "explanation_weight": 1.0}, "evaluation": {"select": "last"}}
    return [
        teacher,
        make_run(folder, "student", confounded, model="bcos_resnet_tiny", seed=3, **taught),
        make_run(folder, "plain", confounded, seed=4, **taught),
    ]


def test_in_and_out_by_hand() -> None:
    metrics = {"accuracy": 0.6, "group_a": 0.5, "group_b": 1.0, "group_c": 0.25}
    trained_on = {"a": 5, "b": 1, "c": 0, "d": 0}
    measured = {"a": 10, "b": 30, "c": 40, "d": 0}
    assert distribution_accuracy(metrics, trained_on, measured) == {
        "in_distribution": (5 + 30) / 40, "out_of_distribution": 0.25,
    }  # fmt: skip


@pytest.mark.parametrize("trained_on", [{"a": 1, "b": 1}, {"a": 0, "b": 0}, {}])
def test_without_a_shift_there_is_no_number(trained_on: dict[str, int]) -> None:
    assert distribution_accuracy({"group_a": 0.5, "group_b": 1.0}, trained_on, {"a": 10, "b": 30}) == {}


def test_groups_are_counted(confounded: str, objects: str) -> None:
    counts = group_counts(confounded, "train")
    assert {name for name, count in counts.items() if count} == {"landbird_on_land", "waterbird_on_water"}
    assert sum(counts.values()) == 16
    assert group_counts(objects, "train") == {}


def test_each_network_has_its_own_numbers(runs: list[str], confounded: str) -> None:
    found = compare(runs[0], runs[1:], device=CPU)
    assert (found.data, found.split) == (confounded, "test")
    assert found.unseen == ("landbird_on_water", "waterbird_on_land")
    for run, one in zip(runs, (found.teacher, *found.students), strict=True):
        alone = measure_run(run, device=CPU).metrics
        shared = set(alone) & set(one.metrics)
        assert {"accuracy", "epg", "iou", "group_landbird_on_water"} <= shared
        assert {name: one.metrics[name] for name in shared} == {name: alone[name] for name in shared}
        assert not {"f1", "precision", "recall", "map"} & set(one.metrics)  # softmax leaves a constant open
    assert "agreement" not in found.teacher.metrics
    assert [one.kind for one in found.students] == ["weights", "gradcam"]


def test_unseen_groups_are_the_images_whose_background_misleads(runs: list[str], confounded: str) -> None:
    """Counted one image at a time with the network by itself."""
    found = compare(runs[0], [runs[1]], device=CPU).students[0].metrics
    network, _, _, _ = load_network(runs[1])
    stored = StoredSplit(confounded, "test")
    right: dict[bool, list[bool]] = {True: [], False: []}
    with torch.no_grad():
        for row in range(len(stored)):
            batch, _ = load_samples(confounded, "test", [row], 32)
            name = stored.info.groups[int(batch.groups)] if stored.info.groups else ""
            is_right = int(network(batch.images).argmax()) == int(batch.labels.argmax())
            right[name in ("landbird_on_land", "waterbird_on_water")].append(is_right)
    assert found["in_distribution"] == pytest.approx(sum(right[True]) / len(right[True]))
    assert found["out_of_distribution"] == pytest.approx(sum(right[False]) / len(right[False]))


def test_agreement_is_on_the_students_images(runs: list[str], confounded: str) -> None:
    """The teacher was trained on 48 pixels, the student sees 32."""
    found = compare(runs[0], [runs[1]], device=CPU).students[0].metrics
    teacher, student = (load_network(run)[0] for run in runs[:2])
    batches = evaluation_batches(confounded, "test", 32, 64)
    state = evaluate_agreement(student, LiveTeacher(teacher, "weights"), batches, device=CPU)
    expected = summarise_agreement(state, "multiclass")
    assert {name: found[name] for name in expected} == expected
    assert "decision_agreement" not in expected


@pytest.mark.parametrize("students", [[], [0], [1, 1]])
def test_a_network_is_named_once(runs: list[str], students: list[int]) -> None:
    with pytest.raises(ConfigError, match="each of them once"):
        compare(runs[0], [runs[position] for position in students], device=CPU)


def test_other_classes_are_refused(runs: list[str], objects: str) -> None:
    with pytest.raises(DataError, match="was trained on 2 classes"):
        compare(runs[0], [runs[1]], data=objects, device=CPU)


def test_explanations_that_cannot_be_compared_are_refused(
    make_run: Any, runs: list[str], confounded: str, tmp_path: Path
) -> None:
    distill = {"teacher": runs[0], "explanation": "weights"}
    plain = make_run(tmp_path, "p", confounded, distill=distill, evaluation={"select": "last"})
    with pytest.raises(ConfigError, match="squeezenet1_1 is none"):
        compare(runs[0], [plain], device=CPU)
