"""Agreement with super-categories and absorption, by numbers that can be counted."""

from __future__ import annotations

import math

import pytest
import torch

from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.relations import RelationRule, relations
from raytrain_xai.errors import DataError
from raytrain_xai.insight.absorption import absorption, class_concepts
from raytrain_xai.insight.description import Description, describe_images
from raytrain_xai.insight.hierarchy_score import SUPER_CATEGORIES, class_of_concepts, score_hierarchy, super_category

CLASSES = ("dog", "sofa", "cat")
DOG_1, DOG_2, CAT, SOFA, CUSHION, BACKGROUND = range(6)
FLAT = torch.zeros(6, dtype=torch.int64)


def living_room() -> Description:
    """1000 positions: 300 dog, 100 sofa, 200 cat, the rest background."""
    labels = torch.zeros(1000, dtype=torch.uint8)
    labels[:300], labels[300:400], labels[400:600] = 1, 2, 3
    z = torch.zeros(1000, 6)
    z[:300, DOG_1] = 1
    z[:100, DOG_2] = 1  # below dog 1
    z[0:90, CAT] = z[400:600, CAT] = 1  # mostly on cats
    z[300:400, SOFA] = 1
    z[300:360, CUSHION] = 1
    z[700:, BACKGROUND] = 1
    code = SparseCode(z[None], torch.arange(6).expand(1, 1000, 6), 6)
    return describe_images(code, 0, labels[None], len(CLASSES))


def test_classes_of_concepts() -> None:
    assert class_of_concepts(living_room()).tolist() == [0, 0, 2, 1, 1, -1]


def test_agreement_and_chance() -> None:
    """Dog 2 implies dog 1 and, at 90 of 100 positions, cat; cushion implies sofa. More general than dog 2 are dog 1
    and cat (of one super-category, one of one class), than cushion these, dog 2 and sofa (1 of 4 is furniture)."""
    sums = living_room()
    found = relations(sums.seen, FLAT, RelationRule(0.8, 5, 0.5))
    assert [found.parents(k) for k in (DOG_2, CUSHION)] == [(DOG_1, CAT), (SOFA,)]
    score = score_hierarchy(sums, found, FLAT, CLASSES)
    assert (score.labelled, score.relations) == (5, 3)
    assert (score.same_super, score.same_class) == pytest.approx((1, 2 / 3))
    assert score.chance_super == pytest.approx((1 + 1 + 1 / 4) / 3)
    assert score.chance_class == pytest.approx((1 / 2 + 1 / 2 + 1 / 4) / 3)


def test_no_relations_is_no_number() -> None:
    sums = living_room()
    score = score_hierarchy(sums, relations(sums.seen, FLAT, RelationRule(0.8, 1000, 0.5)), FLAT, CLASSES)
    assert score.relations == 0
    assert math.isnan(score.same_super) and math.isnan(score.chance_class)


def test_classes_that_coco_does_not_know() -> None:
    sums = living_room()
    with pytest.raises(DataError, match="no masks of classes of COCO or VOC"):
        score_hierarchy(sums, relations(sums.seen, FLAT), FLAT, ("n01", "n02", "n03"))


def test_super_categories() -> None:
    assert len(SUPER_CATEGORIES) == 80
    assert len(set(SUPER_CATEGORIES.values())) == 12
    assert (super_category("tvmonitor"), super_category("hot dog"), super_category("wug")) == (
        "electronic",
        "food",
        None,
    )


def test_absorption_counted() -> None:
    """300 dog positions: "dog" (value 1) at 240; "pug" at the other 60, and at 30 with "dog"; "grass" off dogs.

    All rows lie along the direction of the class but grass, so evidence is 240 a + 90 b, and 60 b of it is silent.
    """
    labels = torch.zeros(1, 600, dtype=torch.uint8)
    labels[0, :300] = 1
    z = torch.zeros(1, 600, 3)
    z[0, :240, 0] = 1
    z[0, 210:300, 1] = 2
    z[0, 300:, 2] = 1
    code = SparseCode(z, torch.arange(3).expand_as(z), 3)
    sums = describe_images(code, 0, labels, 1)
    dictionary = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])
    concepts = class_concepts(sums, dictionary)
    direction = torch.tensor([240 / 300 + 2 * 90 / 300 * 0.6, 2 * 90 / 300 * 0.8, -300 / 300])
    a, b = dictionary[0] @ direction / direction.norm(), dictionary[1] @ direction / direction.norm()
    assert concepts.main.tolist() == [0]
    assert concepts.f1.tolist() == pytest.approx([2 * 240 / 540])
    assert concepts.evidence.tolist() == [pytest.approx([float(a), float(b), 0])]
    found = absorption(code, labels, concepts)
    assert found.total.tolist() == pytest.approx([float(240 * a + 180 * b)], rel=1e-5)
    assert found.silent.tolist() == pytest.approx([float(120 * b)], rel=1e-5)
    both = found.merge(found)
    assert both.share.tolist() == pytest.approx(found.share.tolist())
    assert both.total.tolist() == pytest.approx([2 * float(found.total)])


def test_small_classes_are_left_out() -> None:
    sums = living_room()
    concepts = class_concepts(sums, torch.eye(6))
    assert concepts.main.tolist() == [DOG_1, SOFA, CAT]
    few = describe_images(
        SparseCode(torch.ones(1, 50, 1), torch.zeros(1, 50, 1, dtype=torch.int64), 2), 0,
        torch.ones(1, 50, dtype=torch.uint8), 1,
    )  # fmt: skip
    nobody = class_concepts(few, torch.eye(2))
    assert (nobody.main.tolist(), nobody.evidence.tolist()) == ([-1], [[0, 0]])
