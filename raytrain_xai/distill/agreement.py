"""How far a student agrees with its teacher, and whether for the same reasons: measured over a split.

Everything is compared on the images as evaluation sees them, with the explanation of the class that the *teacher*
ranks first, for both networks (Parchami-Araghi et al., ECCV 2024, arXiv 2402.03119).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from raytrain_xai.attribution.tapped import tapped_pass
from raytrain_xai.distill.explanation import TAPS, explanation
from raytrain_xai.distill.losses import explanation_loss, kd_loss
from raytrain_xai.errors import DataError
from raytrain_xai.field_sums import FieldSums
from raytrain_xai.models.network import Network, evaluation_mode
from raytrain_xai.types import Batch

if TYPE_CHECKING:
    from raytrain_xai.distill.teacher import Teacher

_GRAIN = 2.0**24  # summed values are multiples of 2^-24, so that float64 adds them up without error up to 2^29


@dataclass(frozen=True)
class AgreementState(FieldSums):
    """Part of a comparison. Sums are exact, so neither the order nor the number of the parts changes a metric.

    Attributes:
        count: () int64, images.
        agreed: () int64, images whose largest logit is of the same class in both networks.
        decisions: () int64, (image, class) pairs.
        decided_alike: () int64, pairs with both logits >= 0 or both below.
        divergence: () float64, sum over images of KL(teacher || student) of the softmax of the logits, in nats.
        maps: () int64, images where neither explanation is empty.
        similarity: () float64, sum over those of the cosine of the two explanations.
    """

    count: Tensor
    agreed: Tensor
    decisions: Tensor
    decided_alike: Tensor
    divergence: Tensor
    maps: Tensor
    similarity: Tensor

    @classmethod
    def empty(cls, device: torch.device) -> Self:
        """State of no images."""
        count = torch.zeros((), dtype=torch.int64, device=device)
        total = torch.zeros((), dtype=torch.float64, device=device)
        return cls(count, count, count, count, total, count, total)


@torch.no_grad()
def evaluate_agreement(
    student: Network, teacher: Teacher, batches: Iterable[Batch], *, device: torch.device
) -> AgreementState:
    """Compare a student, which is on ``device`` already, with its teacher: one pass of both over the batches.

    The student is in evaluation mode meanwhile.

    Args:
        teacher: its kind of explanation is the student's too.
        batches: of a whole split or of a worker's share.
    Returns:
        State on ``device``; of no images when ``batches`` is empty.
    Raises:
        ConfigError: the student has no explanation of this kind.
    """
    parts = [AgreementState.empty(device)]
    with evaluation_mode(student):
        for loaded in batches:
            batch = loaded.to(device)
            answer = teacher(batch, with_maps=True)
            assert answer.maps is not None
            tapped = tapped_pass(student, batch.images, TAPS[teacher.kind])
            maps = explanation(student, tapped, answer.logits.argmax(dim=1), kind=teacher.kind)
            parts.append(_state_of(tapped.logits, answer.logits, maps, answer.maps))
    return parts[0].merge(*parts[1:])


def summarise_agreement(state: AgreementState, task: str) -> dict[str, float]:
    """Metrics of a state.

    Args:
        state: of the whole split.
        task: ``multiclass`` or ``multilabel``.
    Returns:
        ``agreement``, share of images with the same first class; for several labels ``decision_agreement``, the mean
        over classes of the share of equal decisions at logit 0; ``similarity``, mean cosine of the explanations in
        [-1, 1] over the images where neither is empty (left out where there is none); ``empty_explanations``, share of
        the other images, lower is better; ``divergence``, mean KL from the teacher in nats, >= 0, lower is better.
    Raises:
        DataError: the state holds no image.
    """
    count, maps = int(state.count), int(state.maps)
    if count == 0:
        raise DataError("nothing to compare: the split has no samples; look at it with `raytrain-xai data info`")
    metrics = {"agreement": int(state.agreed) / count}
    if task == "multilabel":
        metrics["decision_agreement"] = int(state.decided_alike) / int(state.decisions)
    if maps:
        metrics["similarity"] = float(state.similarity) / maps
    metrics["empty_explanations"] = 1 - maps / count
    metrics["divergence"] = float(state.divergence) / count
    return metrics


def _state_of(student: Tensor, teacher: Tensor, student_maps: Tensor, teacher_maps: Tensor) -> AgreementState:
    """State of one batch: logits (B, C) of both, and their explanations (B, D, h, w)."""
    # in double: in single precision the cosine of two equal maps of many entries differs from 1 in the sixth digit
    distance, is_empty = explanation_loss(student_maps.double(), teacher_maps.double())
    alike = (student >= 0) == (teacher >= 0)
    is_agreed = student.argmax(dim=1) == teacher.argmax(dim=1)
    return AgreementState(
        count=torch.ones_like(is_agreed, dtype=torch.int64).sum(),
        agreed=is_agreed.sum(),
        decisions=torch.ones_like(alike, dtype=torch.int64).sum(),
        decided_alike=alike.sum(),
        divergence=_exact_sum(kd_loss(student, teacher, 1.0)),
        maps=(~is_empty).sum(),
        similarity=_exact_sum(torch.where(is_empty, 0.0, 1 - distance)),
    )


def _exact_sum(values: Tensor) -> Tensor:
    """Sum of (B,) float, rounded to multiples of 2^-24 first, free of rounding error and so of order; () float64."""
    return ((values.to(torch.float64) * _GRAIN).round() / _GRAIN).sum()
