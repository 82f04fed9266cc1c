"""Segments of images of two colours, whose scores can be written down, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from colours import BLUE, GREEN, PATCH, RED, SIDE, colour_model, two_colours
from PIL import Image

from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.language.encoder import load_encoder
from raytrain_xai.language.minilm import MiniLm
from raytrain_xai.serving import served_insight
from raytrain_xai.serving.engine import SegmentJob, run_jobs
from raytrain_xai.serving.insight_jobs import SegmentQuestion
from raytrain_xai.serving.label_vectors import LabelVectors
from raytrain_xai.serving.served_insight import ServedInsight
from raytrain_xai.serving.served_model import ModelKey

RED_BLUE = two_colours((255, 0, 0), (0, 0, 255))


@pytest.fixture
def served() -> ServedInsight:
    return ServedInsight(ModelKey("colours", "1"), colour_model({RED: "fire"}))


def test_segments_and_what_their_scores_are_made_of(served: ServedInsight) -> None:
    [found] = served.answer(RED_BLUE[None], [SegmentQuestion(labels=("blue", "green", "red"))])
    assert found.labels is not None
    expected = torch.full((SIDE, SIDE), 3, dtype=torch.uint8)
    expected[:, SIDE // 2 :] = 1
    assert torch.equal(found.labels, expected)
    first, second = sorted(found.segments, key=lambda one: one.label)
    # 12 columns lie before the middle of the last red patch, then the cosine falls: 15/16, 13/16, 11/16, 9/16
    for segment, label, concept in ((first, 0, BLUE), (second, 2, RED)):
        assert (segment.label, segment.share, segment.bias) == (label, 0.5, 0.0)
        assert segment.score == pytest.approx((12 + (15 + 13 + 11 + 9) / 16) / 16, abs=1e-6)
        assert [(part.id, part.contribution) for part in segment.concepts] == [(concept, pytest.approx(15 / 16))]
        assert segment.rest == (0, 0.0) and segment.residual < 1e-6
    assert second.concepts[0].name == "fire" and first.concepts[0].name == "concept 2"


def test_patches_have_their_codes(served: ServedInsight) -> None:
    [found] = served.answer(two_colours((255, 51, 0), (0, 0, 102))[None], [SegmentQuestion()])
    assert found.labels is None and found.segments == () and found.size == (4, 4)
    dense = found.code.dense().view(4, 4, 4)
    assert torch.allclose(dense[:, :2], torch.tensor([1.0, 0.2, 0, 0]).expand(4, 2, 4))
    assert torch.allclose(dense[:, 2:], torch.tensor([0, 0, 0.4, 0]).expand(4, 2, 4))
    assert found.names == {RED: "fire", GREEN: "concept 1", BLUE: "concept 2"}


def test_shown_concepts_and_the_rest_are_the_score(served: ServedInsight) -> None:
    image = torch.tensor([200, 120, 60], dtype=torch.uint8)[:, None, None].expand(3, SIDE, SIDE)
    [found] = served.answer(image[None], [SegmentQuestion(labels=("grey",), top=1)])
    [segment] = found.segments
    length = (200**2 + 120**2 + 60**2) ** 0.5 * 3**0.5
    assert segment.score == pytest.approx((200 + 120 + 60) / length, abs=1e-5)
    assert [part.id for part in segment.concepts] == [RED]
    assert segment.concepts[0].contribution == pytest.approx(200 / length, abs=1e-5)
    assert segment.rest == (2, pytest.approx(180 / length, abs=1e-5))


def test_background_by_words_and_by_score(served: ServedInsight) -> None:
    for question in (
        SegmentQuestion(labels=("red",), background=("blue",)),
        SegmentQuestion(labels=("red",), background_score=0.5),
    ):
        [found] = served.answer(RED_BLUE[None], [question])
        assert found.labels is not None
        assert (found.labels[:, : SIDE // 2] == 1).all() and (found.labels[:, SIDE // 2 :] == 0).all()
        assert [segment.label for segment in found.segments] == [0]


def test_different_questions_of_a_batch_share_a_pass_and_are_answered_as_alone(
    served: ServedInsight, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.stack([RED_BLUE, two_colours((0, 255, 0), (255, 255, 0)), RED_BLUE.flip(2)])
    asked = SegmentQuestion(labels=("red", "blue")), SegmentQuestion(labels=("green", "yellow"), top=1)
    alone = [served.answer(images[[row]], [asked[row % 2]])[0] for row in range(3)]
    monkeypatch.setattr(served_insight, "_SCORES_AT_ONCE", 1)  # one image at a time
    jobs = [SegmentJob(served, images[[row]], asked[row % 2]) for row in range(3)]
    for one, answers in zip(alone, run_jobs(jobs), strict=True):
        assert isinstance(answers, list)
        [other] = answers
        assert one.segments == other.segments
        assert torch.equal(one.labels, other.labels) and torch.equal(one.code.dense(), other.code.dense())


def test_a_picture_of_any_size_is_seen_whole(served: ServedInsight) -> None:
    picture = Image.new("RGB", (90, 17), (0, 0, 255))
    picture.paste((255, 0, 0), (0, 0, 45, 17))
    seen = served.prepare(picture)
    assert seen.shape == (3, SIDE, SIDE) and seen.dtype == torch.uint8
    assert torch.equal(seen[:, :, :12], RED_BLUE[:, :, :12])
    assert served.seen(90, 17) == (0.0, 0.0, 90.0, 17.0)


def test_sides_are_whole_patches() -> None:
    model = colour_model()
    odd = replace(model, config=model.config.model_copy(update={"image_size": 3 * PATCH + 1}))
    assert ServedInsight(ModelKey("colours", "1"), odd).image_size == 4 * PATCH


def test_questions_that_cannot_be_answered(served: ServedInsight) -> None:
    for question, message in (
        (SegmentQuestion(labels=("red", " ")), "no text that an image could show"),
        (SegmentQuestion(labels=("a\0b",)), "no text that an image could show"),
        (SegmentQuestion(labels=("red", "red")), "given twice"),
        (SegmentQuestion(labels=("red",), background=("red",)), "given twice"),
        (SegmentQuestion(labels=tuple(map(str, range(65)))), "65 texts"),
        (SegmentQuestion(labels=("red",), background=("blue",), background_score=0.1), "two backgrounds"),
        (SegmentQuestion(background=("blue",)), "background without labels"),
    ):
        with pytest.raises(ConfigError, match=message):
            served.check(question)


def test_broken_weights_are_found(served: ServedInsight) -> None:
    served.self_check()
    served.model.sae.dictionary[RED, 0] = float("nan")
    with pytest.raises(CheckpointError, match="not finite"):
        served.self_check()


def test_memory_counts_each_tensor_once(served: ServedInsight) -> None:
    sae = served.model.sae
    own = sum(value.nbytes for value in (*sae.parameters(), *sae.buffers()))
    assert served.nbytes == own + served.model.encoder.text_mean.nbytes


def test_memory_counts_both_sides_of_the_embedded_encoder(served: ServedInsight, minilm: MiniLm) -> None:
    del minilm  # skips where its packages are missing
    embedded = ServedInsight(served.key, replace(served.model, encoder=load_encoder("embedded")))
    images_only = embedded.nbytes
    assert images_only > 18_000_000  # a backbone of 3.4 million parameters, its classifier and the head
    embedded.text_vector("picture")
    assert embedded.nbytes > images_only + 80_000_000  # MiniLM has 22.7 million


def test_texts_are_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, asked = colour_model().encoder, []
    text = type(encoder).text
    monkeypatch.setattr(type(encoder), "text", lambda self, texts: asked.append(texts) or text(self, texts))
    vectors = LabelVectors(encoder)
    first = vectors(["red", "blue"])
    assert torch.equal(vectors(["blue", "red", "blue"]), first[[1, 0, 1]])
    assert len(asked) == 1
    assert vectors([]).shape == (0, 3)
    monkeypatch.setattr("raytrain_xai.serving.label_vectors.KEPT", 2)
    vectors(["green"])
    vectors(["blue", "green"])
    assert len(asked) == 2  # red, used longest ago, has left
    vectors(["red"])
    assert len(asked) == 3
