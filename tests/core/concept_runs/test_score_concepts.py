"""The scoring job in this process: against image-by-image definitions, per class, resumed, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate

from raytrain_xai.cli.concepts_c2 import c2_command
from raytrain_xai.concept_runs.model import load_concepts
from raytrain_xai.concept_runs.scores import Scores, SourceScore
from raytrain_xai.concept_runs.scoring import ScoreJob
from raytrain_xai.concepts.c2 import random_maps
from raytrain_xai.concepts.trace import activations, concept_maps, concept_pass
from raytrain_xai.data.loader import load_samples
from raytrain_xai.errors import CheckpointError, ConfigError, DataError
from raytrain_xai.features.models import load_feature_model
from raytrain_xai.report.consistency import score_index, write_scores
from raytrain_xai.runners import score_concepts as module
from raytrain_xai.runners.score_concepts import score_concepts
from raytrain_xai.runners.tasks import Crew
from raytrain_xai.sections import ResourcesConfig
from raytrain_xai.storage import locate

FEATURES = "squeezenet1_1=imagenet@Mid2"
HERE = Crew(0, ResourcesConfig())
IMAGES = 24


def _silent(_: Any) -> None:
    """Nobody watches."""


def run(concept_runs: dict[str, str], objects: str, folder: Path, **changes: Any) -> tuple[ScoreJob, Scores]:
    settings: dict[str, Any] = {"features": FEATURES, "data": objects, "split": "train", "seed": 5, **changes}
    job = ScoreJob(concept_runs["Final"], "selected", **settings)
    return job, score_concepts(job, HERE, locate(str(folder)), _silent)


def weighted_cosines(vectors: list[Tensor], weights: list[float]) -> float:
    pairs = [(i, j) for i in range(len(weights)) for j in range(len(weights)) if i != j]
    cosines = [float(cosine_similarity(vectors[i], vectors[j], dim=0)) for i, j in pairs]
    return float(np.average(cosines, weights=[weights[i] * weights[j] for i, j in pairs]))


class ByHand:
    """Every image by itself, features made dense, every pair of images compared."""

    def __init__(self, run: str, data: str) -> None:
        model = load_concepts([run])
        tap = next(iter(model.layers))
        batch, ids = load_samples(data, "train", list(range(IMAGES)), 48)
        large, _ = load_samples(data, "train", list(range(IMAGES)), 224)
        self.labels = batch.labels
        with torch.no_grad():
            features = load_feature_model(FEATURES)(large.images, ids)
            dense = interpolate(features, size=(48, 48), mode="bilinear").double()
            traced = concept_pass(model.network, model.layers, batch.images)
            self.activation = activations(traced.at(tap).code)
            self.vectors: dict[tuple[int, int], Tensor] = {}
            centre = dense.mean(dim=(0, 2, 3))
            for image, concept in (self.activation > 0).nonzero().tolist():
                attribution = concept_maps(traced, tap, torch.tensor([concept]), torch.tensor([image]))
                attribution = attribution.double().clamp(min=0)
                mean = (dense[image] * attribution).sum(dim=(1, 2)) / attribution.sum()
                self.vectors[image, concept] = mean - centre
            self.random = []
            for draw in range(3):
                maps = random_maps(torch.arange(IMAGES), (48, 48), 5 * 3 + draw).double()
                means = torch.einsum("ihw,iehw->ie", maps, dense) / maps.sum(dim=(1, 2))[:, None] - centre
                self.random.append((means, maps.sum(dim=(1, 2))))

    def consistency(self, concept: int, images: list[int]) -> float | None:
        """Of the images the published rule selects among these."""
        value = {image: float(self.activation[image, concept]) for image in images}
        positive = sorted((v for v in value.values() if v > 0), reverse=True)
        limit = 0.0 if len(positive) <= 10 else min(float(np.quantile(positive, 0.95)), positive[10])
        chosen = [image for image in images if value[image] > limit]
        if len(chosen) < 2:
            return None
        return weighted_cosines([self.vectors[image, concept] for image in chosen], [value[i] for i in chosen])

    def baseline(self, images: list[int]) -> list[float]:
        return [weighted_cosines([m[i] for i in images], [float(w[i]) for i in images]) for m, w in self.random]


def as_table(source: SourceScore) -> dict[tuple[int, int], float]:
    rows = zip(source.concept.tolist(), source.group.tolist(), source.consistency.tolist(), strict=True)
    return {(concept, group): value for concept, group, value in rows}


@pytest.fixture(scope="module")
def by_hand(concept_runs: dict[str, str], objects: str) -> ByHand:
    return ByHand(concept_runs["Final"], objects)


def test_scores_are_their_definition(
    by_hand: ByHand, concept_runs: dict[str, str], objects: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks of 7 images; more than ten images of a concept take part in the selection."""
    monkeypatch.setattr(module, "_BLOCK", 7)
    _, scores = run(concept_runs, objects, tmp_path)
    everyone = list(range(IMAGES))
    assert int((by_hand.activation > 0).sum(dim=0).max()) > 10
    expected = {(k, 0): by_hand.consistency(k, everyone) for k in range(24)}
    expected = {key: value for key, value in expected.items() if value is not None}
    [ours] = scores.sources
    assert as_table(ours) == pytest.approx(expected, abs=1e-4)
    baseline = by_hand.baseline(everyone)
    assert scores.random.flatten().tolist() == pytest.approx(baseline, abs=1e-4)
    counted = [expected[k, 0] for k, n in zip(ours.concept.tolist(), ours.images.tolist(), strict=True) if n >= 5]
    assert ours.c2 == pytest.approx(np.mean(counted) - np.mean(baseline), abs=1e-4)
    assert 0 < len(counted) < len(expected) or int(ours.images.min()) >= 5
    assert not list(tmp_path.iterdir())


