"""B-cosification as a run in this process and as a file: its start, its log, stopping in between, what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from raytrain_xai.bcosification import build_plain, calibration_images, start
from raytrain_xai.checkpoint import load_network
from raytrain_xai.cli.main import cli
from raytrain_xai.config import BcosifyConfig, RunConfig
from raytrain_xai.data.dataset import open_dataset
from raytrain_xai.data.loader import load_samples
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.models.zoo import build_network
from raytrain_xai.runners import loop
from raytrain_xai.runners.objective import build_objective
from raytrain_xai.runners.preflight import check_bcosify
from raytrain_xai.runners.train import Launch, resume_run, start_run

MakeConfig = Callable[..., RunConfig]
QUIET = Launch("local", lambda _: None)
BCOSIFIED: dict[str, Any] = {
    "model": {"name": "bcosified_squeezenet1_1", "norm_statistics": "frozen"},
    "bcosify": {"calibration_images": 8, "distil_epochs": 1, "distil_weight": 0.5},
    "guidance": {"weight": 0.05, "reduction": "mean"},
}
UNGUIDED = BCOSIFIED | {"guidance": {"weight": 0.0}, "data": {"image_size": 32}}


class Killed(Exception):
    """Stands for the end of the process."""


def final_weights(config: RunConfig) -> bytes:
    return (Path(config.storage) / config.name / "checkpoints" / "step-00000003" / "model.safetensors").read_bytes()


def test_logged_parts_add_up_and_features_come_closer(make_config: MakeConfig) -> None:
    config = make_config(**BCOSIFIED)
    start_run(config, QUIET)
    run = Path(config.storage) / config.name
    steps = [
        record
        for line in (run / "metrics.jsonl").read_text().splitlines()
        if (record := json.loads(line))["kind"] == "step"
    ]
    for record in steps:
        share = 0.0 if record["step"] <= 3 else 1.0  # the first epoch only distils
        joint = record["cls"] + 0.05 * record.get("loc", 0.0)
        assert record["loss"] == pytest.approx(share * joint + 0.5 * record["distil"], rel=1e-4)
    assert steps[2]["distil"] < steps[0]["distil"]
    network, *_ = load_network(str(run))  # needs neither the teacher nor the data
    assert network.net.get_buffer("features.0.gain").min() > 0


def test_a_run_that_was_killed_ends_with_the_same_bits(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, killed = (
        make_config(name=name, epochs=1, checkpoint={"every_steps": 1}, **UNGUIDED) for name in ("straight", "killed")
    )
    start_run(straight, QUIET)
    real, calls = loop.apply_gradients, []

    def apply_or_die(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 3:
            raise Killed
        real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "apply_gradients", apply_or_die)
        with pytest.raises(Killed):
            start_run(killed, QUIET)
    resume_run(str(Path(killed.storage) / killed.name), [], QUIET)
    assert final_weights(killed) == final_weights(straight)


def test_given_weights_are_the_start_and_the_plain_network_only_teaches(make_config: MakeConfig, birds: Path) -> None:
    info = open_dataset(str(birds))
    config = make_config(**BCOSIFIED)
    networks = [build_network("bcosified_squeezenet1_1", len(info.classes)) for _ in range(2)]
    before = [network.net.get_buffer("features.0.gain").clone() for network in networks]
    build_objective(networks[0], config, info)
    with_weights = config.model_copy(update={"model": config.model.model_copy(update={"weights": "somewhere"})})
    build_objective(networks[1], with_weights, info)
    assert not torch.equal(networks[0].net.get_buffer("features.0.gain"), before[0])
    assert torch.equal(networks[1].net.get_buffer("features.0.gain"), before[1])


def test_calibration_images_are_spread_over_the_split(birds: Path) -> None:
    expected, _ = load_samples(str(birds), "train", [0, 7, 15, 23], 32)
    assert torch.equal(calibration_images(str(birds), 4, 32), expected.images)
    assert len(calibration_images(str(birds), 100, 32)) == 24


def test_unreadable_weights_of_the_teacher_stop_before_the_run_is_made(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(**{**BCOSIFIED, "bcosify": {"weights": str(tmp_path / "none.safetensors")}})
    with pytest.raises(CheckpointError, match="no weights at"):
        start_run(config, QUIET)
    assert not Path(config.storage).exists()


def test_a_network_without_a_last_map_cannot_be_distilled() -> None:
    with torch.device("meta"):
        network = build_network("bcosified_vit_b_32", 2)
    with pytest.raises(ConfigError, match="bcosified_vit_b_32 has no map behind its blocks"):
        check_bcosify(network, BcosifyConfig())


def test_command_writes_the_start(birds: Path, tmp_path: Path) -> None:
    out = tmp_path / "start.safetensors"
    arguments = ["--data", str(birds), "--images", "8", "--image-size", "48"]
    result = CliRunner().invoke(cli, ["models", "bcosify", "squeezenet1_1", str(out), *arguments])
    assert result.exit_code == 0, result.output
    assert "bcosified_squeezenet1_1, 2 classes" in result.output
    network = build_network("bcosified_squeezenet1_1", 2, weights=str(out))
    bcosify = BcosifyConfig(calibration_images=8)
    expected = build_network("bcosified_squeezenet1_1", 2)
    start(expected, build_plain(expected, bcosify), bcosify, str(birds), 48)
    for key, value in load_file(out).items():
        if not key.startswith("classifier."):  # which starts at random
            assert torch.equal(value, expected.net.state_dict()[key])
            assert torch.equal(value, network.net.state_dict()[key])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["xdnn_resnet18", "out.safetensors"], "'xdnn_resnet18' cannot be B-cosified; plain networks that can: "),
        (["squeezenet1_1", "out.pth"], "OUT must be a .safetensors file, got out.pth"),
        (["resnet18", "out.safetensors"], "no weights imagenet of resnet18 are embedded"),
    ],
)
def test_command_says_what_is_wrong(birds: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(cli, ["models", "bcosify", *arguments, "--data", str(birds)])
    assert message in str(result.exception)
