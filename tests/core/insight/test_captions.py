"""Contributions of concepts to words, and steering, with a decoder whose probabilities are written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from small_encoder import DIM, LATENTS, SmallEncoder, random_images, small_model
from torch import Tensor
from torch.nn import functional

from raytrain_xai.captioning.words import join_words
from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.matryoshka import MatryoshkaSae
from raytrain_xai.errors import ConfigError
from raytrain_xai.insight.captions import caption_images, code_direction, whole_code, word_shares
from raytrain_xai.insight.model import InsightModel
from raytrain_xai.insight.steering import added, find_concept, scaled, sweep_added, sweep_scaled

WORDS = ("cat", "dog", "house", "tree", "water")


@dataclass(frozen=True)
class TwoWords:
    """Says the two words whose directions are nearest; the second depends on the first by a twist of the vector."""

    directions: Tensor
    dim: int = DIM

    @classmethod
    def drawn(cls) -> TwoWords:
        return cls(functional.normalize(torch.randn(5, DIM, generator=torch.Generator().manual_seed(3)), dim=1))

    def scores(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        first = (8 * vectors @ self.directions.to(vectors).T).log_softmax(1)
        second = (8 * vectors.roll(1, 1).tanh() @ self.directions.to(vectors).T).log_softmax(1)
        return first, second

    def write(self, vectors: Tensor) -> list[tuple[str, ...]]:
        first, second = self.scores(vectors)
        pairs = zip(first.argmax(1).tolist(), second.argmax(1).tolist(), strict=True)
        return [(WORDS[a], WORDS[b]) for a, b in pairs]

    def log_probs(self, vectors: Tensor, captions: Sequence[Sequence[str]]) -> Tensor:
        chosen = torch.tensor([[WORDS.index(word) for word in words] for words in captions])
        return torch.cat([s.gather(1, chosen[:, n : n + 1]) for n, s in enumerate(self.scores(vectors))], dim=1)

    def text(self, words: Sequence[str]) -> str:
        return join_words(words)


def exact(model: InsightModel) -> MatryoshkaSae:
    return model.sae.double()


def code_of(model: InsightModel) -> SparseCode:
    code = whole_code(model, random_images(3, 32, 32))
    return SparseCode(code.values.double(), code.indices, code.num_latents)


def log_probs_of(sae: MatryoshkaSae, code: SparseCode, captions: Sequence[Sequence[str]]) -> Tensor:
    """By the definition: decode every patch, average, normalise."""
    vectors = functional.normalize(sae.decode(code).mean(dim=1), dim=1)
    return TwoWords.drawn().log_probs(vectors, captions)


def weakened(code: SparseCode, share: float) -> SparseCode:
    return SparseCode(code.values * share, code.indices, code.num_latents)


def test_contributions_are_changes_for_more_of_a_concept() -> None:
    """Two steps of the integral against finite differences over whole maps, in float64, for every concept."""
    model = small_model()
    code, sae, decoder = code_of(model), exact(model), TwoWords.drawn()
    captions = decoder.write(code_direction(sae, code))
    shares = word_shares(sae, decoder, code, captions, steps=2)
    torch.testing.assert_close(shares.log_probs, log_probs_of(sae, code, captions))
    torch.testing.assert_close(shares.baseline, log_probs_of(sae, weakened(code, 0), captions))
    step = 1e-6
    for concept in range(LATENTS):
        slopes: list[Tensor] = []
        for share in (0.25, 0.75):  # z dl/dz at t z is t dl/dt of the concept alone, over t
            part = weakened(code, share)
            more, less = (log_probs_of(sae, scaled(part, concept, 1 + sign * step), captions) for sign in (1, -1))
            slopes.append((more - less) / (2 * step) / share)
        torch.testing.assert_close(shares.concept[..., concept], sum(slopes) / 2, atol=1e-6, rtol=1e-5)
    assert shares.concept.abs().max() > 0.1


def test_contributions_add_up_to_the_word() -> None:
    model = small_model()
    code, sae, decoder = code_of(model), exact(model), TwoWords.drawn()
    shares = word_shares(sae, decoder, code, [("dog", "cat")] * 3, steps=512)
    assert (shares.log_probs - shares.baseline).abs().max() > 0.5
    torch.testing.assert_close(shares.concept.sum(dim=2) + shares.baseline, shares.log_probs, atol=5e-4, rtol=0)
    active = code.dense().sum(dim=1) > 0
    assert not shares.concept.masked_select(~active[:, None].expand_as(shares.concept)).any()


def test_captions_show_the_strongest_concepts_by_name() -> None:
    model = replace(small_model(), names={number: f"thing {number}" for number in range(0, LATENTS, 2)})
    decoder, images = TwoWords.drawn(), random_images(3, 48, 40)
    captions = caption_images(model, decoder, images, num_concepts=4)
    code = whole_code(model, images)
    assert code.values.shape[1] == 16  # brought to 32 x 32, patches of 8
    shares = word_shares(model.sae, decoder, code, decoder.write(code_direction(model.sae, code)))
    for row, caption in enumerate(captions):
        assert caption.text == " ".join(word.text for word in caption.words)
        for place, word in enumerate(caption.words):
            assert word.log_prob == pytest.approx(float(shares.log_probs[row, place]), rel=1e-4)
            assert word.baseline == pytest.approx(float(shares.baseline[row, place]), rel=1e-4)
            own = shares.concept[row, place]
            expected = sorted(range(LATENTS), key=lambda k: -abs(float(own[k])))[:4]
            assert [share.concept for share in word.shares] == expected
            for share in word.shares:
                assert share.value == pytest.approx(float(own[share.concept]), rel=1e-3, abs=1e-6)
                assert share.name == (
                    f"thing {share.concept}" if share.concept % 2 == 0 else f"concept {share.concept}"
                )


class Silent(TwoWords):
    """Has nothing to say."""

    def write(self, vectors: Tensor) -> list[tuple[str, ...]]:
        return [()] * len(vectors)


def test_an_empty_caption_has_no_words() -> None:
    captions = caption_images(small_model(), Silent(TwoWords.drawn().directions), random_images(2, 32, 32))
    assert [(caption.text, caption.words) for caption in captions] == [("", ()), ("", ())]


def test_a_decoder_of_another_space_is_refused() -> None:
    with pytest.raises(ConfigError, match="reads vectors of 5 dimensions, the concepts of small have 12"):
        caption_images(small_model(), replace(TwoWords.drawn(), dim=5), random_images(1, 32, 32))


def test_scaling_changes_one_concept_where_it_is_asked_to() -> None:
    code = code_of(small_model())
    concept = int(code.indices[0, 0, int(code.values[0, 0].argmax())])
    where = torch.zeros(3, 16, dtype=torch.bool)
    where[0, 0] = where[1] = True
    dense, changed = code.dense(), scaled(code, concept, 0.25, where).dense()
    expected = dense.clone()
    expected[0, 0, concept] *= 0.25
    expected[1, :, concept] *= 0.25
    torch.testing.assert_close(changed, expected)
    assert not torch.equal(changed, dense)
    torch.testing.assert_close(scaled(code, concept, 0).dense()[..., concept], torch.zeros(3, 16).double())
    with pytest.raises(ConfigError, match="numbered from 0 to 39"):
        scaled(code, LATENTS, 1)
    with pytest.raises(ConfigError, match="cannot be scaled by -1"):
        scaled(code, 0, -1)


def test_adding_moves_towards_the_direction_and_keeps_the_length() -> None:
    vectors = functional.normalize(torch.randn(3, DIM, generator=torch.Generator().manual_seed(0)), dim=1)
    direction = functional.normalize(torch.ones(DIM), dim=0)
    moved = added(vectors, direction, torch.tensor([0.0, 1.0, 100.0]))
    torch.testing.assert_close(moved.norm(dim=2), torch.ones(3, 3))
    torch.testing.assert_close(moved[0], vectors)
    torch.testing.assert_close(moved[1, 2], functional.normalize(vectors[2] + direction, dim=0))
    assert (moved[2] @ direction > 0.999).all()


def test_sweeps_report_words_and_cosines() -> None:
    """Against captions written one by one, and against vectors of texts by the encoder itself."""
    encoder = SmallEncoder(text_mean=torch.full((DIM,), 0.1))
    model, decoder, images = small_model(encoder), TwoWords.drawn(), random_images(2, 32, 32)
    code = whole_code(model, images)
    vectors = code_direction(model.sae, code)
    concept = int(code.dense().sum(dim=(0, 1)).argmax())
    direction = functional.normalize(model.sae.dictionary[concept].detach(), dim=0)
    gone = functional.normalize(model.sae.decode(scaled(code, concept, 0)).mean(dim=1), dim=1)
    swept = {
        "added": (sweep_added(model, decoder, images, concept, [0, 30]), [vectors, vectors + 30 * direction]),
        "scaled": (sweep_scaled(model, decoder, images, concept, [1, 0]), [vectors, gone]),
    }
    plain = decoder.write(vectors)
    for steered, moved in swept.values():
        for step, target in enumerate(moved):
            captions = decoder.write(functional.normalize(target, dim=1))
            for row in range(2):
                found, words = steered[row][step], captions[row]
                assert found.text == " ".join(words)
                assert found.gained == tuple(dict.fromkeys(w for w in words if w not in plain[row]))
                assert found.lost == tuple(dict.fromkeys(w for w in plain[row] if w not in words))
                text = functional.normalize(encoder.text([found.text])[0] - encoder.text_mean, dim=0)
                assert found.image_score == pytest.approx(float(text @ vectors[row]), abs=1e-5)
                assert found.concept_score == pytest.approx(float(text @ direction), abs=1e-5)
        assert all(own[0].gained == own[0].lost == () for own in steered)
    assert any(own[1].gained for own in swept["added"][0])
    near = decoder.scores(direction[None])[0].argmax()
    assert {own[1].text.split()[0] for own in swept["added"][0]} == {WORDS[int(near)]}


def test_concepts_are_found_by_number_or_name() -> None:
    model = replace(small_model(), names={3: "Dog", 4: "hot dog", 7: "cat", 9: "cat"})
    assert (find_concept(model, "12"), find_concept(model, " dog")) == (12, 3)
    with pytest.raises(ConfigError, match=r"several concepts are named 'cat'; .*: 7 \(cat\), 9 \(cat\)"):
        find_concept(model, "cat")
    with pytest.raises(ConfigError, match=r"no concept is named 'do'; .*: 3 \(Dog\), 4 \(hot dog\)"):
        find_concept(model, "do")
    with pytest.raises(ConfigError, match="numbered from 0 to 39"):
        find_concept(model, "40")
