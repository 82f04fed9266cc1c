"""Makes a corpus from data sets: their annotations in words and vectors, and vectors of the images held back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from raytrain_xai.caption_config import CaptionEvaluationSection, CaptionRunConfig
from raytrain_xai.captioning.corpus import (
    Corpus,
    HeldBack,
    mean_direction,
    probe_vectors,
    scene_vectors,
    tokens_of,
    word_table,
)
from raytrain_xai.captioning.scenes import Scene, category_names, read_scenes
from raytrain_xai.concepts.layer import to_vectors
from raytrain_xai.data.dataset import StoredSplit, open_dataset
from raytrain_xai.data.loader import evaluation_batches
from raytrain_xai.errors import DataError
from raytrain_xai.language.encoder import LanguageEncoder

HELD_BACK = ("val", "test")


def gather_corpus(config: CaptionRunConfig, encoder: LanguageEncoder) -> Corpus:
    """Everything that a caption run reads, from its data sets and its encoder.

    Raises:
        ConfigError: a name of a class that a data set has not.
        DataError: a data set cannot be used.
    """
    names = [category_names(open_dataset(source.path).classes, source.names) for source in config.data]
    categories = tuple(dict.fromkeys(name for own in names for name in own))
    scenes: list[Scene] = []
    for source, own in zip(config.data, names, strict=True):
        scenes += read_scenes(StoredSplit(source.path, "train"), own)
    if len(scenes) < config.batch_size:
        raise DataError(
            f"the training images of {', '.join(source.path for source in config.data)} make {len(scenes)} sentences, "
            f"batch_size is {config.batch_size}; set a smaller one or add a data set"
        )
    words = word_table(scenes, categories)
    about = {
        "words": words.words, "categories": categories,
        "names": {name: shown for source in config.data for name, shown in source.names.items()},
        "encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint},
        "probes": probe_vectors(encoder),
    }  # fmt: skip
    held = {split: _held_back(config, encoder, split, names, categories) for split in HELD_BACK}
    return Corpus(
        about, tokens_of(words, scenes), scene_vectors(encoder, scenes),
        {split: own for split, own in held.items() if own is not None},
    )  # fmt: skip


def _held_back(
    config: CaptionRunConfig, encoder: LanguageEncoder, split: str, names: Sequence[tuple[str, ...]],
    categories: tuple[str, ...],
) -> HeldBack | None:  # fmt: skip
    """The images of a split of all data sets that have it and label it; None where none has."""
    parts = [
        image_directions(source.path, split, own, categories, encoder, config.evaluation)
        for source, own in zip(config.data, names, strict=True)
        if open_dataset(source.path).splits.get(split)
    ]
    if not parts:
        return None
    return HeldBack(
        torch.cat([part.vectors for part in parts]), torch.cat([part.present for part in parts]),
        torch.cat([part.known for part in parts]),
    )  # fmt: skip


@torch.no_grad()
def image_directions(
    path: str, split: str, names: Sequence[str], categories: Sequence[str], encoder: LanguageEncoder,
    evaluation: CaptionEvaluationSection,
) -> HeldBack:  # fmt: skip
    """Vectors and categories of the images of one split.

    Args:
        names: of the classes of the data set, each one of ``categories``.
    """
    column = torch.tensor([categories.index(name) for name in names])
    vectors: list[Tensor] = []
    present: list[Tensor] = []
    batches = evaluation_batches(
        path, split, encoder.image_size, evaluation.batch_size, max_images=evaluation.max_images
    )
    for batch in batches:
        vectors.append(mean_direction(to_vectors(encoder.patches(batch.images))).cpu())
        present.append(torch.zeros(len(batch.images), len(categories)).index_add_(1, column, batch.labels) > 0)
    known = torch.zeros(len(categories), dtype=torch.bool).index_fill_(0, column, True)
    return HeldBack(torch.cat(vectors), torch.cat(present), known.repeat(sum(map(len, present)), 1))
