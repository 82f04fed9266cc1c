"""Does the hierarchy join what belongs together? Relations of concepts against super-categories of labelled positions.

A concept belongs to the class whose masks hold most of its activation, if they hold at least half of it. A relation
agrees when child and parent belong to one class, or to classes of one super-category (of COCO: animal, vehicle, ...).
Chance is the agreement that parents have which are drawn from all labelled concepts more general than the child: where
nearly everything is an animal, so is nearly every parent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from raytrain_xai.concepts.relations import Relations, generality
from raytrain_xai.errors import DataError
from raytrain_xai.insight.description import Description

PURITY = 0.5  # share of a concept's labelled activation that its class holds

_COCO = {
    "person": "person",
    "vehicle": "bicycle car motorcycle airplane bus train truck boat",
    "outdoor": "traffic light/fire hydrant/stop sign/parking meter/bench",
    "animal": "bird cat dog horse sheep cow elephant bear zebra giraffe",
    "accessory": "backpack umbrella handbag tie suitcase",
    "sports": "frisbee/skis/snowboard/sports ball/kite/baseball bat/baseball glove/skateboard/surfboard/tennis racket",
    "kitchen": "bottle/wine glass/cup/fork/knife/spoon/bowl",
    "food": "banana/apple/sandwich/orange/broccoli/carrot/hot dog/pizza/donut/cake",
    "furniture": "chair/couch/potted plant/bed/dining table/toilet",
    "electronic": "tv/laptop/mouse/remote/keyboard/cell phone",
    "appliance": "microwave oven toaster sink refrigerator",
    "indoor": "book/clock/vase/scissors/teddy bear/hair drier/toothbrush",
}
_VOC = {
    "aeroplane": "airplane", "diningtable": "dining table", "motorbike": "motorcycle", "pottedplant": "potted plant",
    "sofa": "couch", "tvmonitor": "tv",
}  # fmt: skip
SUPER_CATEGORIES: Mapping[str, str] = {
    name: above for above, names in _COCO.items() for name in names.split("/" if "/" in names else " ")
}
"""COCO category -> super-category; the classes of VOC are known by their COCO names (:func:`super_category`)."""


@dataclass(frozen=True)
class HierarchyScore:
    """Agreement of relations with super-categories.

    Attributes:
        labelled: concepts that belong to a class with a super-category.
        relations: relations between two of them.
        same_super, same_class: share of these within a super-category and within a class, in [0, 1]; NaN without any.
        chance_super, chance_class: what these shares would be for parents drawn at random.
    """

    labelled: int
    relations: int
    same_super: float
    chance_super: float
    same_class: float
    chance_class: float


def super_category(name: str) -> str | None:
    """Super-category of a class of COCO or VOC, None for another one."""
    return SUPER_CATEGORIES.get(_VOC.get(name, name))


def class_of_concepts(sums: Description) -> Tensor:
    """(K,) int64, the class in [0, C) to which each concept belongs, -1 for none."""
    columns = len(sums.class_positions)
    concept, column = sums.on_class.cells(columns)
    mass = torch.zeros(sums.seen.num_latents, columns, dtype=torch.float64)
    mass[concept, column] = sums.on_class.sums[:, 1]
    most, chosen = mass.max(dim=1)
    return torch.where((most > 0) & (most >= PURITY * mass.sum(dim=1)), chosen - 1, -1)


def score_hierarchy(sums: Description, relations: Relations, groups: Tensor, classes: Sequence[str]) -> HierarchyScore:
    """Compare relations with the super-categories of COCO.

    Args:
        sums: over images with masks.
        groups: (K,) int64, Matryoshka group of each concept.
        classes: names of the classes of the masks.
    Raises:
        DataError: no masks, or none of their classes is one of COCO or VOC.
    """
    names = [super_category(name) for name in classes]
    known = sorted({name for name in names if name})
    if not known or not bool(sums.class_positions[1:].any()):
        raise DataError(
            "the images have no masks of classes of COCO or VOC, which the hierarchy is compared with; describe the "
            "run on such data with --data"
        )
    above = torch.tensor([known.index(name) if name else -1 for name in names] + [-1])  # the last one: no class
    own_class = class_of_concepts(sums)
    own_super = above[own_class]
    own_class = torch.where(own_super >= 0, own_class, -1)
    both = (own_class[relations.child] >= 0) & (own_class[relations.parent] >= 0)
    child, parent = relations.child[both], relations.parent[both]
    rank = generality(relations.frequency, groups)
    return HierarchyScore(
        labelled=int((own_class >= 0).sum()),
        relations=len(child),
        same_super=_agreement(own_super, child, parent),
        chance_super=_chance(own_super, child, relations, rank),
        same_class=_agreement(own_class, child, parent),
        chance_class=_chance(own_class, child, relations, rank),
    )


def _agreement(own: Tensor, child: Tensor, parent: Tensor) -> float:
    return float((own[child] == own[parent]).double().mean())


def _chance(own: Tensor, child: Tensor, relations: Relations, rank: Tensor) -> float:
    """Mean over the children of the share of possible parents in the same one."""
    stands = relations.same_as == torch.arange(relations.num_latents)
    frequent = relations.frequency >= relations.rule.min_positions
    rare_enough = relations.frequency <= relations.rule.max_frequency * relations.positions
    possible = (own >= 0) & stands & frequent & rare_enough
    shares = [
        (own[others] == own[one]).double().mean()
        for one in child.tolist()
        if bool((others := possible & (rank < rank[one])).any())
    ]
    return float(torch.stack(shares).mean()) if shares else torch.nan
