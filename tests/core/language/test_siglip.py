"""Dense features of SigLIP: a patch alone is the whole image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from clip_cases import DIM, TEXT, normalised, shake, write_folder
from open_clip.model import CustomTextCLIP
from timm.models.vision_transformer import VisionTransformer

from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.language.encoder import load_encoder
from raytrain_xai.language.siglip import siglip_patches

NAME = "vit_base_patch16_siglip_224"
CONFIG = {
    "embed_dim": DIM, "init_logit_bias": -10, "custom_text": True,
    "vision_cfg": {"image_size": 32, "timm_model_name": NAME, "timm_pool": "map", "timm_proj": "none"},
    "text_cfg": {**TEXT, "proj_bias": True, "no_causal_mask": True, "pool_type": "last"},
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_towers(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm builds the tower of that name, but small."""

    def create(name: str, **settings: Any) -> VisionTransformer:
        assert name == NAME
        assert not settings.pop("pretrained")
        return VisionTransformer(
            img_size=32, patch_size=8, embed_dim=DIM, depth=2, num_heads=2, class_token=False, **settings
        )

    monkeypatch.setattr("timm.create_model", create)


def _model(config: dict[str, Any] = CONFIG) -> Any:
    config = {key: value for key, value in config.items() if key != "custom_text"}
    return shake(CustomTextCLIP(**config).eval().requires_grad_(False))


def test_one_patch_is_the_whole_image() -> None:
    """The query can only attend to it: the library's pooled embedding is the dense feature."""
    model = _model()
    x = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    trunk = model.visual.trunk
    one = VisionTransformer(
        img_size=8, patch_size=8, embed_dim=DIM, depth=2, num_heads=2, class_token=False, global_pool="map",
        num_classes=0,
    ).eval()  # fmt: skip
    code = torch.nn.functional.interpolate(
        trunk.pos_embed.transpose(1, 2).unflatten(2, (4, 4)), (1, 1), mode="bicubic", align_corners=False
    )
    one.load_state_dict({**trunk.state_dict(), "pos_embed": code.flatten(2).transpose(1, 2)})
    with torch.no_grad():
        found = siglip_patches(model.visual, x)
        expected = one(x)
    assert found.shape == (3, DIM, 1, 1)
    torch.testing.assert_close(found[:, :, 0, 0], expected, rtol=1e-4, atol=1e-4)


def test_every_patch_as_if_it_were_all_the_query_sees() -> None:
    """The library's pool, given one token of the tower at a time."""
    model = _model()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    trunk = model.visual.trunk
    with torch.no_grad():
        found = siglip_patches(model.visual, x)
        tokens = trunk.forward_features(x)
        expected = torch.stack([trunk.forward_head(tokens[:, i : i + 1]) for i in range(16)], dim=2)
        whole = model.encode_image(x)
    torch.testing.assert_close(found.flatten(2), expected, rtol=1e-4, atol=1e-4)
    assert float((found.mean(dim=(2, 3)) - whole).norm() / whole.norm()) > 1e-3  # a mean of patches is something else


def test_loaded_from_a_folder_with_its_own_scale(tmp_path: Path) -> None:
    model = _model()
    model.logit_scale.data.fill_(4.75)
    model.logit_bias.data.fill_(-16.5)
    folder = write_folder(tmp_path / "siglip", model.state_dict(), CONFIG)
    encoder = load_encoder(f"siglip:{folder}")
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    assert (encoder.dim, encoder.multiple, encoder.image_size) == (DIM, 8, 32)
    assert encoder.logit_scale == pytest.approx(115.58, abs=0.01)  # e^4.75
    with torch.no_grad():
        expected = siglip_patches(model.visual, normalised(images))
    torch.testing.assert_close(encoder.patches(images), expected, rtol=1e-4, atol=1e-4)
    texts = encoder.text(["a dog", "two cats"])
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(2))
    with pytest.raises(ConfigError, match=r"sees images with a TimmModel.*siglip:ARCH=WEIGHTS"):
        load_encoder(f"clip:{folder}")


def test_the_tokenizer_of_a_folder(tmp_path: Path) -> None:
    """SigLIP has tokenizers of its own, which are read from the folder; without them nothing is loaded."""
    text = {**CONFIG["text_cfg"], "context_length": 6, "vocab_size": 9, "hf_tokenizer_name": "elsewhere/on-the-hub"}
    text["tokenizer_kwargs"] = {"clean": "canonicalize"}
    model = _model({**CONFIG, "text_cfg": text})
    folder = write_folder(tmp_path / "siglip", model.state_dict(), {**CONFIG, "text_cfg": text})
    with pytest.raises(CheckpointError, match="cannot get the tokenizer of .*give a folder that holds"):
        load_encoder(f"siglip:{folder}")
    words = {"<pad>": 0, "<unk>": 1, "dog": 2, "on": 3, "grass": 4}
    kind = {"type": "WordLevel", "vocab": words, "unk_token": "<unk>"}
    tokenizer = {"version": "1.0", "added_tokens": [], "pre_tokenizer": {"type": "Whitespace"}, "model": kind}
    stated = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "unk_token": "<unk>"}
    for name, content in (("tokenizer.json", tokenizer), ("tokenizer_config.json", stated)):
        (tmp_path / "siglip" / name).write_text(json.dumps(content))
    encoder = load_encoder(f"siglip:{folder}")
    with torch.no_grad():
        expected = model.encode_text(torch.tensor([[2, 3, 4, 0, 0, 0], [1, 2, 0, 0, 0, 0]]), normalize=True)
    torch.testing.assert_close(encoder.text(["Dog on grass.", "a dog"]), expected, rtol=1e-4, atol=1e-5)
