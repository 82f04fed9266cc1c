"""What a decoder learns from and is judged by: scenes as vectors and words, and vectors of images that were held back.

It lies in the folder of a run, made once before training, so neither workers nor a resumed run need the encoder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from raytrain_xai.captioning.scenes import Scene
from raytrain_xai.captioning.sentences import FORMS, sentence
from raytrain_xai.captioning.words import WordTable, split_words
from raytrain_xai.errors import CheckpointError
from raytrain_xai.language.encoder import LanguageEncoder
from raytrain_xai.sealed import seal, unseal
from raytrain_xai.storage import Location, exists, read_bytes, write_bytes

CORPUS = "corpus"
PROBES = ("a dog", "two people and a car", "a bowl, a cup and several spoons", "grass")
"""Texts whose vectors say whether a decoder and an encoder share a space."""

_ABOUT, _TENSORS = "corpus.json", "corpus.safetensors"
_TEXTS_AT_ONCE = 1024


@dataclass(frozen=True)
class HeldBack:
    """Images of a split that no decoder learns from.

    Attributes:
        vectors: (n, D) float32 of unit length, :func:`mean_direction` of the patches of each image.
        present: (n, C) bool, its categories.
        known: (n, C) bool, categories that the data set of the image annotates at all.
    """

    vectors: Tensor
    present: Tensor
    known: Tensor


@dataclass(frozen=True)
class Corpus:
    """All that a caption run reads.

    Attributes:
        about: JSON values: ``words``, ``categories`` (C names in sentences), ``names`` (class of a data set -> name),
            ``encoder`` (name and fingerprint), ``probes`` (texts -> vectors, by which the space is known again).
        tokens: (S, L) int64, the sentence of each scene.
        sources: (S, F, D) float16 of unit length, vectors that stand for the scene; see :func:`scene_vectors`.
        held: ``val`` and ``test``, those there are.
    """

    about: dict[str, Any]
    tokens: Tensor
    sources: Tensor
    held: Mapping[str, HeldBack]

    @property
    def words(self) -> WordTable:
        """Of ``tokens``."""
        return WordTable(tuple(self.about["words"]))

    @property
    def memory(self) -> Tensor:
        """(M, D) float32: the vector of every sentence, once, in the order of the numbers of its words."""
        _, first = np.unique(self.tokens.numpy(), axis=0, return_index=True)
        return functional.normalize(self.sources[torch.from_numpy(first), 0].float(), dim=1)


def text_vectors(encoder: LanguageEncoder, texts: Sequence[str]) -> Tensor:
    """(M, D) float32 of unit length: vectors of texts as patches are compared with them, ``text_mean`` taken off."""
    parts = [encoder.text(texts[start : start + _TEXTS_AT_ONCE]) for start in range(0, len(texts), _TEXTS_AT_ONCE)]
    return functional.normalize(torch.cat(parts) - encoder.text_mean, dim=1)


def probe_vectors(encoder: LanguageEncoder) -> dict[str, list[float]]:
    """Vectors of :data:`PROBES`, as JSON."""
    return dict(zip(PROBES, text_vectors(encoder, PROBES).tolist(), strict=True))


def mean_direction(patches: Tensor) -> Tensor:
    """Patches (B, P, D) -> (B, D) of unit length: the direction of their mean, which stands for an image."""
    return functional.normalize(patches.mean(dim=1), dim=1)


def scene_vectors(encoder: LanguageEncoder, scenes: Sequence[Scene]) -> Tensor:
    """Vectors from which a decoder learns to say what is in a scene: those of sentences about it. No image is seen.

    Args:
        scenes: S of them.
    Returns:
        (S, F, D) float16 on the CPU, F = ``len(FORMS)``.
    """
    spoken = [sentence(scene) for scene in scenes]
    distinct = list(dict.fromkeys(spoken))
    rows = {text: row for row, text in enumerate(distinct)}
    vectors = text_vectors(encoder, [form.format(text) for text in distinct for form in FORMS])
    return vectors.unflatten(0, (-1, len(FORMS)))[[rows[text] for text in spoken]].half().cpu()


def word_table(scenes: Iterable[Scene], categories: Iterable[str]) -> WordTable:
    """The words of sentences about scenes, and of all categories."""
    return WordTable.of([*(sentence(scene) for scene in scenes), *categories])


def tokens_of(words: WordTable, scenes: Sequence[Scene]) -> Tensor:
    """(S, L) int64, sentences of scenes."""
    return words.encode([split_words(sentence(scene)) for scene in scenes])


def write_corpus(run: Location, corpus: Corpus) -> None:
    """Put a corpus into the folder of a run."""
    tensors = {"tokens": corpus.tokens, "sources": corpus.sources}
    for split, held in corpus.held.items():
        tensors |= {f"{split}/{name}": value for name, value in vars(held).items()}
    write_bytes(run.child(CORPUS, _TENSORS), seal(tensors))
    write_bytes(run.child(CORPUS, _ABOUT), json.dumps(corpus.about, indent=1).encode())


def has_corpus(run: Location) -> bool:
    """Whether :func:`write_corpus` ended."""
    return exists(run.child(CORPUS, _ABOUT))


def read_corpus(run: Location) -> Corpus:
    """The corpus of a run.

    Raises:
        CheckpointError: its files are damaged.
        DataError: they are not there.
    """
    at = run.child(CORPUS)
    try:
        tensors = unseal(read_bytes(at.child(_TENSORS)))
        about = json.loads(read_bytes(at.child(_ABOUT)))
        splits = sorted({name.partition("/")[0] for name in tensors if "/" in name})
        held = {
            split: HeldBack(*(tensors[f"{split}/{name}"] for name in ("vectors", "present", "known")))
            for split in splits
        }
        return Corpus(about, tensors["tokens"], tensors["sources"], held)
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{at.uri} is damaged ({error}); delete {run.uri} and train again") from error
