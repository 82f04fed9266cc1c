from __future__ import annotations

import math

import pytest
import torch

from raytrain_xai.data.boxes import annotation_subset, class_mask, dilate, rasterise
from raytrain_xai.errors import DataError
from raytrain_xai.types import Batch


def draw(*boxes: tuple[float, ...], size: tuple[int, int] = (4, 6)) -> list[str]:
    """Mask of one image as rows of text."""
    mask = rasterise(torch.tensor([list(boxes)]), torch.ones(1, len(boxes), dtype=torch.bool), size)
    return ["".join("#" if pixel else "." for pixel in row) for row in mask[0].tolist()]


def test_whole_pixel_box_is_half_open() -> None:
    assert draw((1.0, 1.0, 4.0, 3.0)) == ["......", ".###..", ".###..", "......"]


def test_box_to_the_border_holds_the_last_row_and_column() -> None:
    assert draw((3.0, 2.0, 6.0, 4.0)) == ["......", "......", "...###", "...###"]


def test_pixel_belongs_where_its_centre_does() -> None:
    # columns 1 (centre 1.5 >= 1.5) to 3 (3.5 < 3.6); rows 1 (1.5 >= .6) to 1 (2.5 is not < 2.5)
    assert draw((1.5, 0.6, 3.6, 2.5)) == ["......", ".###..", "......", "......"]


def test_union_of_overlapping_boxes() -> None:
    assert draw((0.0, 0.0, 3.0, 2.0), (2.0, 1.0, 4.0, 3.0)) == ["###...", "####..", "..##..", "......"]


@pytest.mark.parametrize(
    "box",
    [(2.0, 2.0, 2.0, 3.0), (2.6, 1.0, 3.4, 3.0), (4.0, 3.0, 1.0, 1.0), (-5.0, -5.0, -1.0, -1.0), (math.nan,) * 4],
    ids=["empty", "between centres", "inverted", "outside", "nan"],
)
def test_degenerate_boxes_draw_nothing(box: tuple[float, ...]) -> None:
    assert draw(box) == ["......"] * 4


def test_box_reaching_over_the_edge_is_cut() -> None:
    assert draw((-3.0, -1.0, 1.0, 9.0)) == ["#....."] * 4


def test_no_boxes_at_all() -> None:
    assert not rasterise(torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool), (3, 5)).any()


def test_agrees_with_slicing_for_many_random_boxes() -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.randint(0, 17, (8, 5, 2, 2), generator=generator).sort(dim=2).values
    boxes = corners.flatten(2).float()  # x0, y0, x1, y1
    keep = torch.rand(8, 5, generator=generator) < 0.7
    expected = torch.zeros(8, 16, 16, dtype=torch.bool)
    for image, row in enumerate(boxes.int().tolist()):
        for box, (x0, y0, x1, y1) in enumerate(row):
            if keep[image, box]:
                expected[image, y0:y1, x0:x1] = True
    assert torch.equal(rasterise(boxes, keep, (16, 16)), expected)


def test_dilation_by_hand() -> None:
    boxes = torch.tensor([[10.0, 20.0, 30.0, 60.0], [0.0, 90.0, 40.0, 100.0], [5.0, 5.0, 5.0, 9.0]])
    # half of 20 x 40; half of 40 x 10, cut at the left and lower border; no width stays no width
    expected = torch.tensor([[0.0, 0.0, 40.0, 80.0], [0.0, 85.0, 60.0, 100.0], [5.0, 3.0, 5.0, 11.0]])
    assert torch.equal(dilate(boxes, 0.5, (100, 200)), expected)
    assert torch.equal(dilate(boxes, 0.0, (100, 200)), boxes)


def make_batch(masks: torch.Tensor | None, has_mask: list[bool]) -> Batch:
    """Two 4 x 4 images: class 1 twice and class 0 once; class 0 once and padding."""
    return Batch(
        images=torch.zeros(2, 3, 4, 4, dtype=torch.uint8),
        labels=torch.tensor([[1.0, 1.0], [1.0, 0.0]]),
        boxes=torch.tensor(
            [
                [[0.0, 0.0, 1.0, 1.0], [3.0, 3.0, 4.0, 4.0], [0.0, 2.0, 4.0, 3.0]],
                [[1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.0]],
            ]
        ),
        box_labels=torch.tensor([[1, 1, 0], [0, -1, -1]]),
        masks=masks,
        has_mask=torch.tensor(has_mask),
        annotated_rows=torch.arange(2),
        groups=torch.full((2,), -1),
        index=torch.arange(2),
        step_size=2,
        step_annotated=2,
    )


def test_class_mask_takes_all_boxes_of_the_class_only() -> None:
    mask = class_mask(make_batch(None, [False, False]), torch.tensor([1, 0]), annotation="boxes", dilation=0.0)
    assert mask[0].nonzero().tolist() == [[0, 0], [3, 3]]
    assert mask[1].nonzero().tolist() == [[1, 1], [1, 2], [2, 1], [2, 2]]


def test_class_mask_of_an_absent_class_is_empty() -> None:
    mask = class_mask(make_batch(None, [False, False]), torch.tensor([0, 1]), annotation="boxes", dilation=0.0)
    assert mask[0].sum() == 4
    assert not mask[1].any()


def test_class_mask_dilates() -> None:
    mask = class_mask(make_batch(None, [False, False]), torch.tensor([1, 0]), annotation="boxes", dilation=0.5)
    assert mask[1].all()  # the 2 x 2 box grows by 1 on every side
    # (0, 0, 1.5, 1.5) holds no further centre, (2.5, 2.5, 4, 4) holds those at 2.5: half-open
    assert mask[0].nonzero().tolist() == [[0, 0], [2, 2], [2, 3], [3, 2], [3, 3]]


def test_class_mask_from_masks_and_from_boxes_where_there_is_none() -> None:
    masks = torch.zeros(2, 4, 4, dtype=torch.uint8)
    masks[0, 2, 1], masks[0, 2, 2], masks[0, 0, 0] = 2, 255, 1  # class 1, void, class 0
    batch = make_batch(masks, [True, False])
    mask = class_mask(batch, torch.tensor([1, 0]), annotation="masks", dilation=0.0)
    assert mask[0].nonzero().tolist() == [[2, 1]]
    assert mask[1].sum() == 4


def test_masks_of_a_data_set_without_any_are_refused() -> None:
    with pytest.raises(DataError, match="annotation=boxes"):
        class_mask(make_batch(None, [False, False]), torch.tensor([1, 0]), annotation="masks", dilation=0.0)


def test_budgets_are_nested_and_have_the_paper_size() -> None:
    one, ten = annotation_subset(2501, 0.01, seed=3), annotation_subset(2501, 0.10, seed=3)
    assert one.sum() == 25  # VOC 2007 in the paper
    assert ten.sum() == 250
    assert (ten | ~one).all()
    assert annotation_subset(2501, 1.0, seed=3).all()
    assert not annotation_subset(2501, 0.0, seed=3).any()
    assert not torch.equal(one, annotation_subset(2501, 0.01, seed=4))
