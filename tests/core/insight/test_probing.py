"""Probes of a stored data set: what is chosen, measured and written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from small_encoder import SmallEncoder, small_model
from torchmetrics.functional.classification import binary_average_precision

from raytrain_xai.data.loader import evaluation_batches
from raytrain_xai.errors import DataError
from raytrain_xai.insight.model import InsightModel
from raytrain_xai.insight.probe import PathPlan
from raytrain_xai.insight.probing import Probe, fit_probe, write_probe
from raytrain_xai.storage import locate


@pytest.fixture(scope="module")
def model() -> InsightModel:
    model = small_model(SmallEncoder(image_size=48))
    model.sae.requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def probe(model: InsightModel, objects: str) -> Probe:
    return fit_probe(model, objects, PathPlan(4, 0.2, 1e-2, 200))


def test_the_sparsest_probe_near_the_best_is_chosen(probe: Probe) -> None:
    measures = [row.measure for row in probe.path]
    assert measures[probe.chosen] >= 0.99 * max(measures)
    assert all(value < 0.99 * max(measures) for value in measures[: probe.chosen])
    assert probe.chosen > 0  # without concepts, images are not ranked
    assert float(probe.weights.count_nonzero(dim=0).double().mean()) == probe.path[probe.chosen].concepts_per_class


def test_the_test_measure_is_that_of_the_largest_values(probe: Probe, model: InsightModel, objects: str) -> None:
    batches = list(evaluation_batches(objects, "test", 48, 12))
    peaks = torch.cat([model.codes(batch.images)[0].dense().amax(dim=1) for batch in batches])
    labels = torch.cat([batch.labels for batch in batches])
    logits = peaks @ probe.weights
    occurring = labels.any(dim=0).nonzero().flatten().tolist()
    values = [binary_average_precision(logits[:, c].sigmoid(), labels[:, c].long()) for c in occurring]
    assert probe.test == pytest.approx(float(torch.stack(values).mean()), abs=1e-5)


def test_files_hold_the_weights_and_the_strongest_concepts(
    probe: Probe, model: InsightModel, objects: str, tmp_path: Path
) -> None:
    write_probe(locate(str(tmp_path)), model, objects, probe)
    stored = safetensors.torch.load_file(tmp_path / "probe.safetensors")
    assert torch.equal(stored["weight"], probe.weights.T)
    record = json.loads((tmp_path / "probe.json").read_text())
    for c, name in enumerate(probe.classes):
        own = record["classes"][name]
        assert own["concepts"] == int(probe.weights[:, c].count_nonzero())
        shares = [entry["share"] for entry in own["strongest"]]
        assert shares == sorted(shares, reverse=True) and sum(shares) <= 1 + 1e-6
        assert all(entry["weight"] > 0 for entry in own["strongest"])


def test_data_without_validation_are_refused(model: InsightModel, tmp_path: Path) -> None:
    with pytest.raises(DataError):
        fit_probe(model, str(tmp_path), PathPlan())
