"""What was found in images by text and by concepts, as JSON."""

from __future__ import annotations

import io
from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from raytrain_xai.serving.insight_jobs import ImageSegments, SegmentAnswer
from serve.insight_options import SegmentOptions
from serve.insight_schemas import ActiveConcept, ConceptPart, LabelMap, OtherParts, Patches, Segment, SegmentedImage
from serve.intake import Seen
from serve.maps import base64_of

_DIGITS = 6  # of a value that counts


def segmented_images(
    seen: Sequence[Seen], answers: Sequence[ImageSegments], options: SegmentOptions
) -> list[SegmentedImage]:
    """All images of a request; blocks while maps are encoded."""
    return [
        SegmentedImage(
            image=one.info, labels=list(options.labels),
            segments=[_segment(segment, options.labels) for segment in answer.segments],
            map=None if answer.labels is None else _label_map(answer.labels),
            patches=_patches(answer) if options.patches else None,
        )
        for one, answer in zip(seen, answers, strict=True)
    ]  # fmt: skip


def _segment(one: SegmentAnswer, labels: Sequence[str]) -> Segment:
    count, contribution = one.rest
    return Segment(
        label=labels[one.label], index=one.label, share=one.share, score=one.score, bias=one.bias,
        concepts=[ConceptPart(id=part.id, name=part.name, contribution=part.contribution) for part in one.concepts],
        rest=OtherParts(count=count, contribution=contribution), residual=one.residual,
    )  # fmt: skip


def _label_map(labels: Tensor) -> LabelMap:
    buffer = io.BytesIO()
    Image.fromarray(labels.numpy()).save(buffer, format="PNG")
    return LabelMap(height=labels.shape[0], width=labels.shape[1], data=base64_of(buffer.getvalue()))


def _patches(answer: ImageSegments) -> Patches:
    values, order = answer.code.values.sort(dim=1, descending=True, stable=True)
    indices = answer.code.indices.gather(1, order)
    cells = [
        [(concept, _rounded(value)) for concept, value in zip(own, theirs, strict=True) if value > 0]
        for own, theirs in zip(indices.tolist(), values.tolist(), strict=True)
    ]
    peaks = torch.zeros(answer.code.num_latents).scatter_reduce(0, indices.flatten(), values.flatten().float(), "amax")
    active = peaks.nonzero().flatten()
    ranked = active[peaks[active].argsort(descending=True, stable=True)].tolist()
    return Patches(
        height=answer.size[0], width=answer.size[1], cells=cells,
        concepts=[ActiveConcept(id=k, name=answer.names[k], peak=_rounded(float(peaks[k]))) for k in ranked],
    )  # fmt: skip


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
