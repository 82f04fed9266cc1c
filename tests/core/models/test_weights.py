"""Loading of weights: what fits, what is refused and with which words."""

from __future__ import annotations

import csv
import io
import json
import pickle
from importlib.resources import as_file, files
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from raytrain_xai.checkpoint import Checkpoint, write_checkpoint
from raytrain_xai.config import parse_config
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.guidance.classification import micro_scores
from raytrain_xai.models.network import Network
from raytrain_xai.models.weights import EMBEDDED, load_weights
from raytrain_xai.models.zoo import build_network
from raytrain_xai.run_folder import create_run


def tiny(num_classes: int = 3, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return build_network("bcos_resnet_tiny", num_classes)


def assert_same(found: Network, expected: dict[str, Tensor], *, but: str = "nothing") -> None:
    for key, value in found.net.state_dict().items():
        if not key.startswith(but):
            assert torch.equal(value, expected[key]), key


@pytest.fixture
def saved(tmp_path: Path) -> tuple[dict[str, Tensor], Path]:
    """State dict of a network of seed 1, and an empty folder."""
    return tiny(seed=1).net.state_dict(), tmp_path


def test_safetensors(saved: tuple[dict[str, Tensor], Path]) -> None:
    state, folder = saved
    save_file(state, folder / "w.safetensors")
    network = build_network("bcos_resnet_tiny", 3, weights=str(folder / "w.safetensors"))
    assert_same(network, state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"model": state, "f1": 0.5, "lr": 1e-4},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}, "epoch": 90},
        lambda state: {f"0.{key}": value for key, value in state.items()},
        lambda state: {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")},
    ],
    ids=["plain", "guided run", "data parallel", "logit layer stage", "before batch counters"],
)
def test_pth_as_training_scripts_write_it(saved: tuple[dict[str, Tensor], Path], wrap: object) -> None:
    state, folder = saved
    torch.save(wrap(state), folder / "w.pth")  # pyright: ignore[reportCallIssue]
    network = tiny()
    load_weights(network, str(folder / "w.pth"))
    assert_same(network, state)


def test_half_precision_is_widened(saved: tuple[dict[str, Tensor], Path]) -> None:
    state, folder = saved
    save_file({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, folder / "w.safetensors")
    network = tiny()
    load_weights(network, str(folder / "w.safetensors"))
    weight = network.net.conv1.linear.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, state["conv1.linear.weight"].half().float())


def test_run_folder_gives_the_selected_checkpoint(tmp_path: Path) -> None:
    config = parse_config(
        {
            "name": "r",
            "storage": str(tmp_path),
            "epochs": 1,
            "data": {"path": "d"},
            "model": {"name": "bcos_resnet_tiny"},
        }
    )
    run = create_run(config)
    data = {"classes": ["a", "b", "c"], "task": "multiclass", "groups": None}
    states = {step: tiny(seed=step).net.state_dict() for step in (1, 2)}
    for step, state in states.items():
        content = Checkpoint(step=step, model=state, optimizer={}, state={"data": data, "epoch": step})
        write_checkpoint(run.child("checkpoints"), content, lambda: None)
    (tmp_path / "r" / "metrics.json").write_text('{"selected": {"step": 1, "epoch": 1}}')
    network = tiny(seed=7)
    load_weights(network, str(tmp_path / "r"))
    assert_same(network, states[1])


def test_embedded_imagenet_weights_are_the_originals_rounded_to_half(shared_data: Path) -> None:
    original = load_file(shared_data / "weights" / "squeezenet1_1_imagenet.safetensors")
    network = build_network("squeezenet1_1", 1000, weights="imagenet")
    for key, value in network.net.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, original[key].half().float()), key


def test_embedded_imagenet_weights_recognise_pictures(shared_data: Path) -> None:
    folder = shared_data / "imagenet_sample"
    with (folder / "classes.csv").open() as file:
        rows = list(csv.DictReader(file))[::40]
    network = build_network("squeezenet1_1", 1000, weights="imagenet").eval()
    pictures = [Image.open(folder / row["file"]).convert("RGB") for row in rows]
    images = torch.stack([
        transforms.center_crop(transforms.resize(transforms.pil_to_tensor(picture), [256]), [224])
        for picture in pictures
    ])  # fmt: skip
    with torch.no_grad():
        top5 = network(images).topk(5).indices
    hits = (top5 == torch.tensor([int(row["index"]) for row in rows])[:, None]).any(1).float().mean()
    assert len(rows) == 25
    assert hits > 0.7  # 83 % over all 1000 pictures


def test_head_of_another_class_count_is_left_random_and_reported(
    saved: tuple[dict[str, Tensor], Path], caplog: pytest.LogCaptureFixture
) -> None:
    state, folder = saved
    save_file(state, folder / "w.safetensors")
    network = tiny(num_classes=7)
    before = network.net.fc.linear.weight.clone()
    load_weights(network, str(folder / "w.safetensors"))
    assert_same(network, state, but="fc.")
    assert torch.equal(network.net.fc.linear.weight, before)
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder / 'w.safetensors'} classifies 3 classes, the network 7: the classifier starts at random"
    ]


