"""The deletion study of a concept run, from images to files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from raytrain_xai.cli.main import cli
from raytrain_xai.concept_runs.deletion import DeletionPlan, study_deletion
from raytrain_xai.concept_runs.model import load_concepts
from raytrain_xai.concepts.trace import activations, concept_pass, contributions
from raytrain_xai.data.loader import load_samples
from raytrain_xai.errors import ConfigError, DataError


def test_curves_against_one_image_at_a_time(concept_runs: dict[str, str]) -> None:
    model = load_concepts([concept_runs["Final"]])
    study = study_deletion(model, DeletionPlan("test", 5, ("contribution", "random")), [].append)
    rows = sorted(torch.randperm(12, generator=torch.Generator().manual_seed(0))[:5].tolist())
    batch, _ = load_samples(model.data, "test", rows, 48)
    top, after_one = 0.0, 0.0
    with torch.no_grad():
        for image in batch.images:
            passed = concept_pass(model.network, model.layers, image[None])
            target = passed.logits.argmax(1)
            first = int(
                contributions(passed, "Final", target).masked_fill(activations(passed.layers[0].code) <= 0, -9).argmax()
            )
            top += float(passed.logits.max() - passed.bias)
            dense = passed.layers[0].code.dense()
            dense[..., first] = 0
            x = (dense @ model.layers["Final"].sae.dictionary).transpose(1, 2).unflatten(2, passed.layers[0].size)
            for stage in model.network.stages[model.network.depth("Final") :]:
                x = stage(x)
            after_one += float(x[0, target] - passed.bias)
    curve = study.curves["contribution"]
    assert study.images == curve.images == 5
    assert curve.deleted[:2] == (0, 1)
    assert curve.logit[:2].tolist() == pytest.approx([top, after_one], rel=1e-4)
    assert float(curve.logit[-1]) == pytest.approx(0, abs=1e-5 * top)
    assert study.curves["random"].logit[0] == pytest.approx(top, rel=1e-4)


def test_protected_concepts_stay(concept_runs: dict[str, str]) -> None:
    model = load_concepts([concept_runs["Final"]])
    study = study_deletion(model, DeletionPlan("test", 12, ("contribution",), protect=0.0), [].append)
    curve = study.curves["contribution"]
    assert study.protected  # everything that is ever active
    assert curve.logit.tolist() == pytest.approx([float(curve.logit[0])] * len(curve.deleted))


def test_command_writes_numbers_and_a_picture(concept_runs: dict[str, str], tmp_path: Path) -> None:
    args = ["concepts", "deletion", concept_runs["Final"], "--images", "3", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli, args, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "out" / "deletion.json").read_text())
    assert list(record["measures"]) == ["contribution", "saliency", "random"]
    assert len(record["measures"]["saliency"]["logit"]) == len(record["measures"]["saliency"]["deleted"])
    assert (tmp_path / "out" / "deletion.png").read_bytes().startswith(b"\x89PNG")


def test_refusals(concept_runs: dict[str, str], birds: str) -> None:
    model = load_concepts([concept_runs["Final"]])
    with pytest.raises(ConfigError, match="unknown measure shapley"):
        study_deletion(model, DeletionPlan("test", 3, ("shapley",)), [].append)
    with pytest.raises(DataError, match="no split 'nowhere'"):
        study_deletion(model, DeletionPlan("nowhere", 3, ("random",)), [].append)
    with pytest.raises(DataError, match="was trained on 8 classes"):
        study_deletion(model, DeletionPlan("test", 3, ("random",), data=birds), [].append)
    both = load_concepts(list(concept_runs.values()))
    with pytest.raises(ConfigError, match="needs one concept layer, got Mid2, Final"):
        study_deletion(both, DeletionPlan("test", 3, ("random",)), [].append)
