"""What a pass over images sums up, against a loop over positions."""

from __future__ import annotations

import pytest
import torch

from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.insight.description import VOID, Description, describe_images, patch_labels

LATENTS, CLASSES, IMAGES, POSITIONS = 9, 3, 5, 12


def random_code(seed: int = 0) -> SparseCode:
    generator = torch.Generator().manual_seed(seed)
    indices = torch.rand(IMAGES, POSITIONS, LATENTS, generator=generator).topk(4, dim=2).indices
    values = (torch.rand(IMAGES, POSITIONS, 4, generator=generator) - 0.3).clamp(min=0)
    return SparseCode(values, indices, LATENTS)


def random_labels() -> torch.Tensor:
    labels = torch.randint(0, CLASSES + 1, (IMAGES, POSITIONS), generator=torch.Generator().manual_seed(1))
    labels[2] = VOID
    return labels.to(torch.uint8)


def test_activation_on_classes() -> None:
    code, labels = random_code(), random_labels()
    found = describe_images(code, 0, labels, CLASSES)
    z = code.dense().double()
    assert found.class_positions.tolist() == [int((labels == c).sum()) for c in range(CLASSES + 1)]
    latent, column = found.on_class.cells(CLASSES + 1)
    table = torch.zeros(LATENTS, CLASSES + 1, 2, dtype=torch.float64)
    table[latent, column] = found.on_class.sums
    for k in range(LATENTS):
        for c in range(CLASSES + 1):
            own = z[..., k][labels == c]
            assert table[k, c].tolist() == pytest.approx([int((own > 0).sum()), float(own.sum())])


def test_any_division_of_the_images_gives_the_same() -> None:
    code, labels = random_code(), random_labels()
    whole = describe_images(code, 0, labels, CLASSES).to_tensors()
    parts = [
        describe_images(code.rows(rows), int(rows[0]) * POSITIONS, labels[rows], CLASSES)
        for rows in torch.arange(IMAGES).split(2)
    ]
    merged = parts[0].merge(*parts[1:])
    again = Description.from_tensors(merged.to_tensors()).to_tensors()
    assert whole.keys() == again.keys()
    for name, values in whole.items():
        torch.testing.assert_close(values, again[name], rtol=1e-13, atol=0, msg=name)


def test_class_in_the_middle_of_a_patch() -> None:
    """6 x 8 pixels, 2 x 4 patches: middles are rows 1 and 4 (1.5, 4.5 rounded down), columns 1, 3, 5, 7."""
    masks = torch.zeros(2, 6, 8, dtype=torch.uint8)
    masks[0, 1, 3] = 2
    masks[0, 4, 7] = 1
    masks[0, 0, 0] = 3  # no middle
    labels = patch_labels(masks, torch.tensor([True, False]), (2, 4))
    assert labels.tolist() == [[0, 2, 0, 0, 0, 0, 0, 1], [VOID] * 8]


def test_data_without_masks() -> None:
    assert patch_labels(None, torch.zeros(2, dtype=torch.bool), (1, 2)).tolist() == [[VOID] * 2] * 2
