"""Captions of a whole split, from the encoder's own patches and from concepts, judged side by side."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from raytrain_xai.captioning.corpus import mean_direction, text_vectors
from raytrain_xai.captioning.reading import TrainedDecoder
from raytrain_xai.captioning.scenes import category_names
from raytrain_xai.concepts.layer import to_vectors
from raytrain_xai.data.dataset import open_dataset
from raytrain_xai.data.loader import evaluation_batches
from raytrain_xai.insight.caption_scores import mention_scores, mentioned, vector_scores
from raytrain_xai.insight.captions import check_dim, code_direction
from raytrain_xai.insight.model import InsightModel
from raytrain_xai.language.encoder import LanguageEncoder


@dataclass(frozen=True)
class CaptionStudy:
    """Scores of captions of n images.

    Attributes:
        images: n.
        rows: ``encoder`` (captions from its own patches), ``concepts`` (from their reconstruction), each with the
            values of :class:`~raytrain_xai.insight.caption_scores.MentionScores` and
            :class:`~raytrain_xai.insight.caption_scores.VectorScores`; vectors of images are the encoder's in both.
        same: share of the images with one and the same caption from both.
        examples: the first images: their ``labels`` and both captions, ``encoder`` and ``concepts``.
    """

    images: int
    rows: dict[str, dict[str, float]]
    same: float
    examples: list[dict[str, Any]]


@torch.no_grad()
def study_captions(
    model: InsightModel, decoder: TrainedDecoder, path: str, split: str, *, batch_size: int = 32,
    max_images: int | None = None, num_examples: int = 12, advance: Callable[[int], None] = lambda _: None,
) -> CaptionStudy:  # fmt: skip
    """Write and judge captions of the images of a split.

    Categories that the decoder never learned to name count as missed where they are annotated.

    Args:
        path: prepared data set.
        max_images: at even distances; None: all.
        advance: told of every batch that is done, in images.
    Raises:
        ConfigError: the decoder reads other vectors, or there are fewer than two images or no labels.
        DataError: the data set or its split cannot be read.
    """
    check_dim(model, decoder)
    classes = open_dataset(path).classes
    renamed = {name: shown for name, shown in decoder.about["names"].items() if name in classes}
    names = category_names(classes, renamed)
    vectors: dict[str, list[Tensor]] = {"encoder": [], "concepts": []}
    labels: list[Tensor] = []
    side = model.config.image_size or model.encoder.image_size
    batches = evaluation_batches(path, split, side, batch_size, shorter=model.config.eval_resize, max_images=max_images)
    for batch in batches:
        patches = to_vectors(model.encoder.patches(batch.images))
        vectors["encoder"].append(mean_direction(patches))
        vectors["concepts"].append(code_direction(model.sae, model.sae.encode(patches)))
        labels.append(batch.labels > 0)
        advance(len(batch.images))
    images, present = torch.cat(vectors["encoder"]), torch.cat(labels)
    captions = {kind: _write(decoder, torch.cat(parts), batch_size) for kind, parts in vectors.items()}
    rows = {kind: _scores(model.encoder, decoder, own, images, present, names) for kind, own in captions.items()}
    pairs = list(zip(*captions.values(), strict=True))
    examples = [
        {
            "labels": [name for name, there in zip(names, is_there, strict=True) if there],
            **{kind: decoder.text(own[row]) for kind, own in captions.items()},
        }
        for row, is_there in enumerate(present[:num_examples].tolist())
    ]
    return CaptionStudy(len(pairs), rows, sum(a == b for a, b in pairs) / len(pairs), examples)


def _write(decoder: TrainedDecoder, vectors: Tensor, batch_size: int) -> list[tuple[str, ...]]:
    return [words for part in vectors.split(batch_size) for words in decoder.write(part)]


def _scores(
    encoder: LanguageEncoder, decoder: TrainedDecoder, captions: Sequence[Sequence[str]], images: Tensor,
    present: Tensor, names: Sequence[str],
) -> dict[str, float]:  # fmt: skip
    mentions = mention_scores(mentioned(captions, names), present, torch.ones_like(present))
    texts = [decoder.text(words) for words in captions]
    distinct = list(dict.fromkeys(texts))  # captions repeat, and a text encoder is slow
    row = {text: number for number, text in enumerate(distinct)}
    vectors = text_vectors(encoder, distinct)[[row[text] for text in texts]]
    return asdict(mentions) | asdict(vector_scores(vectors, images))
