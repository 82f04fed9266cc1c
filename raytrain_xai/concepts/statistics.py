"""Numbers per concept that people choose by: how specific, how frequent, how large, with which others."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain_xai.concepts.catalogue import CatalogueState
from raytrain_xai.concepts.sparse_sums import SparseSums, strongest_columns

ALWAYS_ON = 0.85  # of the answers; Parchami-Araghi et al., NeurIPS 2025
CLASSES_KEPT = 5  # per concept


@dataclass(frozen=True)
class ConceptStatistics:
    """K concepts, n kept classes.

    Attributes:
        frequency: (K,) float64 in [0, 1], share of images in which the concept is active.
        always_on: (K,) bool, contributes to more than 85 % of the answers.
        mean_contribution: (K,) float64, signed, in units of the logit, over the answers it contributes to; NaN: none.
        entropy: (K,) float64, see :func:`class_entropy`.
        labels, label_shares: (K, n) int64 with -1 for none, (K, n) float64 in [0, 1]: the labels of the images that
            hold most of the activation.
        classes, class_sums: (K, n) as above, signed sums: the answered classes it contributes most to, for or against.
    """

    frequency: Tensor
    always_on: Tensor
    mean_contribution: Tensor
    entropy: Tensor
    labels: Tensor
    label_shares: Tensor
    classes: Tensor
    class_sums: Tensor


def concept_statistics(state: CatalogueState, num_classes: int) -> ConceptStatistics:
    """Statistics of a whole catalogue; ``num_images`` and ``num_answers`` are not 0."""
    num_concepts = state.num_concepts
    labels, mass = strongest_columns(state.label_mass, num_concepts, num_classes, CLASSES_KEPT)
    total = _row_sums(state.label_mass, num_concepts, num_classes)
    classes, class_sums = strongest_columns(state.class_contribution, num_concepts, num_classes, CLASSES_KEPT)
    return ConceptStatistics(
        frequency=state.images.double() / state.num_images,
        always_on=state.contributing.double() / state.num_answers > ALWAYS_ON,
        mean_contribution=state.contribution / state.contributing,
        entropy=class_entropy(state.label_mass, num_concepts, num_classes),
        labels=labels,
        label_shares=torch.where(labels >= 0, mass / total[:, None], 0.0),
        classes=classes,
        class_sums=class_sums,
    )


def totals(state: CatalogueState, statistics: ConceptStatistics) -> dict[str, float]:
    """Numbers over all concepts of a whole catalogue.

    Returns:
        ``images`` and ``answers``; ``alive``, concepts that contribute to any answer; ``always_on`` concepts and
        ``always_on_share``, their part of all positive contributions; ``concepts_per_image``, the mean number of active
        ones; ``concepts_for_80_percent`` of the positive contribution to an answer, on average.
    """
    positive = state.positive.sum()
    always = state.positive[statistics.always_on].sum()
    return {
        "images": int(state.num_images),
        "answers": int(state.num_answers),
        "alive": int((state.contributing > 0).sum()),
        "always_on": int(statistics.always_on.sum()),
        "always_on_share": float(always / positive) if positive > 0 else 0.0,
        "concepts_per_image": int(state.active_concepts) / int(state.num_images),
        "concepts_for_80_percent": int(state.needed_concepts) / int(state.num_answers),
    }


def class_entropy(mass: SparseSums, num_concepts: int, num_classes: int) -> Tensor:
    """H_k = - sum over labels of p_k ln p_k, with p_k(l) the share of the concept's activation in images of label l.

    An image with several labels counts for each of them in equal parts.

    Args:
        mass: (concepts x labels), >= 0.
    Returns:
        (K,) float64 in [0, ln C]: 0 for one class only; NaN for a concept that is active in no labelled image.
    Source: Parchami-Araghi et al., NeurIPS 2025 (arXiv 2510.25512).
    """
    concept, _ = mass.cells(num_classes)
    total = _row_sums(mass, num_concepts, num_classes)
    share = mass.sums / total[concept]
    entropy = torch.zeros_like(total).index_add_(0, concept, -share * share.log())
    return torch.where(total > 0, entropy, torch.nan)


def spatial_size(maps: Tensor, share: float = 0.8) -> Tensor:
    """How many pixels, the strongest first, hold a share of the positive part of a map.

    Args:
        maps: (R, H, W) float, signed contributions of the pixels to S_k.
        share: in (0, 1].
    Returns:
        (R,) int64; 0 for a map without positive part.
    Source: Parchami-Araghi et al., NeurIPS 2025 (arXiv 2510.25512), with 80 %.
    """
    ordered = maps.flatten(1).double().clamp(min=0).sort(dim=1, descending=True).values.cumsum(dim=1)
    total = ordered[:, -1:]
    return ((ordered < share * total).sum(dim=1) + 1) * (total.squeeze(1) > 0)


def partners(counts: Tensor, own: Tensor, positions: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The concepts that are most often active at the positions of each of some concepts.

    Args:
        counts: (m, K) int64, positions at which both are active; 0 for a concept with itself.
        own: (m,) int64, positions of each of the m concepts.
        positions: (K,) int64, positions of every concept.
        count: partners per concept, at most.
    Returns:
        (m, n) int64 partners, -1 for none, in order of their overlap, ties in order of the concepts; (m, n) int64
        common positions; (m, n) float64 overlap in [0, 1]: common positions over positions of either (Jaccard).
    """
    either = own[:, None] + positions[None] - counts
    overlap = counts.double() / either.clamp(min=1)
    order = overlap.sort(dim=1, descending=True, stable=True).indices[:, :count]
    common, overlap = counts.gather(1, order), overlap.gather(1, order)
    return torch.where(common > 0, order, -1), common, overlap


def _row_sums(table: SparseSums, rows: int, columns: int) -> Tensor:
    row, _ = table.cells(columns)
    return table.sums.new_zeros(rows).index_add_(0, row, table.sums)
