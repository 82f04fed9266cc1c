"""``raytrain-xai models`` as a user meets it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result

from raytrain_xai.cli.models import models_group
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.models.catalogue import CATALOGUE, find_official
from raytrain_xai.models.zoo import MODEL_NAMES, build_network


def run(*arguments: object) -> Result:
    return CliRunner().invoke(models_group, [str(a) for a in arguments])


@pytest.fixture(autouse=True)
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty mirror and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("RAYTRAIN_XAI_WEIGHTS", str(tmp_path / "mirror"))
    (tmp_path / "mirror").mkdir()
    return tmp_path / "mirror"


def test_list_names_every_architecture_and_what_is_here(mirror: Path) -> None:
    (mirror / find_official("bcos_resnet50", "official-long").file).touch()
    done = run("list")
    assert done.exit_code == 0, done.output
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.output.splitlines() if "│" in line]
    assert sorted(row[0] for row in rows if row[0]) == sorted(MODEL_NAMES)
    start = next(number for number, row in enumerate(rows) if row[0] == "bcos_resnet50")
    assert rows[start : start + 2] == [
        ["bcos_resnet50", "B-cos", "25.5", "4.31", "224 px", "75.88", "official"],
        ["", "", "", "", "", "79.47", "official-long (here)"],
    ]  # fmt: skip
    assert ["bcos_resnet_tiny", "B-cos", "1.5", "0.21", "112 px", "", ""] in rows
    assert sum(1 for row in rows if row[6]) == sum(map(len, CATALOGUE.values()))


def test_info(mirror: Path) -> None:
    file = mirror / "resnet18-f37072fd.pth"
    file.touch()
    lines = run("info", "resnet18").output.splitlines()
    assert lines[0] == "resnet18: standard network for images of 224 px"
    assert lines[1] == "  parameters  11.69 M with 1000 classes"
    assert lines[2] == "  work        1.81 G multiply-adds per image"
    assert lines[3].startswith("  layers      Input, Mid1, Mid2, Mid3, Final, layer1.0, layer1.1")
    assert lines[4] == "  official: top-1 69.76 % (published), by torchvision, BSD-3-Clause, trained on ImageNet"
    assert lines[5] == "    https://download.pytorch.org/models/resnet18-f37072fd.pth"
    assert lines[6] == f"    here: {file}, SHA-256 f37072fd"
    assert "not here yet, SHA-256 not published" in run("info", "xdnn_resnet50").output
    assert run("info", "bcos_resnet_tiny").output.endswith("  no published weights\n")
    assert isinstance(run("info", "resnet19").exception, ConfigError)


def test_download_from_a_mirror(mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"not really weights"
    digits = hashlib.sha256(content).hexdigest()[:10]
    published = find_official("bcos_resnet18")
    ours = type(published)("official", f"resnet_18-{digits}.pth", None, published.release)
    monkeypatch.setitem(CATALOGUE, "bcos_resnet18", (ours,))
    (mirror / ours.file).write_bytes(content)
    done = run("download", "bcos_resnet18")
    assert done.output == f"{mirror / ours.file}: 0.0 MB, SHA-256 starts with {digits}\n"
    (mirror / ours.file).write_bytes(content + b"!")
    assert isinstance(run("download", "bcos_resnet18").exception, CheckpointError)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nope",), "unknown model 'nope'"),
        (("bcos_resnet_tiny",), "no weights of bcos_resnet_tiny are published"),
        (
            ("bcos_resnet50", "--variant", "long"),
            "no weights 'long' of bcos_resnet50 are published, only official, off",
        ),
    ],
)
def test_download_of_what_is_not_published(arguments: tuple[str, ...], message: str) -> None:
    error = run("download", *arguments).exception
    assert isinstance(error, ConfigError)
    assert message in str(error)


def test_convert(tmp_path: Path) -> None:
    state = build_network("bcos_resnet_tiny", 20).net.state_dict()
    torch.save({"model": {f"0.{key}": value for key, value in state.items()}}, tmp_path / "guided.pth")
    out = tmp_path / "guided.safetensors"
    done = run("convert", tmp_path / "guided.pth", "bcos_resnet_tiny", out)
    assert done.output == f"{out}: bcos_resnet_tiny, 20 classes\n"
    assert build_network("bcos_resnet_tiny", 20, weights=str(out)).num_classes == 20
    layer = {"encoder.weight": torch.zeros(8, 4), "decoder.weight": torch.zeros(4, 8), "k": torch.tensor(2)}
    torch.save(layer, tmp_path / "sae.pt")
    done = run("convert", tmp_path / "sae.pt", "topk_sae", tmp_path / "sae.safetensors")
    assert done.output.endswith("sae.safetensors: 8 concepts of 4 channels, 2 active at a position\n")
    refused = run("convert", tmp_path / "sae.pt", "topk_sae", tmp_path / "sae.pt").exception
    assert isinstance(refused, ConfigError)
    assert str(refused) == f"OUT must be a .safetensors file, got {tmp_path / 'sae.pt'}"
