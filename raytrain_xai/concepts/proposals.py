"""Names for concepts, proposed from the labels of the images in which they are active.

A proposal says what the numbers say and no more: ``cat 2`` is the second strongest concept whose activation lies
mostly in images labelled cat, and far more so than that of concepts at large. It does not say that the concept shows
cats: look at its pictures, and give it a better name. Concepts that are not specific get none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from raytrain_xai.concepts.sparse_sums import SparseSums

LEAST_IMAGES = 5  # in which a concept is active; fewer show no rule
LIFT = 2.0  # share of a label in the activation of a concept, over its share in the activation of all concepts
ONE_CLASS = 0.5  # least share of the label that names a concept alone
EACH_OF_TWO, BOTH_OF_TWO = 0.25, 0.7  # least shares of two labels that name a concept together

_Share = tuple[float, int]  # share of a concept's activation, label


def propose_names(label_mass: SparseSums, images: Tensor, classes: Sequence[str]) -> dict[int, str]:
    """Names of the concepts that are specific to one class or to two.

    A label is *specific* to a concept when its share in the concept's activation is at least twice its share in the
    activation of all concepts. A concept with a specific label of at least 50 % is named after it; one with two
    specific labels of at least 25 % each and 70 % together after both, the larger first. Concepts of one name are
    numbered by their activation, the largest first.

    Args:
        label_mass: (concepts x labels), see :class:`~raytrain_xai.concepts.catalogue.CatalogueState`.
        images: (K,) int64, images in which each concept is active; below five no name is proposed.
        classes: label names.
    Returns:
        Concept -> name, in order of the concepts; no name twice.
    """
    concept, label = label_mass.cells(len(classes))
    of_concept = label_mass.sums.new_zeros(len(images)).index_add_(0, concept, label_mass.sums)
    of_label = label_mass.sums.new_zeros(len(classes)).index_add_(0, label, label_mass.sums)
    share = label_mass.sums / of_concept[concept]
    is_specific = share >= LIFT * (of_label / of_label.sum())[label]
    kept = is_specific & (share >= EACH_OF_TWO) & (images[concept] >= LEAST_IMAGES)
    found: dict[int, list[_Share]] = {}
    for k, part, name in zip(concept[kept].tolist(), share[kept].tolist(), label[kept].tolist(), strict=True):
        found.setdefault(k, []).append((part, name))
    stems = {k: " + ".join(classes[name] for name in _choose(shares)) for k, shares in found.items() if _choose(shares)}
    strength = of_concept.tolist()
    seen: Counter[str] = Counter()
    names: dict[int, str] = {}
    for k in sorted(stems, key=lambda k: (-strength[k], k)):
        seen[stems[k]] += 1
        names[k] = f"{stems[k]} {seen[stems[k]]}"
    return dict(sorted(names.items()))


def _choose(shares: list[_Share]) -> list[int]:
    """The one or two labels that name a concept, or none."""
    ordered = sorted(shares, key=lambda entry: (-entry[0], entry[1]))
    if ordered[0][0] >= ONE_CLASS:
        return [ordered[0][1]]
    if len(ordered) > 1 and ordered[0][0] + ordered[1][0] >= BOTH_OF_TWO:
        return [label for _, label in ordered[:2]]
    return []
