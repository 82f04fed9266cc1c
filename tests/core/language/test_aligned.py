"""The encoder of the package: what it answers, that it is what its parts say, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raytrain_xai.align.pooling import similarity_pool
from raytrain_xai.checkpoint import Checkpoint, write_checkpoint
from raytrain_xai.config import parse_job
from raytrain_xai.data.decode import decode_rgb
from raytrain_xai.data.transforms import centre_image
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.insight.image_scores import image_scores
from raytrain_xai.language import aligned
from raytrain_xai.language import minilm as text_side
from raytrain_xai.language.aligned import AlignedEncoder, load_aligned, load_embedded, pack_encoder
from raytrain_xai.language.encoder import load_encoder
from raytrain_xai.language.minilm import MiniLm
from raytrain_xai.language.prompts import embed_terms, find_family
from raytrain_xai.run_folder import write_config, write_json
from raytrain_xai.storage import locate


@pytest.fixture(scope="module")
def embedded(minilm: MiniLm) -> AlignedEncoder:
    """With the text encoder of the session, which takes seconds to read."""
    encoder = load_encoder("embedded")
    assert isinstance(encoder, AlignedEncoder)
    encoder._minilm = minilm
    return encoder


def write_run(folder: Path, encoder: AlignedEncoder, about: dict[str, Any] | None = None) -> str:
    """A finished run of job align with the head of an encoder."""
    config = parse_job({
        "job": "align", "name": "run", "storage": str(folder), "sources": [{"path": "x", "images": 1}],
        "evaluation": {"path": "x"},
    })  # fmt: skip
    at = locate(str(folder / "run"))
    write_config(at, config)
    state = {"step": 3, "epoch": 1, "encoder": shipped_about() | (about or {})}
    write_checkpoint(at.child("checkpoints"), Checkpoint(3, encoder._head.state_dict(), {}, state), lambda: None)
    write_json(at.child("metrics.json"), {"selected": {"step": 3, "epoch": 1}})
    return at.uri


def shipped_about() -> dict[str, Any]:
    file = Path(aligned.__file__).parent / "assets" / aligned.ABOUT
    return json.loads(file.read_text())


def test_the_asset_is_small() -> None:
    folder = Path(aligned.__file__).parent / "assets"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3.5e6


def test_texts_are_those_of_the_sentence_encoder(minilm: MiniLm) -> None:
    """Against the model itself, one sentence at a time, without padding."""
    texts = ["a photo of a dog", "sheep", "a long sentence about many horses that graze on a hill"]
    expected = []
    for text in texts:
        states = minilm.model(**minilm.tokenizer([text], return_tensors="pt")).last_hidden_state[0]
        expected.append(states.mean(dim=0) / states.mean(dim=0).norm())
    torch.testing.assert_close(minilm.text(texts), torch.stack(expected), atol=1e-5, rtol=1e-4)
    assert minilm.text([]).shape == (0, 384)


def test_the_protocol(embedded: AlignedEncoder) -> None:
    assert (embedded.name, embedded.dim, embedded.multiple, embedded.image_size) == ("embedded", 384, 32, 320)
    assert embedded.logit_scale == 30.0 and len(embedded.fingerprint) == 64
    assert embedded.text_mean.shape == (384,) and 0.1 < float(embedded.text_mean.norm()) < 0.9
    vectors = embedded.text(["dog", "cat"])
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(2))
    patches = embedded.patches(torch.zeros(2, 3, 70, 128, dtype=torch.uint8))
    assert patches.shape == (2, 384, 3, 4) and patches.dtype == torch.float32


def test_patches_are_pooled_over_those_that_look_alike(embedded: AlignedEncoder) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (1, 3, 96, 128), generator=generator, dtype=torch.uint8)
    features = embedded._backbone.features(images)
    expected = similarity_pool(embedded._head(features), features)
    torch.testing.assert_close(embedded.patches(images), expected)
    assert not torch.allclose(expected, embedded._head(features))


def test_pictures_of_voc_are_told_apart(embedded: AlignedEncoder, shared_data: Path) -> None:
    folder = shared_data / "VOCdevkit" / "VOC2012"
    names, images = ["cat", "dog", "horse", "sheep"], []
    for name in names:
        lines = [line.split() for line in (folder / f"ImageSets/Main/{name}_test.txt").read_text().splitlines()]
        found = [stem for stem, label in lines if label == "1"][:6]
        pixels = [torch.tensor(decode_rgb((folder / f"JPEGImages/{stem}.jpg").read_bytes())) for stem in found]
        images += [centre_image(image.permute(2, 0, 1), 320, None) for image in pixels]
    texts = embed_terms(embedded, names, find_family("plain"))
    found = image_scores(embedded.patches(torch.stack(images)), texts).argmax(dim=1)
    assert (found == torch.arange(4).repeat_interleave(6)).float().mean() >= 0.75


def test_a_run_is_an_encoder(embedded: AlignedEncoder, tmp_path: Path) -> None:
    run = write_run(tmp_path, embedded)
    loaded = load_encoder(run)
    image = torch.full((1, 3, 64, 64), 90, dtype=torch.uint8)
    torch.testing.assert_close(loaded.patches(image), embedded.patches(image))
    assert loaded.fingerprint == embedded.fingerprint and loaded.name == run


def test_a_packed_run_is_the_asset(embedded: AlignedEncoder, tmp_path: Path) -> None:
    pack_encoder(write_run(tmp_path, embedded), locate(str(tmp_path / "packed")))
    folder = Path(aligned.__file__).parent / "assets"
    for name in (aligned.WEIGHTS, aligned.ABOUT):
        assert (tmp_path / "packed" / name).read_bytes().strip() == (folder / name).read_bytes().strip()


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"backbone_fingerprint": "f" * 64}, "aligned with another backbone efficientnet_lite0"),
        ({"hidden": 16}, "does not fit"),
    ],
)
def test_other_parts_are_refused(about: dict[str, Any], message: str, embedded: AlignedEncoder, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_aligned(write_run(tmp_path, embedded, about))


def test_another_text_encoder_is_refused(
    embedded: AlignedEncoder, minilm: MiniLm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = load_aligned(write_run(tmp_path, embedded, {"text_fingerprint": "f" * 64}))
    monkeypatch.setattr(aligned, "load_minilm", lambda _: minilm)
    with pytest.raises(CheckpointError, match="aligned with another text encoder"):
        encoder.text(["dog"])


def test_fingerprints_know_head_and_parts(embedded: AlignedEncoder, tmp_path: Path) -> None:
    about = {"text_fingerprint": "f" * 64}
    assert load_aligned(write_run(tmp_path, embedded, about)).fingerprint != embedded.fingerprint


def test_runs_of_other_jobs_are_no_encoders(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("job: classify\n")
    with pytest.raises(ConfigError, match="is a run of job classify; an encoder comes from one of align"):
        load_aligned(str(tmp_path))


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_side, "_PACKAGES", {"no_such_module": "no-such-package"})
    with pytest.raises(ConfigError, match=r"needs no-such-package; pip install 'raytrain-xai\[language\]'"):
        load_embedded()
