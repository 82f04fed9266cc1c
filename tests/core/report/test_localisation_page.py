"""The localisation command on real images, and what it writes."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from raytrain_xai.cli.main import cli
from raytrain_xai.data.prepare import prepare
from raytrain_xai.data.sources import read_source
from raytrain_xai.report.localisation import summarise_shares

NUM_SHOWN = 40


@pytest.fixture(scope="session")
def imagenet(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The 1000 ImageNet classes, a dot each for training, and one real picture of 40 of them as the test split."""
    sample, folder = shared_data / "imagenet_sample", tmp_path_factory.mktemp("imagenet")
    dot = folder / "dot.png"
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(dot)
    with (sample / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))
    for position, row in enumerate(rows):
        (folder / "src" / "train" / row["wnid"]).mkdir(parents=True)
        shutil.copy(dot, folder / "src" / "train" / row["wnid"])
        if position % (len(rows) // NUM_SHOWN) == 0:
            (folder / "src" / "test" / row["wnid"]).mkdir(parents=True)
            shutil.copy(sample / row["file"], folder / "src" / "test" / row["wnid"])
    prepare(read_source("imagefolder", str(folder / "src"), 0, {}), str(folder / "data"))
    return str(folder / "data")


def test_pretrained_squeezenet_on_real_images(imagenet: str, tmp_path: Path) -> None:
    arguments = ["localise", "squeezenet1_1=imagenet", "--data", imagenet, "--tile-size", "112", "--mosaics", "5"]
    methods = ["--method", "gradcam", "--method", "ixg"]
    done = CliRunner().invoke(cli, [*arguments, *methods, "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    index = json.loads((tmp_path / "localisation.json").read_text())
    model = index["models"][0]
    assert index["chance"] == 0.25
    assert index["protocol"]["side"] == 2
    assert model["single_label_images"] == NUM_SHOWN
    assert 20 <= model["usable_images"] <= NUM_SHOWN  # the pictures may be training images of the network
    assert len(model["mosaics"]) == 5
    first = model["mosaics"][0]
    assert [name.split("/")[1] for name in first["images"]] == first["classes"]
    gradcam, ixg = model["methods"]
    assert (gradcam["method"], gradcam["layer"], ixg["layer"]) == ("gradcam", "Final", "Input")
    assert gradcam["mean"] == pytest.approx(np.mean(gradcam["shares"]), abs=1e-5)
    assert gradcam["quantiles"]["50"] == pytest.approx(np.median(gradcam["shares"]), abs=1e-5)
    assert gradcam["mean"] > 0.4  # knows where the object is; chance is .25
    assert 0.2 < ixg["mean"] < gradcam["mean"]  # noise over the whole mosaic
    assert f"{gradcam['mean']:.3f}" in done.output
    with Image.open(tmp_path / "localisation.png") as picture:
        assert picture.size[0] > 600
    page = (tmp_path / "localisation.html").read_text()
    assert f"{100 * gradcam['mean']:.1f}</td>" in page
    assert not re.search(r'(?:src|href)="(?!data:|#)', page)  # nothing is loaded from elsewhere
    assert page.count("<img ") == 3 * 3  # three mosaics: the picture and one heatmap per method


def test_wrong_options_are_refused_before_any_work(tmp_path: Path) -> None:
    for options, message in [
        (["--smooth", "4"], "--smooth must be odd"),
        (["--method", "gradcamm"], "did you mean gradcam"),
    ]:
        done = CliRunner().invoke(cli, ["localise", "squeezenet1_1=imagenet", *options, "--out", str(tmp_path / "new")])
        assert message in str(done.exception)
    assert not (tmp_path / "new").exists()


def test_statistics_of_hand_made_scores() -> None:
    """Two mosaics with means .2 and .6: mean .4, standard deviation .2828, error .2."""
    summary = summarise_shares(torch.tensor([[0.0, 0.1, 0.2, 0.5], [0.2, 0.5, 0.7, 1.0]]))
    assert summary.mean == pytest.approx(0.4)
    assert summary.standard_error == pytest.approx(0.2)
    # sorted 0 .1 .2 .2 .5 .5 .7 1: the median lies between .2 and .5, quartiles at ranks 1.75 and 5.25
    assert summary.quantiles[1:4] == pytest.approx((0.175, 0.35, 0.55), abs=1e-6)
    assert summarise_shares(torch.tensor([[0.5, 1.0, 0.5, 0.0]])).standard_error is None
