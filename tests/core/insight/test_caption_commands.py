"""Captions of a split judged, and the commands, with random weights: every number is worked out image by image."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from small_encoder import DIM, random_images, small_model
from torch.nn import functional

from raytrain_xai.captioning import reading
from raytrain_xai.captioning.decoder import DecoderShape, SentenceDecoder
from raytrain_xai.captioning.reading import TrainedDecoder
from raytrain_xai.captioning.words import WordTable
from raytrain_xai.cli.insight_caption import caption_command, caption_score_command
from raytrain_xai.cli.insight_steer import steer_command
from raytrain_xai.data.dataset import open_dataset
from raytrain_xai.data.loader import load_samples
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.insight import model as insight_model
from raytrain_xai.insight.caption_scores import mention_scores, mentioned
from raytrain_xai.insight.caption_study import study_captions
from raytrain_xai.insight.captions import caption_images
from raytrain_xai.insight.model import InsightModel
from raytrain_xai.insight.steering import sweep_added


def random_decoder(words: Sequence[str]) -> TrainedDecoder:
    """Says some of the words, depending on the vector; class 0 of a data set is called thing."""
    table = WordTable(tuple(sorted(words)))
    shape = DecoderShape(DIM, table.size, 16, 1, 2, 2, max_words=5, memory=6, temperature=0.5)
    with torch.random.fork_rng():
        torch.manual_seed(4)
        network = SentenceDecoder(shape)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.6)
        network.memory.copy_(functional.normalize(torch.randn(6, DIM), dim=1))
    return TrainedDecoder(network.eval().requires_grad_(False), table, {"names": {}}, "random")


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> InsightModel:
    """What the commands load, with a decoder of four words."""
    small = replace(small_model(), names={5: "fur"})
    monkeypatch.setattr(insight_model, "load_insight", lambda *_, **__: small)
    decoder = random_decoder(("bird", "fur", "sea", "sand"))
    monkeypatch.setattr(reading, "load_decoder", lambda *_: decoder)
    return small


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    files: list[str] = []
    for number, pixels in enumerate(random_images(2, 40, 56)):
        files.append(str(tmp_path / f"{number}.png"))
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(files[-1])
    return files


def test_a_split_is_judged_image_by_image(objects: str) -> None:
    """Both rows against captions of single images; cosines are taken with the encoder's own vectors in both."""
    small, classes = small_model(), open_dataset(objects).classes
    decoder = random_decoder([word for name in classes for word in name.split()])
    study = study_captions(small, decoder, objects, "val", batch_size=4, num_examples=2)
    batch, _ = load_samples(objects, "val", list(range(6)), 32)
    present = batch.labels > 0
    vectors: dict[str, list[torch.Tensor]] = {"encoder": [], "concepts": []}
    for image in batch.images:
        patches = small.encoder.patches(image[None])[0].flatten(1).T
        vectors["encoder"].append(functional.normalize(patches.mean(0), dim=0))
        vectors["concepts"].append(functional.normalize(small.sae(patches).mean(0), dim=0))
    own = torch.stack(vectors["encoder"])
    captions = {kind: [decoder.write(vector[None])[0] for vector in parts] for kind, parts in vectors.items()}
    for kind, said in captions.items():
        expected = mention_scores(mentioned(said, classes), present, torch.ones_like(present))
        assert study.rows[kind]["f1"] == pytest.approx(expected.f1)
        assert study.rows[kind]["any_hit"] == pytest.approx(expected.any_hit)
        texts = functional.normalize(small.encoder.text([decoder.text(words) for words in said]), dim=1)
        assert study.rows[kind]["clip_score"] == pytest.approx(
            float(2.5 * (texts * own).sum(1).clamp(min=0).mean()), abs=1e-5
        )
    same = sum(a == b for a, b in zip(captions["encoder"], captions["concepts"], strict=True))
    assert study.images == 6 and study.same == pytest.approx(same / 6)
    assert [example["concepts"] for example in study.examples] == [decoder.text(w) for w in captions["concepts"][:2]]
    assert study.examples[0]["labels"] == [name for name, there in zip(classes, present[0], strict=True) if there]


def test_caption_prints_what_the_function_returns(model: InsightModel, pictures: list[str]) -> None:
    done = CliRunner().invoke(caption_command, ["RUN", *pictures, "--json", "--concepts", "2"], catch_exceptions=False)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    decoder = reading.load_decoder("embedded", model.encoder)
    expected = caption_images(model, decoder, random_images(2, 40, 56), num_concepts=2)
    for line, file, caption in zip(lines, pictures, expected, strict=True):
        assert (line["file"], line["text"]) == (file, caption.text)
        assert len(line["words"]) == len(caption.words) and all(len(word["shares"]) <= 2 for word in line["words"])
    plain = CliRunner().invoke(caption_command, ["RUN", pictures[0]], catch_exceptions=False).stdout.splitlines()
    assert plain[0] == f"{pictures[0]}: {expected[0].text}" and len(plain) == 1 + len(expected[0].words)


def test_steer_prints_the_sweep(model: InsightModel, pictures: list[str]) -> None:
    asked = ["RUN", pictures[0], "--concept", "fur", "--add", "0,3", "--json"]
    done = CliRunner().invoke(steer_command, asked, catch_exceptions=False)
    decoder = reading.load_decoder("embedded", model.encoder)
    (expected,) = sweep_added(model, decoder, random_images(2, 40, 56)[:1], 5, [0, 3])
    assert [json.loads(line)["text"] for line in done.stdout.splitlines()] == [step.text for step in expected]
    table = CliRunner().invoke(
        steer_command, ["RUN", pictures[0], "--concept", "5", "--scale", "1,0"], catch_exceptions=False
    )
    assert "scaled" in table.stdout and "fur in" in table.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give one of --add and --scale"),
        (["--add", "1", "--scale", "0"], "give one of --add and --scale"),
        (["--add", "1,x"], "'1,x' are no numbers"),
        (["--add", "nan"], "not finite"),
        (["--scale", "-1"], "cannot be scaled by -1"),
        (["--add", ""], "are no numbers"),
    ],
)
def test_bad_strengths_are_refused(model: InsightModel, pictures: list[str], options: list[str], message: str) -> None:
    assert model.name(5) == "fur"
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(steer_command, ["RUN", pictures[0], "--concept", "5", *options], catch_exceptions=False)


def test_caption_score_writes_its_numbers(model: InsightModel, objects: str, tmp_path: Path) -> None:
    out = tmp_path / "scores.json"
    asked = ["RUN", "--data", objects, "--split", "val", "--out", str(out), "--images", "4"]
    done = CliRunner().invoke(caption_score_command, asked, catch_exceptions=False)
    written = json.loads(out.read_text())
    assert written["images"] == 4 and written["rows"].keys() == {"encoder", "concepts"}
    assert f"{written['rows']['concepts']['clip_score']:.3f}" in done.stdout
    with pytest.raises(DataError, match="no split"):
        CliRunner().invoke(caption_score_command, ["RUN", "--data", objects, "--split", "dev"], catch_exceptions=False)
    assert model.origin == "small"
