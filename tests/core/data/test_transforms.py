"""Boxes and masks must stay on the pixels they were drawn on."""

from __future__ import annotations

import pytest
import torch

from raytrain_xai.data.transforms import Augmentation, Sample, augment, mirror, resize


def bounding_box(region: torch.Tensor) -> list[float]:
    rows, columns = region.any(dim=1).nonzero().flatten(), region.any(dim=0).nonzero().flatten()
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def make_sample(width: int = 90, height: int = 60) -> Sample:
    """A white rectangle of class 4 on black, with its mask and box."""
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    mask = torch.zeros(height, width, dtype=torch.uint8)
    image[:, 20:44, 30:72] = 255
    mask[20:44, 30:72] = 5
    return Sample(image, torch.tensor([[30.0, 20.0, 72.0, 44.0]]), torch.tensor([4]), mask)


def test_resize_by_hand() -> None:
    small = resize(make_sample(), 30)  # x / 3, y / 2
    assert small.image.shape == (3, 30, 30)
    assert small.image.dtype == torch.uint8
    assert small.boxes.tolist() == [[10.0, 10.0, 24.0, 22.0]]
    assert small.mask is not None
    assert bounding_box(small.mask == 5) == [10.0, 10.0, 24.0, 22.0]
    assert (small.image[0, 11:21, 11:23] == 255).all()
    assert small.image[0, :9].max() == 0


def test_mirror_by_hand() -> None:
    turned = mirror(make_sample())
    assert turned.boxes.tolist() == [[18.0, 20.0, 60.0, 44.0]]  # 90 - 72, 90 - 30
    assert turned.mask is not None
    assert bounding_box(turned.mask == 5) == [18.0, 20.0, 60.0, 44.0]
    assert torch.equal(turned.image, make_sample().image.flip(2))
    twice = mirror(turned)
    assert torch.equal(twice.boxes, make_sample().boxes)


def test_crops_move_boxes_and_masks_with_the_pixels() -> None:
    seen: set[tuple[float, ...]] = set()
    for index in range(40):
        sample = augment(make_sample(), Augmentation("crop"), 64, (0, 0, index))
        assert sample.image.shape == (3, 64, 64)
        assert sample.mask is not None
        box = torch.tensor(bounding_box(sample.mask == 5))
        white = torch.tensor(bounding_box(sample.image[0] > 127))
        assert (sample.boxes[0] - box).abs().max() <= 1.0  # nearest mask pixels against exact corners
        assert (sample.boxes[0] - white).abs().max() <= 1.0
        seen.add(tuple(sample.boxes[0].tolist()))
    assert len(seen) > 25  # some draws do not fit into a 3 : 2 image, which is then taken whole


def test_flip_mirrors_about_half_of_the_samples() -> None:
    plain = resize(make_sample(), 45).boxes
    moved = [
        not torch.equal(augment(make_sample(), Augmentation("flip"), 45, (0, 0, i)).boxes, plain) for i in range(200)
    ]
    assert 70 < sum(moved) < 130


def test_randomness_is_a_function_of_the_key() -> None:
    first = augment(make_sample(), Augmentation("crop"), 32, (7, 2, 11))
    torch.manual_seed(123)
    again = augment(make_sample(), Augmentation("crop"), 32, (7, 2, 11))
    assert torch.equal(first.image, again.image)
    for key in ((8, 2, 11), (7, 3, 11), (7, 2, 12)):
        assert not torch.equal(augment(make_sample(), Augmentation("crop"), 32, key).image, first.image)


def test_boxes_cut_away_by_a_crop_are_gone() -> None:
    sample = make_sample()
    corner = Sample(
        sample.image, torch.tensor([[0.0, 0.0, 3.0, 3.0], [30.0, 20.0, 72.0, 44.0]]), torch.tensor([1, 4]), None
    )
    counts = {len(augment(corner, Augmentation("crop"), 64, (0, 0, index)).boxes) for index in range(40)}
    assert counts == {1, 2}
    for index in range(40):
        cut = augment(corner, Augmentation("crop"), 64, (0, 0, index))
        assert len(cut.boxes) == len(cut.box_labels)
        assert (cut.boxes[:, 2:] - cut.boxes[:, :2]).min() >= 1
        assert cut.boxes.min() >= 0
        assert cut.boxes.max() <= 64


@pytest.mark.parametrize("mode", ["none", "flip", "crop"])
def test_samples_without_boxes_and_mask(mode: str) -> None:
    sample = Sample(make_sample().image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), None)
    done = augment(sample, Augmentation(mode), 32, (0, 0, 0))  # type: ignore[arg-type]
    assert done.boxes.shape == (0, 4)
    assert done.mask is None


def test_agrees_with_the_v2_pipeline_of_torchvision() -> None:
    """Same crop through torchvision's own transform of an image, with the parameters that we drew."""
    from torchvision.transforms import v2

    image = torch.randint(0, 256, (3, 50, 70), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    sample = Sample(image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), None)
    assert torch.equal(resize(sample, 33).image, v2.Resize((33, 33), antialias=True)(image))
