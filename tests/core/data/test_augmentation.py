"""Training-from-scratch augmentations: what they do to pixels and boxes, and that only their key decides."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raytrain_xai.data.transforms import Augmentation, Sample, augment, centre, centre_image, mirror, resize


def noise(height: int = 48, width: int = 48) -> Sample:
    image = torch.randint(1, 256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Sample(image, torch.tensor([[8.0, 4.0, 40.0, 44.0]]), torch.tensor([2]), None)


def test_the_default_draws_are_those_of_flip_and_crop_alone() -> None:
    """Mirror first, then share, ratio and place of the crop, all from one generator: earlier runs are repeated."""
    from torchvision.transforms.v2 import functional as F

    for index in range(20):
        generator = np.random.default_rng([5, 1, index, 2])
        is_mirrored = generator.random() < 0.5
        done = augment(noise(), Augmentation("flip"), 48, (5, 1, index))
        assert torch.equal(done.image, (mirror(noise()) if is_mirrored else noise()).image)
        for _ in range(10):
            area = generator.uniform(0.7, 1.0) * 48 * 48
            ratio = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
            w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if w <= 48 and h <= 48:
                break
        top, left = int(generator.integers(48 - h + 1)), int(generator.integers(48 - w + 1))
        expected = F.resized_crop(noise().image, top, left, h, w, [32, 32], antialias=True)
        done = augment(noise(), Augmentation("crop"), 32, (5, 1, index))
        assert torch.equal(done.image, expected.flip(2) if is_mirrored else expected)


def test_shift_moves_pixels_and_boxes_and_fills_black() -> None:
    seen: set[tuple[int, int]] = set()
    for index in range(200):
        done = augment(noise(), Augmentation("shift"), 48, (0, 0, index))
        black = (done.image == 0).all(dim=0)  # the noise has no zeros
        rows, columns = (~black).any(dim=1).nonzero().flatten(), (~black).any(dim=0).nonzero().flatten()
        down = int(rows[0]) or int(rows[-1]) - 47
        right = int(columns[0]) or int(columns[-1]) - 47
        assert abs(down) <= 6 and abs(right) <= 6
        moved = torch.roll(done.image, (-down, -right), (1, 2))
        kept = (slice(None), slice(max(0, -down), 48 - max(0, down)), slice(max(0, -right), 48 - max(0, right)))
        assert any(torch.equal(moved[kept], image[kept]) for image in (noise().image, noise().image.flip(2)))
        box = torch.tensor([8.0 + right, 4.0 + down, 40.0 + right, 44.0 + down]).clamp(0, 48)
        assert torch.equal(done.boxes[0], box)
        seen.add((down, right))
    assert len(seen) > 100, "13 x 13 places"


def test_small_crops_are_as_small_as_asked() -> None:
    """A crop of a wide gradient: the range of values that is left tells the width of the crop."""
    image = torch.arange(200, dtype=torch.uint8).expand(3, 200, 200).contiguous()
    sample = Sample(image, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), None)
    widths = {}
    for area in (0.08, 0.7):
        done = [augment(sample, Augmentation("crop", crop_area=area), 32, (0, 0, i)).image[0, 0] for i in range(60)]
        widths[area] = [int(row.max()) - int(row.min()) for row in done]
    assert min(widths[0.08]) < 80 and min(widths[0.7]) > 135
    assert max(widths[0.08]) > 170


@pytest.mark.parametrize("policy", ["randaugment", "trivialaugment"])
def test_policies_are_functions_of_the_key_and_leave_torchs_generator_alone(policy: str) -> None:
    how = Augmentation(policy=policy)  # type: ignore[arg-type]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = [augment(noise(), how, 48, (0, 0, index)).image for index in range(24)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert all(torch.equal(augment(noise(), how, 48, (0, 0, i)).image, first[i]) for i in range(24))
    assert all(image.dtype == torch.uint8 and image.shape == (3, 48, 48) for image in first)
    changed = sum(not torch.equal(image, noise().image) for image in first)
    assert changed > 12 and len({image.numpy().tobytes() for image in first}) > 12


def test_randaugment_is_torchvisions_with_the_magnitude_given() -> None:
    from torchvision.transforms import InterpolationMode, v2

    for magnitude in (3, 10):
        how = Augmentation(policy="randaugment", magnitude=magnitude)
        seed = int(np.random.default_rng([4, 0, 9, 2]).integers(2**63))
        torch.manual_seed(seed)
        expected = v2.RandAugment(2, magnitude, interpolation=InterpolationMode.BILINEAR)(noise().image)
        assert torch.equal(augment(noise(), how, 48, (4, 0, 9)).image, expected)


def test_erasing_blackens_one_rectangle_of_a_third_at_most() -> None:
    original = noise().image
    erased = 0
    for index in range(200):
        sample = noise()
        done = augment(sample, Augmentation(erase=0.5), 48, (0, 0, index)).image
        assert torch.equal(sample.image, original), "the image may belong to the cache"
        black = (done == 0).all(dim=0)
        assert torch.equal(done[:, ~black], original[:, ~black])
        if black.any():
            erased += 1
            assert torch.equal(black, black.any(dim=1)[:, None] & black.any(dim=0)), "a rectangle"
            assert 0.015 < black.double().mean() < 0.35
    assert 70 < erased < 130


def test_repetitions_differ() -> None:
    images = {augment(noise(), Augmentation("crop"), 32, (0, 0, 3, time)).image.numpy().tobytes() for time in range(4)}
    assert len(images) == 4


def test_centre_is_torchvisions_resize_and_centre_crop() -> None:
    """120 x 80: shorter side to 40 makes 60 x 40; the middle 32 columns and rows start at 14 and 4."""
    from torchvision.transforms import v2

    image = torch.randint(0, 256, (3, 80, 120), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    mask = torch.zeros(80, 120, dtype=torch.uint8)
    mask[20:60, 40:80] = 3
    boxes = torch.tensor([[40.0, 20.0, 80.0, 60.0], [0.0, 0.0, 20.0, 70.0]])
    done = centre(Sample(image, boxes, torch.tensor([2, 5]), mask), 32, 40)
    assert torch.equal(done.image, v2.CenterCrop(32)(v2.Resize(40, antialias=True)(image)))
    assert done.boxes.tolist() == [[6.0, 6.0, 26.0, 26.0]], "the second box lies left of the square"
    assert done.box_labels.tolist() == [2]
    assert done.mask is not None and (done.mask[7:25, 7:25] == 3).all() and done.mask[:5].max() == 0
    assert torch.equal(centre_image(image, 32, 40), done.image)
    assert torch.equal(centre_image(image, 32, None), resize(Sample(image, boxes, boxes[:, 0], None), 32).image)
