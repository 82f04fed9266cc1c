"""Exported programs: the same answers in a process that knows only torch, and nothing pickled in the file."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import Tensor
from torch.export.passes import move_to_device_pass

from raytrain_xai import export
from raytrain_xai.cli.models_publish import export_command
from raytrain_xai.errors import CheckpointError, ConfigError, RunError
from raytrain_xai.explain import Explainer
from raytrain_xai.export import INDEX, export_run, program_bytes

SIZE = 32
FRESH_PROCESS = """
import json, sys, torch
index = {"model.json": ""}
program = torch.export.load(sys.argv[1], extra_files=index).module()
images, target = torch.load(sys.argv[2], weights_only=True)
alone = program(images[:1], target[:1])
together = program(images, target)
assert not {"raytrain_xai", "torchvision", "safetensors"} & set(sys.modules)
torch.save({"alone": alone, "together": together}, sys.argv[3])
print(index["model.json"])
"""


@pytest.fixture(scope="module")
def objects_run(make_run: Any, objects: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_run(tmp_path_factory.mktemp("runs"), "objects", objects, model="bcos_resnet_tiny")


@pytest.fixture(scope="module")
def birds_run(make_run: Any, birds: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    guidance = {"attribution": "gradcam", "layer": "Final"}
    return make_run(tmp_path_factory.mktemp("runs"), "birds", birds, guidance=guidance)


@pytest.fixture(scope="module")
def bcos_file(objects_run: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("exported") / "objects.pt2"
    result = CliRunner().invoke(export_command, [objects_run, str(file)], catch_exceptions=False)
    assert result.exit_code == 0
    assert hashlib.sha256(file.read_bytes()).hexdigest() in result.output
    return file


@pytest.fixture(scope="module")
def gradcam_file(birds_run: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("exported") / "birds.pt2"
    written = export_run(birds_run, str(file))
    assert (written.uri, written.num_bytes) == (str(file), file.stat().st_size)
    return file


def images(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, SIZE, SIZE), dtype=torch.uint8, generator=generator)


def answers(file: Path, x: Tensor, target: Tensor, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Outputs for the first image alone and for all together, and ``model.json``, from a process with torch alone."""
    torch.save((x, target), folder / "in.pt")
    command = [sys.executable, "-I", "-c", FRESH_PROCESS, file, folder / "in.pt", folder / "out.pt"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return torch.load(folder / "out.pt", weights_only=True), json.loads(done.stdout)


def test_bcos_program_in_a_fresh_process(bcos_file: Path, objects_run: str, tmp_path: Path) -> None:
    x, target = images(5), torch.tensor([3, -1, 0, 7, -1])
    found, index = answers(bcos_file, x, target, tmp_path)
    explainer = Explainer.load(objects_run)
    strongest = explainer.network(x).argmax(dim=1)
    explained = torch.where(target < 0, strongest, target)
    logits, pairs = explainer.attribute(x, explained)
    together = found["together"]
    assert set(together) == set(index["outputs"])
    assert torch.equal(together["target"], explained)
    torch.testing.assert_close(together["logits"], logits, rtol=1e-5, atol=1e-6)
    scale = float(pairs.maps.abs().max())
    torch.testing.assert_close(together["attribution"], pairs.maps, rtol=1e-4, atol=1e-5 * scale)
    assert int((together["rgba"].int() - pairs.rgba.int()).abs().max()) <= 1
    # By hand: the map and the bias of 8 classes, -log 7, add up to the logit of the explained class.
    total = together["attribution"].sum(dim=(1, 2)) - torch.tensor(7.0).log()
    torch.testing.assert_close(total, logits.gather(1, explained[:, None])[:, 0], rtol=1e-5, atol=1e-5)
    assert float(together["completeness_residual"].max()) < 1e-5
    for name, value in found["alone"].items():
        torch.testing.assert_close(value.float(), together[name][:1].float(), rtol=1e-4, atol=1e-5)
    assert index["classes"] == list(explainer.classes)
    assert (index["name"], index["checkpoint"], index["task"]) == ("objects", "step-00000020", "multilabel")
    assert index["preprocessing"]["image_size"] == SIZE
    assert index["attribution"] == {"method": "bcos", "layer": "Input"}


def test_standard_network_with_gradcam(gradcam_file: Path, birds_run: str) -> None:
    index = {INDEX: ""}
    program = torch.export.load(gradcam_file, extra_files=index)
    assert list(json.loads(index[INDEX])["outputs"]) == ["logits", "target", "attribution"]
    x, target = images(7), torch.tensor([0, 1, 0, 1, 1, 0, 1])
    found = program.module()(x, target)
    assert not any(value.requires_grad for value in found.values())
    logits, pairs = Explainer.load(birds_run).attribute(x, target)
    torch.testing.assert_close(found["logits"], logits)
    torch.testing.assert_close(found["attribution"], pairs.maps)
    with pytest.raises(RuntimeError, match="num_classes"):
        program.module()(x, target + 1)


def test_nothing_in_the_file_is_pickled_or_tells_of_this_machine(bcos_file: Path, gradcam_file: Path) -> None:
    for file in (bcos_file, gradcam_file):
        with zipfile.ZipFile(file) as archive:
            entries = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
        assert entries["data/sample_inputs/model.pt"] == b""
        for kind in ("weights", "constants"):
            payload = json.loads(entries[f"data/{kind}/model_{kind}_config.json"])["config"]
            assert not any(entry["use_pickle"] for entry in payload.values())
            known = {entry["path_name"] for entry in payload.values()} | {f"model_{kind}_config.json"}
            assert {name.rpartition("/")[2] for name in entries if name.startswith(f"data/{kind}/")} == known
        assert not any(data.startswith((b"PK", b"\x80")) for name, data in entries.items() if "weights/" not in name)
        graph = entries["models/model.json"].decode()
        assert "stack_trace" not in graph
        assert str(Path(export.__file__).parents[1]) not in graph


def test_folded_filters_are_stored_once(bcos_file: Path, objects_run: str) -> None:
    network = Explainer.load(objects_run).network
    filters = sum(p.numel() for name, p in network.net.named_parameters() if name.endswith("linear.weight"))
    program = torch.export.load(bcos_file)
    stored = sum(value.numel() for value in (*program.constants.values(), *program.state_dict.values()))
    assert stored == filters


def test_programs_hold_operators_of_every_device_only(bcos_file: Path, gradcam_file: Path) -> None:
    for file in (bcos_file, gradcam_file):
        program = torch.export.load(file)
        operators = {node.target for node in program.graph.nodes if node.op == "call_function"}
        named = {str(operator) for operator in operators if isinstance(operator, torch._ops.OpOverload)}
        assert {name.split(".")[0] for name in named} == {"aten"}
        assert not [name for name in named if any(part in name for part in ("mkldnn", "onednn", "cudnn", "miopen"))]
        moved = move_to_device_pass(program, "meta").module()
        found = moved(images(3).to("meta"), torch.zeros(3, dtype=torch.int64, device="meta"))
        assert {value.device.type for value in found.values()} == {"meta"}


def test_preprocessing_can_be_done_with_torch_alone(objects_run: str) -> None:
    """As ``model.json`` describes it; rounding to uint8 may differ by one level."""
    explainer = Explainer.load(objects_run)
    picture = torch.randint(0, 256, (1, 3, 51, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    assert explainer.preprocessing["resize"].startswith("bilinear with antialiasing")
    scaled = torch.nn.functional.interpolate(picture.float(), size=(SIZE, SIZE), mode="bilinear", antialias=True)
    difference = scaled.round().clamp(0, 255) - explainer.prepare(picture).float()
    assert float(difference.abs().max()) <= 1


def test_wrong_input_is_named(objects_run: str, make_run: Any, birds: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"model\.onnx does not end in \.pt2"):
        export_run(objects_run, str(tmp_path / "model.onnx"))
    with pytest.raises(CheckpointError, match="no checkpoint step-00000099"):
        export_run(objects_run, str(tmp_path / "x.pt2"), which="step-00000099")
    path = make_run(tmp_path, "path", birds, guidance={"attribution": "intgrad", "layer": "Final"})
    with pytest.raises(ConfigError, match="Integrated Gradients cannot be exported"):
        export_run(path, str(tmp_path / "x.pt2"))
    assert not (tmp_path / "x.pt2").exists()


def test_a_program_that_answers_differently_is_not_written(
    objects_run: str, bcos_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program of the second epoch does not pass for that of the first."""
    monkeypatch.setattr(export, "program_bytes", lambda *_: bcos_file.read_bytes())
    assert export_run(objects_run, str(tmp_path / "same.pt2")).deviation < 1e-5
    with pytest.raises(RunError, match="deviates from it by"):
        export_run(objects_run, str(tmp_path / "other.pt2"), which="step-00000010")
    assert not (tmp_path / "other.pt2").exists()


def test_untraceable_networks_are_named(objects_run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = Explainer.load(objects_run)

    def fails(*_: Any, **__: Any) -> None:
        raise ValueError("cannot trace this\nand more")

    monkeypatch.setattr(torch.export, "export", fails)
    with pytest.raises(RunError, match=r"bcos_resnet_tiny with bcos at Input \(ValueError: cannot trace this\)"):
        program_bytes(explainer, {})
