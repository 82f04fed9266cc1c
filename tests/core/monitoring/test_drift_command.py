"""``raytrain-xai drift``: stored windows of a service against the catalogue, from the command line."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from torch import Tensor

from raytrain_xai.cli.main import cli
from raytrain_xai.data.loader import load_samples
from raytrain_xai.errors import NotFoundError, RunError
from raytrain_xai.monitoring.monitor import DriftMonitor
from raytrain_xai.monitoring.windows import StoredWindows
from raytrain_xai.runners.catalogue import build_catalogue
from raytrain_xai.runners.tasks import Crew
from raytrain_xai.sections import ResourcesConfig
from raytrain_xai.serving.jobs import Question
from raytrain_xai.serving.served_model import ModelKey, RunAddress, ServedModel
from raytrain_xai.storage import locate

TAP = "Mid2"


@pytest.fixture(scope="module")
def run(concept_runs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    copy = shutil.copytree(concept_runs[TAP], tmp_path_factory.mktemp("run") / "run").as_posix()
    build_catalogue(copy, Crew(0, ResourcesConfig()), lambda _: None, split="train")
    return copy


@pytest.fixture(scope="module")
def images(objects: str) -> Tensor:
    return load_samples(objects, "train", list(range(24)), 48)[0].images


def serve(run: str, store: Path, images: Tensor, times: int, ago_s: float) -> None:
    """A replica that traced pictures some time ago and has ended."""
    now = time.time() - ago_s
    runs = {("objects", "1"): run}
    monitor = DriftMonitor(runs, StoredWindows(locate(str(store)), "a"), window_s=60, clock=lambda: now)
    model = ServedModel.load(ModelKey("objects", "1"), RunAddress(run))
    answers = model.answer(images, [Question("trace", maps="none")] * len(images), [None] * len(images))
    for _ in range(times):
        monitor.observe("objects", "1", TAP, images, answers)
    monitor.close_windows(unfinished=True)


def drift(run: str, store: Path, *options: str) -> Result:
    arguments = ["drift", run, "--store", str(store), "--model", "objects", *options]
    result = CliRunner().invoke(cli, arguments)
    if isinstance(result.exception, (RunError, NotFoundError)):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_pictures_of_the_catalogue_pass_and_noise_fails(run: str, images: Tensor, tmp_path: Path) -> None:
    serve(run, tmp_path / "same", images, 5, ago_s=3600)
    said = drift(run, tmp_path / "same", "--max-shifted", "0").output
    assert said == "120 traced images, 0 of 24 concepts shifted, largest index 0.00\n"
    torch.manual_seed(0)
    noise = torch.randint(0, 256, images.shape, dtype=torch.uint8)
    serve(run, tmp_path / "noise", noise, 5, ago_s=3600)
    with pytest.raises(RunError, match=r"\d+ concepts of objects shifted, allowed are 2"):
        drift(run, tmp_path / "noise", "--max-shifted", "2")
    assert "120 traced images" in drift(run, tmp_path / "noise").output  # without a limit it only tells


def test_old_windows_do_not_count_and_few_images_decide_nothing(run: str, images: Tensor, tmp_path: Path) -> None:
    serve(run, tmp_path, torch.zeros_like(images), 1, ago_s=2 * 3600)
    assert drift(run, tmp_path, "--hours", "1", "--max-shifted", "0").output.startswith("0 traced images")
    said = drift(run, tmp_path, "--hours", "3", "--max-shifted", "0").output
    assert said.startswith("24 traced images")
    assert said.endswith("fewer than 100 images: too few to tell\n")


def test_a_run_without_a_catalogue_is_refused(concept_runs: dict[str, str], tmp_path: Path) -> None:
    bare = shutil.copytree(concept_runs[TAP], tmp_path / "bare", ignore=shutil.ignore_patterns("catalogue"))
    with pytest.raises(NotFoundError, match="raytrain-xai catalogue RUN"):
        drift(bare.as_posix(), tmp_path)
