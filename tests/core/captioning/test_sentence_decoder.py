"""The decoder: causality, greedy search, log-probabilities, and a training step that workers share out."""

from __future__ import annotations

import json
import math
from importlib.resources import files

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from raytrain_xai.captioning.decoder import DecoderShape, SentenceDecoder
from raytrain_xai.captioning.reading import ABOUT, WEIGHTS, TrainedDecoder, decoder_state, restore_decoder
from raytrain_xai.captioning.step import blurred, caption_step
from raytrain_xai.captioning.words import END, PAD, START, WordTable
from raytrain_xai.errors import CheckpointError, ConfigError

WORDS = ("a", "and", "cat", "dog", "two")
SHAPE = DecoderShape(
    dim=6, num_words=8, width=16, layers=2, heads=2, prefix=3, max_words=7, memory=4, temperature=0.1
)  # fmt: skip


def decoder(seed: int = 0) -> SentenceDecoder:
    torch.manual_seed(seed)
    built = SentenceDecoder(SHAPE)
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter, std=0.5)  # so that words differ in probability
    built.memory.copy_(directions(9)[5:])
    return built


def directions(count: int) -> Tensor:
    return functional.normalize(torch.randn(count, 6, generator=torch.Generator().manual_seed(1)), dim=1)


def sentences() -> Tensor:
    return WordTable(WORDS).encode([("a", "dog"), ("two", "cat", "and", "a", "dog"), ("cat",)])


def test_a_word_depends_on_those_before_it_alone() -> None:
    built, tokens = decoder(), sentences()[:, :-1]
    logits = built(directions(3), tokens)
    changed = tokens.clone()
    changed[:, 3:] = 5
    again = built(directions(3), changed)
    torch.testing.assert_close(again[:, :3], logits[:, :3])
    assert not torch.allclose(again[:, 3], logits[:, 3])


def test_vectors_become_means_of_sentences_that_are_like_them() -> None:
    """By the definition, vector by vector; a remembered one among others far away stays itself."""
    built, vectors = decoder(), directions(3)
    for vector, found in zip(vectors, built.recall(vectors), strict=True):
        weights = [math.exp(float(vector @ sentence) / 0.1) for sentence in built.memory]
        mean = sum(weight * sentence for weight, sentence in zip(weights, built.memory, strict=True))
        torch.testing.assert_close(found, mean / mean.norm())
    built.memory.copy_(torch.eye(6)[:4])
    torch.testing.assert_close(built.recall(torch.eye(6)[:4]), torch.eye(6)[:4], atol=1e-3, rtol=0)


def test_log_probabilities_equal_those_of_one_sentence_word_by_word() -> None:
    built, vectors, tokens = decoder(), directions(3), sentences()
    found = built.log_probs(vectors, tokens)
    assert found.shape == (3, tokens.shape[1] - 1)
    for row, sentence in enumerate(tokens.tolist()):
        for place in range(1, len(sentence)):
            if sentence[place] == PAD:
                assert found[row, place - 1] == 0
                continue
            so_far = torch.tensor([sentence[:place]])
            expected = built(vectors[row : row + 1], so_far)[0, -1].log_softmax(0)[sentence[place]]
            torch.testing.assert_close(found[row, place - 1], expected)


def test_greedy_takes_the_likeliest_word_and_stops_at_the_end() -> None:
    built, vectors = decoder(3), directions(5)
    tokens = built.greedy(vectors)
    assert tokens.shape == (5, SHAPE.max_words + 1)
    for row, sentence in enumerate(tokens.tolist()):
        assert sentence[0] == START and sentence.count(END) == 1
        end = sentence.index(END)
        assert all(token == PAD for token in sentence[end + 1 :])
        for place in range(1, min(end + 1, SHAPE.max_words)):
            logits = built(vectors[row : row + 1], torch.tensor([sentence[:place]]))[0, -1]
            logits[[PAD, START]] = -math.inf
            assert int(logits.argmax()) == sentence[place]


def test_a_decoder_learns_to_say_what_it_is_shown() -> None:
    """Three vectors, three sentences: after training each vector gives its own, and noise of a fifth changes none."""
    torch.manual_seed(0)
    built, vectors, tokens = SentenceDecoder(SHAPE), directions(3), sentences()
    optimizer = torch.optim.Adam(built.parameters(), 1e-2)
    for _ in range(60):
        result = caption_step(built, vectors, tokens)
        for name, parameter in built.named_parameters():
            parameter.grad = result.gradients[name]
        optimizer.step()
    assert float(result.sums["loss"] / result.sums["words"]) < 0.05
    table = WordTable(WORDS)
    noisy = blurred(vectors, 0.2 * directions(3).flip(0))
    torch.testing.assert_close(noisy.norm(dim=1), torch.ones(3))
    assert table.decode(built.greedy(noisy)) == table.decode(tokens)