def test_every_class_by_itself(
    by_hand: ByHand, concept_runs: dict[str, str], objects: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_BLOCK", 10)
    _, scores = run(concept_runs, objects, tmp_path, per_class=True)
    members = [by_hand.labels[:, c].nonzero().flatten().tolist() for c in range(by_hand.labels.shape[1])]
    expected = {(k, c): by_hand.consistency(k, members[c]) for k in range(24) for c in range(len(members))}
    [ours] = scores.sources
    assert as_table(ours) == pytest.approx({k: v for k, v in expected.items() if v is not None}, abs=1e-4)
    for c, images in enumerate(members):
        if len(images) >= 2:
            assert scores.random[:, c].tolist() == pytest.approx(by_hand.baseline(images), abs=1e-4)
    assert len(scores.groups) == len(members)
    above = [
        value - float(scores.random[:, c].mean())
        for ((_, c), value), n in zip(as_table(ours).items(), ours.images.tolist(), strict=True)
        if n >= 5
    ]
    assert ours.c2 == pytest.approx(np.mean(above))


def test_baselines_are_scored_on_the_same_images(concept_runs: dict[str, str], objects: str, tmp_path: Path) -> None:
    job, scores = run(concept_runs, objects, tmp_path, baselines=("channels", "nmf", "pca"), components=4, split="test")
    assert [source.name for source in scores.sources] == ["ours", "channels", "nmf", "pca"]
    assert [source.num_concepts for source in scores.sources][2:] == [4, 8]
    for source in scores.sources:
        assert len(source.consistency)
        assert float(source.consistency.abs().max()) <= 1 + 1e-9
    alone = run(concept_runs, objects, tmp_path, split="test")[1].sources[0]
    torch.testing.assert_close(alone.consistency, scores.sources[0].consistency)
    index = score_index(job, scores)
    assert index["sources"]["nmf"]["concepts"] == 4
    assert len(json.loads(json.dumps(index, allow_nan=False))["sources"]["pca"]["scores"]) == len(
        scores.sources[3].consistency
    )


def test_an_interrupted_job_goes_on_where_it_was(
    concept_runs: dict[str, str], objects: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the second pass; the first is not done again, and the result is that of an uninterrupted job."""
    monkeypatch.setattr(module, "_BLOCK", 6)
    weigh, find = module.Scorer.weigh, module.Scorer.find
    done: list[tuple[str, int]] = []

    def recorded_find(self: Any, first: int, stop: int) -> Any:
        done.append(("find", first))
        return find(self, first, stop)

    def interrupted_weigh(self: Any, first: int, *rest: Any) -> Any:
        if first == 12 and ("weigh", 6) in done and not resumed:
            raise KeyboardInterrupt
        done.append(("weigh", first))
        return weigh(self, first, *rest)

    resumed = False
    monkeypatch.setattr(module.Scorer, "find", recorded_find)
    monkeypatch.setattr(module.Scorer, "weigh", interrupted_weigh)
    with pytest.raises(KeyboardInterrupt):
        run(concept_runs, objects, tmp_path)
    resumed = True
    before = len(done)
    _, scores = run(concept_runs, objects, tmp_path)
    assert done[before:] == [("weigh", 12), ("weigh", 18)]
    whole = run(concept_runs, objects, tmp_path / "whole")[1]
    torch.testing.assert_close(scores.sources[0].consistency, whole.sources[0].consistency, rtol=0, atol=0)


def test_the_command_writes_numbers_and_a_picture(concept_runs: dict[str, str], objects: str, tmp_path: Path) -> None:
    options = ["--features", FEATURES, "--data", objects, "--baseline", "channels", "--out", str(tmp_path / "out")]
    from raytrain_xai.cli.main import cli

    done = CliRunner().invoke(cli, ["concepts", "c2", concept_runs["Final"], *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    index = json.loads((tmp_path / "out" / "c2.json").read_text())
    assert f"C2 {index['sources']['ours']['c2']:.4f}" in done.output
    assert set(index["sources"]) == {"ours", "channels"}
    assert (tmp_path / "out" / "c2.png").read_bytes().startswith(b"\x89PNG")
    assert c2_command.name == "c2"


def test_a_class_with_one_image_has_no_baseline_and_numbers_that_do_not_exist_are_null(tmp_path: Path) -> None:
    random = torch.tensor([[0.1, float("nan")]] * 3, dtype=torch.float64)
    ours = SourceScore(
        "ours", 4, torch.tensor([2]), torch.tensor([0]), torch.tensor([0.5]).double(), torch.tensor([3]),
        random.mean(dim=0),
    )  # fmt: skip
    scores = Scores((ours,), random, ("cat", "dog"), 3, {2: "ear"})
    write_scores(locate(str(tmp_path)), ScoreJob("r", "selected", "m", "d", "test", per_class=True), scores)
    index = json.loads((tmp_path / "c2.json").read_text())
    assert index["random"]["classes"] == {"cat": pytest.approx(0.1), "dog": None}
    assert index["sources"]["ours"]["c2"] is None  # one concept with three images: too few to count
    assert index["sources"]["ours"]["scores"] == [
        {"id": 2, "name": "ear", "class": "cat", "consistency": 0.5, "images": 3}
    ]


def test_bad_input_is_refused_before_anything_is_written(
    concept_runs: dict[str, str], objects: str, birds: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="has no images in split 'extra'; its splits are train, val, test"):
        run(concept_runs, objects, tmp_path, split="extra")
    with pytest.raises(ConfigError, match="a baseline is named twice"):
        run(concept_runs, objects, tmp_path, baselines=("pca", "pca"))
    with pytest.raises(ConfigError, match="no feature model"):
        run(concept_runs, objects, tmp_path, features="dino")
    with pytest.raises(DataError, match="was trained on 8 classes"):
        run(concept_runs, birds, tmp_path, per_class=True)
    with pytest.raises(ConfigError, match="has 1 to .* components"):
        run(concept_runs, objects, tmp_path, baselines=("pca",), components=5000)
    assert not list(tmp_path.iterdir())


def test_features_that_are_not_finite_end_the_job(
    concept_runs: dict[str, str], objects: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken:
        name, image_size = "broken", None

        def __call__(self, images: Tensor | None, ids: list[str]) -> Tensor:  # noqa: ARG002
            return torch.full((len(ids), 2, 2, 2), float("nan"))

    monkeypatch.setattr("raytrain_xai.concept_runs.scoring.load_feature_model", lambda *_, **__: Broken())
    with pytest.raises(CheckpointError, match="broken gives features that are not finite"):
        run(concept_runs, objects, tmp_path)
