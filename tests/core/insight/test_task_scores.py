"""Scores of encoder and concepts over a stored data set, against a loop over its images."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score
from small_encoder import SmallEncoder, small_model
from torch.nn import functional

from raytrain_xai.data.dataset import open_dataset
from raytrain_xai.data.loader import evaluation_batches
from raytrain_xai.errors import DataError
from raytrain_xai.insight.segment import segment
from raytrain_xai.insight.task_scores import ScorePlan, TaskScores, score_tasks
from raytrain_xai.language.prompts import embed_terms, find_family
from raytrain_xai.report.task_score_files import write_task_scores
from raytrain_xai.storage import locate


@pytest.fixture(scope="module")
def scored(objects: str) -> TaskScores:
    model = small_model(SmallEncoder(image_size=48))
    return score_tasks(model, ScorePlan(objects, "train", side_px=48, min_images=3, batch_size=7, background=0.2))


def test_scores_equal_a_loop_over_images(scored: TaskScores, objects: str) -> None:
    model = small_model(SmallEncoder(image_size=48))
    classes = open_dataset(objects).classes
    texts = embed_terms(model.encoder, [name.replace("_", " ") for name in classes], find_family("plain"))
    hits, unions, ranked, labels = np.zeros(len(classes)), np.zeros(len(classes)), [], []
    for batch in evaluation_batches(objects, "train", 48, 1):
        found = segment(model, batch.images, texts)
        assert batch.masks is not None
        for c in range(len(classes)):
            true, said = batch.masks == c + 1, found.labels == c + 1
            counted = (batch.masks > 0) & (batch.masks < 255)
            hits[c] += int((true & said).sum())
            unions[c] += int(((true | said) & counted).sum())
        code, size = model.codes(batch.images)
        cosines = functional.normalize(model.reconstruct(code, size), dim=1).flatten(2).transpose(1, 2) @ texts.T
        ranked.append(((10 * cosines).softmax(dim=1) * cosines).sum(dim=1)[0].detach().numpy())
        labels.append(batch.labels[0].numpy())
    np.testing.assert_allclose(scored.concepts.iou, hits / unions, atol=1e-6)
    for c in np.flatnonzero(scored.is_counted.numpy()):
        expected = average_precision_score(np.array(labels)[:, c], np.array(ranked)[:, c])
        assert float(scored.concepts.precision[c]) == pytest.approx(expected, abs=1e-6)
    assert scored.images == 24


def test_means_are_over_counted_classes(scored: TaskScores) -> None:
    means = scored.means(scored.encoder)
    assert means["map"] == pytest.approx(float(scored.encoder.precision[scored.is_counted].mean()))
    assert scored.kept()["map"] == pytest.approx(scored.means(scored.concepts)["map"] / means["map"])
    assert means["miou_background"] == pytest.approx(
        np.mean([scored.encoder.iou_with_background[0], *scored.encoder.iou_with_background[1:][scored.is_counted]])
    )


def test_variance_and_active_concepts(scored: TaskScores, objects: str) -> None:
    model = small_model(SmallEncoder(image_size=48))
    images = torch.cat([batch.images for batch in evaluation_batches(objects, "train", 48, 8)])
    x = model.encoder.patches(images).flatten(2).transpose(1, 2).flatten(0, 1)
    code = model.sae.encode(x)
    missed = (x - model.sae.decode(code)).square().sum()
    explained = 1 - missed.detach() / (x - x.mean(dim=0)).square().sum()
    assert scored.variance_explained == pytest.approx(float(explained), abs=1e-5)
    assert scored.active == pytest.approx(float((code.values > 0).sum(dim=1).float().mean()))


def test_the_record_is_json_with_null_for_what_does_not_exist(scored: TaskScores, tmp_path: Path) -> None:
    at = locate(str(tmp_path / "scores.json"))
    write_task_scores(at, "run", ScorePlan("data"), scored)
    record = json.loads((tmp_path / "scores.json").read_text())
    assert record["concepts"]["map"] == pytest.approx(scored.means(scored.concepts)["map"], abs=1e-6)
    for c, values in enumerate(record["encoder"]["classes"].values()):
        assert (values["iou"] is None) == math.isnan(float(scored.encoder.iou[c]))


def test_wrong_data_are_refused(objects: str) -> None:
    model = small_model(SmallEncoder(image_size=48))
    with pytest.raises(DataError, match="no images in split 'night'"):
        score_tasks(model, ScorePlan(objects, "night"))
    with pytest.raises(DataError, match="no class has 1000 images"):
        score_tasks(model, ScorePlan(objects, "val", min_images=1000))
    with pytest.raises(DataError, match="no term"):
        score_tasks(model, ScorePlan(objects, "val", terms="voc"))