class Share:
    """One of two workers; the other one's part of the sum is given."""

    world_size = 2

    def __init__(self, rank: int, other: Tensor | None = None) -> None:
        self.rank = rank
        self.own: Tensor | None = None
        self.other = other

    def sum(self, values: Tensor) -> Tensor:
        self.own = values.clone()
        return values if self.other is None else values + self.other

    def gather(self, values: Tensor) -> Tensor:  # noqa: ARG002
        raise AssertionError("a caption step gathers nothing")


def test_two_workers_have_the_gradients_of_one() -> None:
    """In float64, and equal to those of the mean loss by autograd."""
    built, vectors, tokens = decoder().double(), directions(3).double(), sentences()
    shares = [slice(0, None, 2), slice(1, None, 2)]  # two sentences and one: shares differ in words
    parts = [Share(0), Share(1)]
    for share, part in zip(shares, parts, strict=True):
        caption_step(built, vectors[share], tokens[share], workers=part)
    together = [
        caption_step(built, vectors[share], tokens[share], workers=Share(rank, parts[1 - rank].own))
        for rank, share in enumerate(shares)
    ]
    target = tokens[:, 1:]
    logits = built(vectors, tokens[:, :-1])
    loss = functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=PAD)
    loss.backward()
    for result in together:
        assert result.sums["captions"] == 3 and result.sums["words"] == 11
        torch.testing.assert_close(result.sums["loss"] / 11, loss.detach())
        for name, parameter in built.named_parameters():
            torch.testing.assert_close(result.gradients[name], parameter.grad)


def trained() -> TrainedDecoder:
    about = {"words": WORDS, "categories": ["dog"], "names": {}, "encoder": {"name": "x"}, "probes": {}}
    built = decoder()
    return restore_decoder(built.state_dict(), decoder_state(SHAPE, about), "here")


def test_a_decoder_comes_back_from_its_state() -> None:
    restored, vectors = trained(), directions(2)
    recalled = decoder().recall(vectors)
    assert restored.write(vectors) == WordTable(WORDS).decode(decoder().greedy(recalled))
    assert restored.dim == 6 and not any(p.requires_grad for p in restored.network.parameters())
    captions = [("a", "dog"), ("two", "cat", "and")]
    table = WordTable(WORDS)
    expected = decoder().log_probs(recalled, table.encode(captions))
    found = restored.log_probs(vectors, captions)
    torch.testing.assert_close(found[1], expected[1, :3])
    torch.testing.assert_close(found[0], torch.tensor([*expected[0, :2].tolist(), 0.0]))  # the end is no word


def test_what_cannot_be_said_or_restored_is_refused() -> None:
    restored, vectors = trained(), directions(1)
    with pytest.raises(ConfigError, match="7 words; this decoder writes 6 at most"):
        restored.log_probs(vectors, [("a",) * 7])
    with pytest.raises(ConfigError, match="mouse"):
        restored.log_probs(vectors, [("mouse",)])
    state = decoder_state(SHAPE, {"words": WORDS})
    with pytest.raises(CheckpointError, match="the caption decoder there is damaged"):
        restore_decoder({"norm.weight": torch.ones(3)}, state, "there")
    with pytest.raises(ConfigError, match="width 10 is no multiple"):
        SentenceDecoder(DecoderShape(6, 8, 10, 1, 4, 1, 5, 1, 0.1))


def test_the_decoder_of_the_package_says_what_it_is_told() -> None:
    """From the vectors of texts that it carries to know its space again: no encoder is needed."""
    folder = files("raytrain_xai.captioning") / "assets"
    state = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    shipped = restore_decoder(safetensors.torch.load((folder / WEIGHTS).read_bytes()), state, "embedded")
    told = ["a dog", "two people and a car"]
    dog, both = torch.tensor([shipped.about["probes"][text] for text in told])[:, None]
    assert shipped.text(shipped.write(dog)[0]) == told[0]
    (words,) = shipped.words.decode(shipped.network.greedy(both))  # no scene of the memory has just these
    assert shipped.text(words) == told[1]
    assert len(shipped.about["categories"]) == 80