def test_head_without_the_bias_that_ours_has_is_replaced(tmp_path: Path) -> None:
    network = build_network("xdnn_resnet18", 4)
    published = {k: v.clone() for k, v in network.net.state_dict().items() if k != "fc.bias"}
    published["fc.weight"] = torch.zeros(1000, 512)
    save_file(published, tmp_path / "w.safetensors")
    weight, bias = network.net.fc.weight.clone(), network.net.fc.bias.clone()
    load_weights(network, str(tmp_path / "w.safetensors"))
    assert torch.equal(network.net.fc.weight, weight)
    assert torch.equal(network.net.fc.bias, bias)


class Canary:
    """Creates a file when unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_files_that_would_run_code_are_refused_unread(tmp_path: Path) -> None:
    target = tmp_path / "executed"
    torch.save({"model": Canary(target)}, tmp_path / "w.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps(Canary(target), protocol=2))
    torch.save(nn.Linear(2, 2), tmp_path / "module.pt")
    for name in ("w.pth", "old.pth", "module.pt"):
        with pytest.raises(CheckpointError, match=rf"{name} holds more than tensors, and unpickling it could run code"):
            load_weights(tiny(), str(tmp_path / name))
    assert not target.exists()


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["safetensors", "pth", "legacy pth"])
def test_truncated_files_are_refused(saved: tuple[dict[str, Tensor], Path], kind: str, keep: float) -> None:
    state, folder = saved
    file = folder / f"w.{kind.split()[-1]}"
    if kind == "safetensors":
        save_file(state, file)
    else:
        buffer = io.BytesIO()
        torch.save(state, buffer, _use_new_zipfile_serialization=kind == "pth")
        file.write_bytes(buffer.getvalue())
    file.write_bytes(file.read_bytes()[: int(keep * file.stat().st_size)])
    with pytest.raises(CheckpointError, match=rf"{file.name} is truncated or not a .* bytes; .*download it again"):
        load_weights(tiny(), str(file))


def test_another_architecture_is_refused_with_keys(saved: tuple[dict[str, Tensor], Path]) -> None:
    state, folder = saved
    save_file(state, folder / "w.safetensors")
    network = build_network("resnet18", 3)
    before = {key: value.clone() for key, value in network.net.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"not those of resnet18: \d+ missing \(conv1.weight, .*unknown \(conv1.lin"
    ):
        load_weights(network, str(folder / "w.safetensors"))
    assert_same(network, before)


def test_another_width_is_refused_with_shapes(saved: tuple[dict[str, Tensor], Path]) -> None:
    state, folder = saved
    state["layer2.0.conv1.linear.weight"] = torch.zeros(60, 32, 3, 3)
    state["fc.linear.weight"] = torch.zeros(3, 250, 1, 1)  # other features, not another class count
    save_file(state, folder / "w.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_weights(tiny(), str(folder / "w.safetensors"))
    assert "2 of another shape (layer2.0.conv1.linear.weight (60, 32, 3, 3) instead of (64, 32, 3, 3)" in str(
        caught.value
    )
    assert "fc.linear.weight (3, 250, 1, 1) instead of (3, 256, 1, 1)" in str(caught.value)


def test_files_without_a_state_dict_are_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(2)], tmp_path / "list.pth")
    torch.save({"epoch": 3}, tmp_path / "numbers.pth")
    for name, found in (("list", "list"), ("numbers", "dict")):
        with pytest.raises(CheckpointError, match=rf"{name}.pth holds no state dict \(found {found}\)"):
            load_weights(tiny(), str(tmp_path / f"{name}.pth"))


def test_wrong_addresses_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no weights at .*absent.pth; give official, imagenet, a .safetensors"):
        load_weights(tiny(), str(tmp_path / "absent.pth"))
    (tmp_path / "w.onnx").write_bytes(b"x")
    with pytest.raises(
        ConfigError,
        match=r"w.onnx is neither a file of weights \(.safetensors, .pth, .pt, .pth.tar, .ckpt\) nor the folder",
    ):
        load_weights(tiny(), str(tmp_path / "w.onnx"))
    with pytest.raises(
        ConfigError, match=r"no weights imagenet of bcos_resnet_tiny are embedded \(only of squeezenet1_1\)"
    ):
        load_weights(tiny(), "imagenet")


def test_embedded_bcos_weights_recognise_the_animals_of_voc(shared_data: Path) -> None:
    """A B-cos network with one name, without network: as good on test pictures as when it was trained (F1 .61)."""
    asset = files("raytrain_xai.data") / "assets" / EMBEDDED["voc"]["bcosified_squeezenet1_1"]
    with as_file(asset) as path, safe_open(path, "pt") as content:
        classes = json.loads(content.metadata()["classes"])
    network = build_network("bcosified_squeezenet1_1", len(classes), weights="voc").eval()
    voc = shared_data / "VOCdevkit" / "VOC2012"
    ids = (voc / "ImageSets" / "Main" / "test.txt").read_text().split()[::7]
    images, labels = [], torch.zeros(len(ids), len(classes), dtype=torch.bool)
    for row, name in enumerate(ids):
        picture = Image.open(voc / "JPEGImages" / f"{name}.jpg").convert("RGB")
        images.append(transforms.resize(transforms.pil_to_tensor(picture), [112, 112], antialias=True))
        objects = ElementTree.parse(voc / "Annotations" / f"{name}.xml").getroot().iter("object")
        labels[row, [classes.index(o.findtext("name")) for o in objects if o.findtext("name") in classes]] = True
    with torch.no_grad():
        logits = network(torch.stack(images))
    assert len(ids) == 98
    assert micro_scores(logits, labels)["f1"] > 0.5
