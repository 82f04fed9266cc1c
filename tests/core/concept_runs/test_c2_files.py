"""Consistency of concepts in folders of images and activation maps."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch.nn.functional import cosine_similarity, interpolate

from raytrain_xai.cli.concepts_c2 import c2_files_command
from raytrain_xai.concept_runs.c2_files import score_folder
from raytrain_xai.errors import CheckpointError, DataError
from raytrain_xai.features.models import load_feature_model
from raytrain_xai.models.zoo import build_network

MODEL = "squeezenet1_1=imagenet@Mid1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of noise; maps as .npy and .pt, of other sizes than the images, with negative values."""
    generator = np.random.default_rng(0)
    at = tmp_path / "concept_7"
    at.mkdir()
    for number, value in ((3, "18.5"), (41, "2"), (6158, "0.25")):
        pixels = generator.integers(0, 256, (60, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(at / f"id_{number}_act_{value}.png")
        activation = generator.normal(size=(7, 7)).astype(np.float32)
        if number == 41:
            torch.save(torch.tensor(activation), at / f"id_{number}_actmap.pt")
        else:
            np.save(at / f"id_{number}_actmap.npy", activation)
    return at


def by_hand(folder: Path) -> float:
    """Dense features, dense maps, pair by pair."""
    network = build_network("squeezenet1_1", 1000, weights="imagenet").eval()
    vectors, weights = [], []
    for file in sorted(folder.glob("*.png")):
        stem, value = file.stem.split("_act_")
        at = folder / f"{stem}_actmap.npy"
        loaded = np.load(at) if at.exists() else torch.load(folder / f"{stem}_actmap.pt", weights_only=True).numpy()
        attribution = interpolate(torch.tensor(loaded).clamp(min=0)[None, None], size=(224, 224), mode="bilinear")
        pixels = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
        resized = interpolate(pixels[None].float(), size=(224, 224), mode="bilinear", antialias=True).round()
        with torch.no_grad():
            dense = interpolate(network.features(resized / 255, "Mid1"), size=(224, 224), mode="bilinear")
        vectors.append((dense * attribution).sum(dim=(2, 3))[0] / attribution.sum())
        weights.append(float(value))
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    products = [weights[i] * weights[j] for i, j in pairs]
    cosines = [float(cosine_similarity(vectors[i], vectors[j], dim=0)) for i, j in pairs]
    return float(np.average(cosines, weights=products))


def test_it_is_the_weighted_mean_cosine_of_all_pairs(folder: Path) -> None:
    score = score_folder(str(folder), load_feature_model(MODEL))
    assert score.images == 3
    assert score.consistency == pytest.approx(by_hand(folder), abs=2e-4)


def test_features_from_files_need_no_images(folder: Path, tmp_path: Path) -> None:
    """Opposite directions: cosine -1 between 3 and 41, 1 between 3 and 6158."""
    stored = tmp_path / "features"
    stored.mkdir()
    for number, sign in ((3, 1), (41, -1), (6158, 1)):
        np.save(stored / f"id_{number}.npy", np.full((2, 5, 5), sign, dtype=np.float32))
    score = score_folder(str(folder), load_feature_model(f"files:{stored}"))
    pairs = {-1: 18.5 * 2 + 2 * 0.25, 1: 18.5 * 0.25}
    assert score.consistency == pytest.approx((pairs[1] - pairs[-1]) / (pairs[1] + pairs[-1]))


def test_the_command_writes_what_it_prints(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    done = CliRunner().invoke(
        c2_files_command, [str(folder), "--features", MODEL, "--out", str(out)], catch_exceptions=False
    )
    content = json.loads(out.read_text())
    assert content["concepts"] == [{"folder": str(folder), "consistency": content["mean"], "images": 3}]
    assert f"{content['mean']:.4f}  3 images" in done.output


def test_what_is_missing_or_damaged_is_named(folder: Path) -> None:
    model = load_feature_model(MODEL)
    with pytest.raises(DataError, match="no image named id_"):
        score_folder(str(folder.parent), model)
    (folder / "id_3_actmap.npy").rename(folder / "kept")
    with pytest.raises(DataError, match=r"id_3_act_18\.5\.png has no map"):
        score_folder(str(folder), model)
    (folder / "id_3_actmap.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"no \.npy file"):
        score_folder(str(folder), model)
    np.save(folder / "id_3_actmap.npy", np.zeros((4, 4)))
    torch.save({"map": torch.ones(2, 2)}, folder / "id_41_actmap.pt")
    with pytest.raises(DataError, match="holds no map"):
        score_folder(str(folder), model)
    torch.save(torch.zeros(2, 2), folder / "id_41_actmap.pt")
    with pytest.raises(DataError, match=r"has 1 image\(s\) with a positive map"):
        score_folder(str(folder), model)


def test_a_pickled_map_is_not_executed(folder: Path) -> None:
    torch.save(Path("x"), folder / "id_41_actmap.pt")
    with pytest.raises(CheckpointError, match="could run code"):
        score_folder(str(folder), load_feature_model(MODEL))
