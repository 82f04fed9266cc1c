"""A served encoder with named concepts: segments of images by text, and the concepts that their scores are made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import FunctionType
from typing import Any, Self

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from raytrain_xai.data.transforms import centre_image
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.insight.contributions import PatchView
from raytrain_xai.insight.described import is_described, read_described
from raytrain_xai.insight.model import InsightModel, load_insight
from raytrain_xai.insight.segment import (
    Background,
    ConstantBackground,
    SegmentPlan,
    Segments,
    WordBackground,
    segment_views,
)
from raytrain_xai.insight.views import see_concepts
from raytrain_xai.run_folder import open_run
from raytrain_xai.serving.insight_jobs import ConceptPart, ImageSegments, SegmentAnswer, SegmentQuestion
from raytrain_xai.serving.label_vectors import LabelVectors
from raytrain_xai.serving.live_names import LiveNames
from raytrain_xai.serving.served_model import ModelKey, RunAddress, synthetic_picture

MAX_LABELS = 64
_TOLERANCE = 1e-4  # of a score in [-1, 1]; float32 leaves 1e-7 to 1e-6
_SCORES_AT_ONCE = 1 << 24  # labels x pixels whose scores are in memory together: 64 MB, a few times


class ServedInsight:
    """A loaded version; :meth:`answer` is for one thread at a time.

    Args:
        key: name and version.
        model: on the device that is to be used; its names may change while it is served.
    """

    def __init__(self, key: ModelKey, model: InsightModel) -> None:
        self.key = key
        self.model = model
        multiple = model.encoder.multiple
        self.image_size = -(-(model.config.image_size or model.encoder.image_size) // multiple) * multiple
        self._vectors = LabelVectors(model.encoder)

    @classmethod
    def load(cls, key: ModelKey, address: RunAddress, device: torch.device | str = "cpu") -> Self:
        """Read a run.

        Raises:
            ConfigError: not a concept run of an encoder, its encoder is not there, or ``also`` is given.
            CheckpointError: no checkpoint, it is damaged, or the run was described with another one.
            DataError: its description is damaged.
        """
        if address.also:
            raise ConfigError(
                f"{address.run} has the concepts of an encoder, which are in one layer; got {address.also}"
            )
        at = open_run(address.run)
        model = load_insight(address.run, device=device)
        if is_described(at) and read_described(at).subject.fingerprint != model.fingerprint:
            raise CheckpointError(
                f"{address.run} was described with another checkpoint, so parents and pictures are of other concepts; "
                f"describe it again: raytrain-xai insight describe {address.run}"
            )
        served = cls(key, replace(model, names=LiveNames(at)))
        served.text_vector("picture")  # text sides are read when they are first used, and count as memory
        return served

    @property
    def operations(self) -> tuple[str, ...]:
        """What it can be asked."""
        return ("segment", "search")

    @property
    def nbytes(self) -> int:
        """Parameters, buffers and tensors of encoder and dictionary."""
        tensors = {value.data_ptr(): value.nbytes for value in _tensors_of((self.model.encoder, self.model.sae))}
        return sum(tensors.values())

    def prepare(self, picture: Image.Image) -> Tensor:
        """What the encoder sees of an RGB picture of any size: all of it as a square, (3, S, S) uint8 on the CPU."""
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        return centre_image(pixels, self.image_size, None)

    def seen(self, width: int, height: int) -> tuple[float, float, float, float]:
        """Part of a picture that the encoder sees: left, top, right, bottom in pixels; all of it."""
        return (0.0, 0.0, float(width), float(height))

    def check(self, question: SegmentQuestion) -> None:
        """Make sure that a question can be answered.

        Raises:
            ConfigError: empty, repeated or too many texts, two backgrounds, or a background without labels.
        """
        texts = (*question.labels, *question.background)
        for text in texts:
            _require_words(text)
        if len(set(texts)) < len(texts):
            raise ConfigError("a text is given twice; labels and background have to differ")
        if len(texts) > MAX_LABELS:
            raise ConfigError(f"{len(texts)} texts for labels and background; at most {MAX_LABELS} are compared")
        has_score = question.background_score is not None
        if has_score and question.background:
            raise ConfigError("two backgrounds, words and a score; give one of them")
        if (has_score or question.background) and not question.labels:
            raise ConfigError("a background without labels; name what it is the background of")

    def answer(self, images: Tensor, questions: Sequence[SegmentQuestion]) -> list[ImageSegments]:
        """Answer one question per image; all share a pass through the encoder.

        Args:
            images: (B, 3, S, S) uint8 as :meth:`prepare` makes them.
            questions: one per image, each checked by :meth:`check`.
        Raises:
            CheckpointError: patches that are not finite.
        """
        images = images.to(self.model.encoder.device)
        view = see_concepts(self.model)(images)
        if not bool(view.vectors.isfinite().all()):
            raise CheckpointError(f"{self.key} finds patches that are not finite; its weights are broken")
        found: dict[int, ImageSegments] = {}
        for question in dict.fromkeys(questions):
            rows = [row for row, other in enumerate(questions) if other == question]
            texts = max(1, len(question.labels) + len(question.background))
            step = max(1, _SCORES_AT_ONCE // (texts * self.image_size**2))
            for start in range(0, len(rows), step):
                part = rows[start : start + step]
                chosen = torch.tensor(part, device=images.device)
                found |= zip(part, self._segmented(images[chosen], _rows_of(view, chosen), question), strict=True)
        return [found[row] for row in range(len(questions))]

    def text_vector(self, text: str) -> Tensor:
        """Unit text vector (D,), as labels have it.

        Raises:
            ConfigError: no words.
        """
        _require_words(text)
        with torch.no_grad():
            return self._vectors([text])[0]

    def self_check(self) -> None:
        """Segment a fixed picture, and see that contributions of concepts add up to the scores.

        Raises:
            CheckpointError: scores are not finite, or a sum that must hold does not.
        """
        image = synthetic_picture(self.image_size)[None]
        (answer,) = self.answer(image, [SegmentQuestion(labels=("sky", "animal"), top=1)])
        for segment in answer.segments:
            if not segment.residual <= _TOLERANCE:
                raise CheckpointError(
                    f"contributions of {self.key} miss their score by {segment.residual:.3g}, expected at most "
                    f"{_TOLERANCE}; its weights are broken"
                )

    def warm_up(self) -> None:
        """Nothing is left to do after :meth:`self_check`, which chooses kernels and loads the text side."""

    def _segmented(self, images: Tensor, view: PatchView, question: SegmentQuestion) -> list[ImageSegments]:
        """Images with one question; ``view`` is theirs."""
        assert view.code is not None
        code = replace(view.code, values=view.code.values.cpu(), indices=view.code.indices.cpu())
        one_by_one = [replace(code, values=v, indices=i) for v, i in zip(code.values, code.indices, strict=True)]
        used = [sorted(set(one.indices[one.values > 0].tolist())) for one in one_by_one]
        names = [{concept: self.model.name(concept) for concept in own} for own in used]
        labels: list[Tensor | None] = [None] * len(images)
        segments: list[list[SegmentAnswer]] = [[] for _ in labels]
        if question.labels:
            plan = SegmentPlan(
                self.model.encoder.logit_scale, self.image_size, self.model.encoder.multiple, self._background(question)
            )
            with torch.no_grad():
                texts = self._vectors(question.labels)
                divided = segment_views(lambda _: view, images, texts, plan, model=self.model)
            labels = list(divided.labels.to(torch.uint8).cpu())
            assert divided.segments is not None
            for image, answer in self._answers(divided.segments, question.top):
                segments[image].append(answer)
        return [
            ImageSegments(drawn, tuple(sorted(own, key=lambda one: -one.share)), one, view.size, named)
            for drawn, own, one, named in zip(labels, segments, one_by_one, names, strict=True)
        ]

    def _background(self, question: SegmentQuestion) -> Background | None:
        if question.background:
            return WordBackground(self._vectors(question.background))
        return None if question.background_score is None else ConstantBackground(question.background_score)

    def _answers(self, segments: Segments, top: int) -> Iterator[tuple[int, SegmentAnswer]]:
        """Image and answer of every segment."""
        parts = segments.contributions
        _, order = parts.concept.abs().topk(min(top, parts.concept.shape[1]), dim=1)
        shown = parts.concept.gather(1, order)
        num_rest = (parts.concept != 0).sum(dim=1) - (shown != 0).sum(dim=1)
        columns = (
            segments.image, segments.label, segments.pixels / self.image_size**2, segments.score, parts.bias,
            order, shown, num_rest, parts.concept.double().sum(dim=1) - shown.double().sum(dim=1),
        )  # fmt: skip
        for image, label, share, score, bias, ids, values, count, rest in zip(
            *(column.tolist() for column in columns), strict=True
        ):
            used = [(k, value) for k, value in zip(ids, values, strict=True) if value != 0]
            concepts = tuple(ConceptPart(k, self.model.name(k), value) for k, value in used)
            residual = abs(score - bias - rest - sum(value for _, value in used))
            yield image, SegmentAnswer(label, share, score, bias, concepts, (count, rest), residual)


def _require_words(text: str) -> None:
    if not text.strip() or not text.isprintable():
        raise ConfigError(f"{text!r} is no text that an image could show; give words")


def _rows_of(view: PatchView, rows: Tensor) -> PatchView:
    assert view.code is not None
    return PatchView(view.vectors.index_select(0, rows), view.size, view.code.rows(rows))


def _tensors_of(holders: Sequence[Any]) -> Iterator[Tensor]:
    """Tensors that objects hold: of modules, and of attributes of dataclasses and of our own objects at any depth.

    What a function closes over is held as well: encoders keep their image side in one.
    """
    for held in holders:
        if isinstance(held, Tensor):
            yield held
        elif isinstance(held, nn.Module):
            yield from held.parameters()
            yield from held.buffers()
        elif isinstance(held, FunctionType):
            yield from _tensors_of([cell.cell_contents for cell in held.__closure__ or ()])
        elif dataclasses.is_dataclass(held) or type(held).__module__.startswith("raytrain_xai."):
            yield from _tensors_of(list(vars(held).values()))
