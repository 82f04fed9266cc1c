"""Corpora: vectors of scenes by hand, images held back, and what a folder gives back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pytest
import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional

from raytrain_xai.caption_config import CaptionEvaluationSection, CaptionRunConfig
from raytrain_xai.captioning.corpus import Corpus, HeldBack, has_corpus, read_corpus, scene_vectors, write_corpus
from raytrain_xai.captioning.decoder import DecoderShape, SentenceDecoder
from raytrain_xai.captioning.gathering import gather_corpus, image_directions
from raytrain_xai.captioning.reading import ABOUT, WEIGHTS, decoder_state, load_decoder, pack_decoder, restore_decoder
from raytrain_xai.captioning.scenes import Thing, category_names
from raytrain_xai.captioning.sentences import FORMS
from raytrain_xai.captioning.words import split_words
from raytrain_xai.checkpoint import Checkpoint, write_checkpoint
from raytrain_xai.data.dataset import StoredSplit, open_dataset
from raytrain_xai.data.loader import evaluation_batches
from raytrain_xai.errors import CheckpointError, ConfigError, DataError
from raytrain_xai.run_folder import create_run
from raytrain_xai.storage import locate

DIM = 26


class LetterEncoder:
    """Texts are counts of letters; patches are mean colours of 16 x 16 pixels in the first three dimensions."""

    name, fingerprint, dim, multiple, image_size, logit_scale = "letters", "f0", DIM, 16, 48, 1.0

    def __init__(self, shift: float = 0.05) -> None:
        self.text_mean = torch.full((DIM,), shift)
        self.device = torch.device("cpu")

    def patches(self, images: Tensor) -> Tensor:
        colours = functional.avg_pool2d(images.float() / 255, self.multiple)
        return functional.pad(colours, (0, 0, 0, 0, 0, DIM - 3))

    def text(self, texts: Sequence[str]) -> Tensor:
        counts = [[text.lower().count(chr(97 + letter)) for letter in range(DIM)] for text in texts]
        return functional.normalize(torch.tensor(counts, dtype=torch.float32).view(-1, DIM), dim=1)


def unit(vector: Tensor) -> Tensor:
    return vector / vector.norm()


def test_vectors_of_scenes_by_hand() -> None:
    encoder = LetterEncoder()
    scenes = [(Thing("dog", 2, 0.75), Thing("cat", 1, 0.25)), (Thing("cat", 1, 1.0),)]
    found = scene_vectors(encoder, scenes)
    assert found.shape == (2, len(FORMS), DIM) and found.dtype == torch.float16
    for row, text in enumerate(["two dogs and a cat", "a cat"]):
        for form, template in enumerate(FORMS):
            expected = unit(encoder.text([template.format(text)])[0] - encoder.text_mean)
            torch.testing.assert_close(found[row, form].float(), expected, atol=1e-3, rtol=0)


def config(data: str, names: Mapping[str, str] = MappingProxyType({}), **changes: object) -> CaptionRunConfig:
    raw = {
        "job": "caption",
        "name": "captions",
        "data": [{"path": data, "names": dict(names)}],
        "batch_size": 8,
        **changes,
    }
    return CaptionRunConfig.model_validate(raw)


def test_a_corpus_holds_what_the_data_says(objects: str) -> None:
    """Categories of the images held back equal their labels; a renamed class keeps its column."""
    encoder, classes = LetterEncoder(), open_dataset(objects).classes
    renamed = {classes[0]: "odd thing"}
    corpus = gather_corpus(config(objects, renamed), encoder)
    assert corpus.about["categories"] == category_names(classes, renamed)
    assert corpus.about["names"] == renamed and corpus.about["encoder"]["fingerprint"] == "f0"
    assert len(corpus.tokens) == len(corpus.sources) == 24
    spoken = {word for words in corpus.words.decode(corpus.tokens) for word in words}
    assert spoken <= set(corpus.words.words) and set(split_words("odd thing")) <= set(corpus.words.words)
    for split, count in (("val", 6), ("test", 12)):
        held, stored = corpus.held[split], StoredSplit(objects, split)
        labels = torch.cat([batch.labels for batch in evaluation_batches(objects, split, 48, 5)])
        assert torch.equal(held.present, labels > 0) and held.known.all() and len(stored) == count
        torch.testing.assert_close(held.vectors.norm(dim=1), torch.ones(count))
        images = torch.cat([batch.images for batch in evaluation_batches(objects, split, 48, 5)]).float() / 255
        expected = functional.normalize(images.mean(dim=(2, 3)), dim=1)
        torch.testing.assert_close(held.vectors[:, :3], expected)


def test_the_memory_has_every_sentence_once(objects: str) -> None:
    corpus = gather_corpus(config(objects), LetterEncoder())
    spoken = [" ".join(words) for words in corpus.words.decode(corpus.tokens)]
    distinct = {text: unit(corpus.sources[row, 0].float()) for row, text in enumerate(spoken)}
    memory = corpus.memory
    assert len(memory) == len(distinct) < 24
    for vector in distinct.values():
        assert (memory - vector).norm(dim=1).min() < 1e-6


def test_only_categories_of_the_data_set_are_known(objects: str) -> None:
    names = open_dataset(objects).classes
    categories = ("something else", *names)
    held = image_directions(objects, "val", names, categories, LetterEncoder(), CaptionEvaluationSection(max_images=4))
    assert held.vectors.shape == (4, DIM) and held.present.shape == held.known.shape == (4, 9)
    assert not held.known[:, 0].any() and held.known[:, 1:].all() and not held.present[:, 0].any()


def test_more_sentences_than_there_are_cannot_make_a_step(objects: str) -> None:
    with pytest.raises(DataError, match="make 24 sentences, batch_size is 25"):
        gather_corpus(config(objects, batch_size=25), LetterEncoder())


def small_corpus() -> Corpus:
    half = torch.arange(12, dtype=torch.float16).view(2, 2, 3)
    held = HeldBack(torch.rand(2, 3), torch.tensor([[True], [False]]), torch.tensor([[True], [True]]))
    return Corpus({"words": ["a", "dog"]}, torch.tensor([[1, 3, 4, 2], [1, 4, 2, 0]]), half, {"val": held})


def test_a_corpus_comes_back_from_its_folder(tmp_path: Path) -> None:
    run = locate(str(tmp_path / "run"))
    assert not has_corpus(run)
    write_corpus(run, small_corpus())
    assert has_corpus(run)
    found, expected = read_corpus(run), small_corpus()
    assert found.about == expected.about and found.held.keys() == {"val"}
    assert torch.equal(found.tokens, expected.tokens) and torch.equal(found.sources, expected.sources)
    assert torch.equal(found.held["val"].present, expected.held["val"].present)
    assert torch.equal(found.held["val"].known, expected.held["val"].known)
    (tmp_path / "run" / "corpus" / "corpus.safetensors").write_bytes(b"no tensors")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_corpus(run)


def test_decoders_of_another_space_are_refused(objects: str, tmp_path: Path) -> None:
    """A decoder of a run is found, and is refused by an encoder whose texts have other vectors or another length."""
    encoder, run_config = LetterEncoder(), config(objects, storage=str(tmp_path))
    corpus = gather_corpus(run_config, encoder)
    run = create_run(run_config)
    network = SentenceDecoder(DecoderShape(DIM, corpus.words.size, 16, 1, 2, 2, corpus.tokens.shape[1], 3, 0.02))
    state = {"decoder": decoder_state(network.shape, corpus.about)}
    write_checkpoint(run.child("checkpoints"), Checkpoint(1, network.state_dict(), {}, state), lambda: None)
    loaded = load_decoder(run.uri, encoder)
    assert loaded.words == corpus.words and loaded.about["categories"] == list(corpus.about["categories"])
    assert load_decoder(run.uri, LetterEncoder(shift=0.0501)).dim == DIM  # the same to the fourth place
    pack_decoder(run.uri, locate(str(tmp_path / "packed")))
    halves = safetensors.torch.load_file(tmp_path / "packed" / WEIGHTS)
    assert {value.dtype for value in halves.values()} == {torch.float16}
    packed = restore_decoder(halves, json.loads((tmp_path / "packed" / ABOUT).read_text()), "packed")
    assert packed.about == loaded.about and packed.network.shape == loaded.network.shape
    with pytest.raises(ConfigError, match="where the vectors of texts are not those of letters"):
        load_decoder(run.uri, LetterEncoder(shift=0.4))
    wider = LetterEncoder()
    wider.dim = 30
    with pytest.raises(ConfigError, match="reads vectors of 26 dimensions .* letters has 30"):
        load_decoder(run.uri, wider)
    with pytest.raises(ConfigError, match="no caption decoder 'nowhere'; give embedded or"):
        load_decoder("nowhere", encoder)
