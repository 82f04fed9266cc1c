"""Measuring a run folder: the numbers of ``guidance.evaluate`` under the settings of the run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from raytrain_xai.checkpoint import load_network
from raytrain_xai.data.dataset import open_dataset
from raytrain_xai.data.loader import evaluation_batches
from raytrain_xai.data.prepare import prepare
from raytrain_xai.data.sources import read_source
from raytrain_xai.errors import CheckpointError, ConfigError, DataError
from raytrain_xai.evaluation import Measured, measure_run, write_metrics
from raytrain_xai.guidance.evaluate import evaluate, summarise
from raytrain_xai.run_folder import write_json
from raytrain_xai.storage import locate

CPU = torch.device("cpu")
GUIDANCE = {"attribution": "gradcam", "layer": "Final", "loss": "l1", "weight": 0.1}


@pytest.fixture(scope="module")
def run(make_run: Any, birds: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_run(tmp_path_factory.mktemp("runs"), "birds", birds, guidance=GUIDANCE)


@pytest.mark.parametrize(("which", "split"), [("selected", "test"), ("step-00000010", "val")])
def test_numbers_are_those_of_evaluate(run: str, birds: str, which: str, split: str) -> None:
    measured = measure_run(run, split=split, which=which, device=CPU)
    network, _, _, _ = load_network(run, which=which)
    batches = evaluation_batches(birds, split, 32, 5)  # another batch size than the run's 64
    state = evaluate(network, batches, method="gradcam", layer="Final", loss="l1", device=CPU)
    expected = summarise(state, open_dataset(birds), 0.3)
    assert measured.metrics == pytest.approx(expected, abs=1e-6)
    assert measured.metrics["iou_threshold"] == 0.3
    assert {"f1", "map", "epg", "iou", "accuracy", "worst_group"} <= set(measured.metrics)
    assert (measured.split, measured.data) == (split, birds)


def test_checkpoints_differ(run: str) -> None:
    first = measure_run(run, which="step-00000010", device=CPU)
    last = measure_run(run, which="last", device=CPU)
    assert (first.checkpoint, last.checkpoint) == ("step-00000010", "step-00000020")
    assert first.metrics != last.metrics


def test_other_data_of_the_same_classes(run: str, tmp_path: Path) -> None:
    other = str(tmp_path / "other")
    prepare(read_source("scenes-birds", None, 7, {"num_train": 8, "size": 48}), other)
    assert measure_run(run, data=other, split="train", device=CPU).data == other


def test_without_a_threshold_iou_is_left_out(make_run: Any, birds: str, tmp_path: Path) -> None:
    """The best threshold of the measured split would be an optimistic one."""
    run = make_run(tmp_path, "birds", birds, guidance=GUIDANCE)
    write_json(locate(run).child("metrics.json"), {"selected": {"step": 20, "epoch": 2}, "iou_threshold": None})
    metrics = measure_run(run, device=CPU).metrics
    assert "epg" in metrics
    assert not {"iou", "iou_threshold"} & set(metrics)


def test_metrics_are_written_as_numbers(run: str, tmp_path: Path) -> None:
    measured = Measured({"f1": 0.25, "epg": 1.0}, "step-00000020", "/somewhere/birds/", "test")
    default = write_metrics(run, measured)
    assert default == f"{run}/eval/birds-test-step-00000020.json"
    named = write_metrics(run, replace(measured, metrics={"f1": 0.5}), str(tmp_path / "deep" / "m.json"))
    assert json.loads(Path(default).read_text()) == {"f1": 0.25, "epg": 1.0}
    assert json.loads(Path(named).read_text()) == {"f1": 0.5}


def test_other_classes_are_refused_with_their_names(run: str, objects: str) -> None:
    with pytest.raises(
        DataError, match=r"2 classes.* has 8 \(missing there: landbird, waterbird; unknown to the run: bird"
    ):
        measure_run(run, data=objects, device=CPU)


def test_what_is_missing_is_named(run: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no images in split 'dev'; its splits are train, val, test"):
        measure_run(run, split="dev", device=CPU)
    with pytest.raises(DataError, match="nothing"):
        measure_run(run, data=str(tmp_path / "nothing"), device=CPU)
    with pytest.raises(CheckpointError, match=r"step-00000007.*step-00000010, step-00000020"):
        measure_run(run, which="step-00000007", device=CPU)
    with pytest.raises(ConfigError, match="not a run"):
        measure_run(str(tmp_path), device=CPU)
