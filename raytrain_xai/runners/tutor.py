"""The teacher of a run: how it answers in training and in evaluation, and which one it is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from raytrain_xai.config import RunConfig
from raytrain_xai.data.dataset import DatasetInfo
from raytrain_xai.distill.agreement import AgreementState, evaluate_agreement, summarise_agreement
from raytrain_xai.distill.explanation import check_pair, default_kind
from raytrain_xai.distill.teacher import LiveTeacher, StoredTeacher, Teacher
from raytrain_xai.distill_teacher import load_teacher
from raytrain_xai.errors import CheckpointError
from raytrain_xai.models.network import Network
from raytrain_xai.runners.collective import gather_tensors
from raytrain_xai.types import Batch

TEACHER = "teacher"
"""Key of the teacher's fingerprint in the state of a checkpoint."""


@dataclass(frozen=True)
class Tutor:
    """A teacher at work.

    Attributes:
        answers: what the student learns from, live or stored.
        measures: the same network in full precision, which the student is compared with on other images.
        source: its address.
        fingerprint: of its weights.
    """

    answers: Teacher
    measures: LiveTeacher
    source: str
    fingerprint: str

    @property
    def network(self) -> Network:
        """The teacher itself."""
        return self.measures.network


def build_tutor(student: Network, config: RunConfig, info: DatasetInfo, device: torch.device) -> Tutor | None:
    """Load the teacher that ``config.distill`` names, None without that section.

    Its weights are laid out as the student's, see ``channels_last``.

    Args:
        student: to be trained.
        info: its classes are the student's.
        device: where the teacher is put.
    Raises:
        ConfigError: no such teacher, other classes, or explanations that cannot be compared.
        CheckpointError: its weights cannot be used.
    """
    distill = config.distill
    if distill is None:
        return None
    teacher = load_teacher(distill.teacher, info.classes, device=device)
    if config.channels_last:
        teacher.network.net.to(memory_format=torch.channels_last)
    kind = distill.explanation or default_kind(student, teacher.network)
    check_pair(student, teacher.network, kind)
    answers = LiveTeacher(teacher.network, kind, distill.precision) if distill.cache is None else StoredTeacher(kind)
    return Tutor(answers, LiveTeacher(teacher.network, kind), distill.teacher, teacher.fingerprint)


def measure_agreement(
    student: Network, tutor: Tutor, batches: Iterable[Batch], *, task: str, device: torch.device
) -> dict[str, float]:
    """Agreement of a student with its teacher on a whole split. A collective; equal on all workers.

    Args:
        batches: this worker's share.
        task: multiclass or multilabel.
    Returns:
        see :func:`raytrain_xai.distill.agreement.summarise_agreement`.
    """
    state = evaluate_agreement(student, tutor.measures, batches, device=device)
    first, *others = [AgreementState.from_tensors(part) for part in gather_tensors(state.to_tensors(), device)]
    return summarise_agreement(first.merge(*others), task)


def check_same_teacher(before: str, tutor: Tutor) -> None:
    """Refuse to go on with another teacher than a checkpoint was made with.

    Args:
        before: fingerprint in the state of the checkpoint, its key ``TEACHER``.
        tutor: the teacher that is there now.
    Raises:
        CheckpointError: they differ.
    """
    if before != tutor.fingerprint:
        raise CheckpointError(
            f"distill.teacher={tutor.source} has other weights (fingerprint {tutor.fingerprint[:12]}) than the teacher "
            f"this run learned from ({before[:12]}); bring that one back, or train under a new name"
        )
