"""Encoders by name: what they answer, and what is refused before anything is computed."""

from __future__ import annotations

import builtins
import json
import zipfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from clip_cases import CONFIG, DIM, PATCH, SIDE, TEXT, VISION, normalised, plain_dense, small_clip, write_dinoiser
from clip_cases import write_folder as folder_of
from safetensors.torch import save_file

from raytrain_xai.errors import CheckpointError, ConfigError, DataError
from raytrain_xai.language.dinoiser import read_dinoiser
from raytrain_xai.language.encoder import FindsForeground, load_encoder

OPENAI = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))  # mean and std of channels


@pytest.fixture(scope="module")
def clip() -> Any:
    return small_clip()


@pytest.fixture(scope="module")
def folder(clip: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return folder_of(tmp_path_factory.mktemp("clip"), clip.state_dict())


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, SIDE, SIDE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def architecture(monkeypatch: pytest.MonkeyPatch) -> str:
    """The small model as an architecture that the library knows."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-small", json.loads(json.dumps(CONFIG)))
    return "ViT-small"


def test_patches_and_texts_of_a_folder(clip: Any, folder: str, images: torch.Tensor) -> None:
    encoder = load_encoder(f"clip:{folder}")
    assert (encoder.name, encoder.dim, encoder.multiple, encoder.image_size) == (f"clip:{folder}", DIM, PATCH, SIDE)
    assert encoder.logit_scale == 100
    assert not encoder.text_mean.any()
    assert not isinstance(encoder, FindsForeground)
    with torch.no_grad():
        expected, _ = plain_dense(clip.visual, normalised(images))
        words = clip.encode_text(open_clip.SimpleTokenizer()(["a dog", "the sky above a harbour"]), normalize=True)
    found = encoder.patches(images)
    assert not found.requires_grad
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(encoder.text(["a dog", "the sky above a harbour"]), words, rtol=1e-4, atol=1e-5)
    assert encoder.text([]).shape == (0, DIM)


def test_many_texts_are_encoded_in_groups(folder: str) -> None:
    encoder = load_encoder(f"clip:{folder}")
    texts = [f"thing number {i}" for i in range(300)]
    found = encoder.text(texts)
    torch.testing.assert_close(found[[0, 256, 299]], encoder.text([texts[0], texts[256], texts[299]]))


def test_other_sizes_are_filled_up_with_black(folder: str, images: torch.Tensor) -> None:
    encoder = load_encoder(f"clip:{folder}")
    cut = images[:, :, :19, :27]
    black = torch.zeros(2, 3, 24, 32, dtype=torch.uint8)
    black[:, :, :19, :27] = cut
    assert encoder.patches(cut).shape == (2, DIM, 3, 4)
    assert torch.equal(encoder.patches(cut), encoder.patches(black))


def test_dinoiser_pools_and_finds_foreground(clip: Any, folder: str, images: torch.Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    write_dinoiser(tmp_path / "last.pt")
    encoder = load_encoder(f"dinoclip:{folder}@{tmp_path / 'last.pt'}")
    assert isinstance(encoder, FindsForeground)
    layers = read_dinoiser(str(tmp_path / "last.pt"), width=VISION["width"])
    with torch.no_grad():
        dense, middle = plain_dense(clip.visual, normalised(images))
        pooled, expected = layers.pool(dense, middle), layers.foreground(middle)
    patches, foreground = encoder.patches_and_foreground(images)
    torch.testing.assert_close(patches, pooled, rtol=1e-4, atol=1e-4)
    assert torch.equal(patches, encoder.patches(images))
    torch.testing.assert_close(foreground, expected, rtol=1e-4, atol=1e-4)
    assert float((pooled - dense).norm() / dense.norm()) > 0.05


def test_fingerprints_tell_vectors_apart(clip: Any, folder: str, architecture: str, tmp_path: Path) -> None:
    """Equal for equal vectors however they were named; another for other weights, normalisation or pooling."""
    write_dinoiser(tmp_path / "last.pt")
    save_file(clip.state_dict(), tmp_path / "clip.safetensors")
    torch.save({"state_dict": {f"module.{k}": v for k, v in clip.state_dict().items()}}, tmp_path / "clip.pt")
    other = {**clip.state_dict(), "visual.proj": clip.visual.proj * 1.01}
    texts = [f"clip:{folder}", f"dinoclip:{folder}@{tmp_path / 'last.pt'}", f"clip:{folder_of(tmp_path / 'b', other)}"]
    texts += [f"clip:{architecture}={tmp_path / 'clip.safetensors'}", f"clip:{architecture}={tmp_path / 'clip.pt'}"]
    prints = [load_encoder(text).fingerprint for text in texts]
    assert prints[3] == prints[4]
    assert len(set(prints)) == 4
    stated = {"model_cfg": CONFIG, "preprocess_cfg": {"mean": OPENAI[0], "std": OPENAI[1]}}
    (Path(folder_of(tmp_path / "c", clip.state_dict())) / "open_clip_config.json").write_text(json.dumps(stated))
    assert load_encoder(f"clip:{tmp_path / 'c'}").fingerprint == prints[3]


def test_a_file_is_normalised_as_its_architecture_is(
    clip: Any, architecture: str, tmp_path: Path, images: torch.Tensor
) -> None:
    """Without tags of the architecture: as OpenAI's CLIP."""
    save_file({k: v.half() for k, v in clip.state_dict().items()}, tmp_path / "clip.safetensors")
    encoder = load_encoder(f"clip:{architecture}={tmp_path / 'clip.safetensors'}")
    mean, std = (torch.tensor(value) for value in OPENAI)
    x = (images.float() / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    with torch.no_grad():
        expected, _ = plain_dense(deepcopy(clip).half().float().visual, x)
    torch.testing.assert_close(encoder.patches(images), expected, rtol=1e-3, atol=1e-3)


def test_a_tag_says_which_activation(monkeypatch: pytest.MonkeyPatch, clip: Any, architecture: str, tmp_path: Path,
                                     images: torch.Tensor) -> None:  # fmt: skip
    """OpenAI's weights of ViT-B-16 need QuickGELU although the architecture of that name has GELU."""
    save_file(clip.state_dict(), tmp_path / "clip.safetensors")
    stated = {"quick_gelu": True, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25), "hf_hub": "someone/something/"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, architecture, {"mine": stated})
    monkeypatch.setattr(open_clip, "download_pretrained", lambda _: str(tmp_path / "clip.safetensors"))
    quick = open_clip.model.CLIP(DIM, VISION, TEXT, quick_gelu=True).eval().requires_grad_(False)
    quick.load_state_dict(clip.state_dict())
    with torch.no_grad():
        expected, _ = plain_dense(quick.visual, normalised(images))
        plain, _ = plain_dense(clip.visual, normalised(images))
    found = load_encoder(f"clip:{architecture}=mine").patches(images)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert float((plain - expected).abs().max()) > 1e-2


def test_a_tag_without_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"cannot download ViT-B-16=laion2b_s34b_b88k.*give ARCH=FILE"):
        load_encoder("clip:ViT-B-16=laion2b_s34b_b88k")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clip:", r"names no model; give embedded, .*siglip:ARCH=WEIGHTS"),
        ("clip:ViT-B16=x.pt", r"no architecture 'ViT-B16'; .*ViT-B-16.*\?"),
        ("clip:ViT-B-16=nonsense", "no weights 'nonsense' of ViT-B-16; .*laion2b_s34b_b88k"),
        ("clip:ViT-B-16=", "an empty address"),
        ("clip:ViT-B-16=absent.pt", "no weights 'absent.pt' of ViT-B-16"),
        ("clip:nowhere", "'nowhere' is neither ARCH=WEIGHTS nor a local folder with open_clip_config.json"),
        ("dinoclip:ViT-B-16=openai", "names no layers of CLIP-DINOiser"),
        ("elsewhere", "no encoder 'elsewhere'; give embedded"),
        (" ", "no encoder ' '; give embedded"),
    ],
)
def test_unknown_names(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_encoder(text)


def test_weights_that_do_not_fit(clip: Any, tmp_path: Path) -> None:
    state = clip.state_dict()
    images_only = {key: value for key, value in state.items() if key.startswith("visual.")}
    with pytest.raises(CheckpointError, match="have no text side; .*give the weights of both sides"):
        load_encoder(f"clip:{folder_of(tmp_path / 'images', images_only)}")
    wide = small_clip(width=40).state_dict()
    with pytest.raises(CheckpointError, match=r"do not fit, such as visual\..* \(.*40.* for .*32"):
        load_encoder(f"clip:{folder_of(tmp_path / 'wide', wide)}")
    with pytest.raises(CheckpointError, match=r"are not those of .*absent on one side"):
        load_encoder(f"clip:{folder_of(tmp_path / 'other', {'conv1.weight': torch.zeros(1)})}")
    (tmp_path / "images" / "open_clip_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has no weights; expected open_clip_model.safetensors or"):
        load_encoder(f"clip:{tmp_path / 'images'}")


def test_programs_are_refused(architecture: str, tmp_path: Path) -> None:
    """What torch.jit.save writes, and OpenAI published its weights in."""
    with zipfile.ZipFile(tmp_path / "ViT-B-16.pt", "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__.py"):
            archive.writestr(f"ViT-B-16/{name}", b"")
    with pytest.raises(CheckpointError, match="is a TorchScript archive.*the tag openai"):
        load_encoder(f"clip:{architecture}={tmp_path / 'ViT-B-16.pt'}")


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"model_cfg": {"embed_dim": 4, "vision_cfg": {}, "text_cfg": 3}}',
        '{"model_cfg": {"embed_dim": 4, "vision_cfg": {}}}',
    ],
)
def test_damaged_configurations(text: str, tmp_path: Path) -> None:
    (tmp_path / "open_clip_config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"is no configuration of OpenCLIP|has no text_cfg"):
        load_encoder(f"clip:{tmp_path}")


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ({"layers": [1, 1, 1, 1], "width": 8}, "sees images with a ModifiedResNet"),
        ({"layers": 2}, "less than 3 blocks"),
        ({"qk_norm": True}, "other blocks or pooling than CLIP"),
        ({"attentional_pool": True, "attn_pooler_heads": 2}, "other blocks or pooling than CLIP"),
    ],
)
def test_towers_without_a_value_path(vision: dict[str, Any], message: str, tmp_path: Path) -> None:
    config = {**CONFIG, "vision_cfg": {**VISION, **vision}}
    state = open_clip.model.CLIP(**json.loads(json.dumps(config))).state_dict()
    text = folder_of(tmp_path, state, config)
    with pytest.raises(ConfigError, match=message):
        load_encoder(f"clip:{text}")


@pytest.mark.parametrize(
    "wrong",
    [
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.zeros(1, 1, 8, 8, dtype=torch.uint8),
        torch.zeros(1, 3, 8, 8),
        torch.zeros(0, 3, 8, 8, dtype=torch.uint8),
    ],
)
def test_images_of_another_form_are_refused(wrong: torch.Tensor, folder: str) -> None:
    with pytest.raises(DataError, match=r"expected \(B, 3, H, W\) uint8 RGB"):
        load_encoder(f"clip:{folder}").patches(wrong)


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "open_clip":
            raise ModuleNotFoundError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"needs OpenCLIP; pip install 'raytrain-xai\[clip\]'"):
        load_encoder("clip:ViT-B-16=openai")
