"""The value path against the library's own forward pass, at the size of the model and at others."""

from __future__ import annotations

import open_clip
import pytest
import torch
import torch.nn.functional as F
from clip_cases import DIM, PATCH, SIDE, TEXT, VISION, WIDTH, plain_dense, small_clip
from timm.layers import resample_abs_pos_embed

from raytrain_xai.language.value_path import embed_patches, resize_positions, value_path


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))


def test_a_patch_that_attends_to_itself_alone(x: torch.Tensor) -> None:
    """The library's attention with all but the diagonal masked, from hooks on its whole forward pass."""
    visual = small_clip().visual
    with torch.no_grad():
        patches, middle = value_path(visual, x)
        expected, expected_middle = plain_dense(visual, x)
    assert patches.shape == (2, DIM, SIDE // PATCH, SIDE // PATCH)
    assert middle.shape == (2, WIDTH, SIDE // PATCH, SIDE // PATCH)
    torch.testing.assert_close(patches, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(middle, expected_middle, rtol=1e-4, atol=1e-4)


def test_it_is_not_what_the_last_block_mixes(x: torch.Tensor) -> None:
    """Negative control: with attention the last block gives something else."""
    visual = small_clip().visual
    with torch.no_grad():
        tokens, size = embed_patches(visual, x)
        mixed = visual.ln_post(visual.transformer(tokens)) @ visual.proj
        found = value_path(visual, x).patches
    mixed = mixed[:, 1:].transpose(1, 2).unflatten(2, size)
    assert float((found - mixed).norm() / mixed.norm()) > 0.1


def test_layer_scales_are_applied(x: torch.Tensor) -> None:
    visual = small_clip(ls_init_value=0.3).visual
    with torch.no_grad():
        torch.testing.assert_close(value_path(visual, x).patches, plain_dense(visual, x)[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("grid", [(6, 9), (3, 2), (1, 1)])
def test_another_size_is_a_model_with_resized_positions(grid: tuple[int, int]) -> None:
    """The library builds a model for the other size; timm resizes the positions."""
    small = small_clip()
    vision = {**VISION, "image_size": (PATCH * grid[0], PATCH * grid[1])}
    other = open_clip.model.CLIP(DIM, vision, TEXT).eval().requires_grad_(False)
    code = small.visual.positional_embedding[None]
    state = {
        **small.visual.state_dict(),
        "positional_embedding": resample_abs_pos_embed(code, list(grid), antialias=False)[0],
    }
    other.visual.load_state_dict(state)
    x = torch.randn(2, 3, PATCH * grid[0], PATCH * grid[1], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = value_path(small.visual, x)
        expected = plain_dense(other.visual, x)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_positions_by_hand() -> None:
    """Cubic convolution with a = -0.75, of a code that is its row: weights -9/256, 67/256, 225/256, -27/256 at 1.75."""
    code = torch.arange(6.0).repeat_interleave(5)[:, None] * torch.tensor([[1.0, 0.0]])
    found = resize_positions(code, (6, 5), (12, 10)).unflatten(0, (12, 10))
    rows = torch.tensor([1.703125, 2.296875, 2.703125, 3.296875])  # of rows 4 to 7, at 1.75, 2.25, 2.75, 3.25
    torch.testing.assert_close(found[4:8, :, 0], rows[:, None].expand(4, 10))
    assert not bool(found[..., 1].any())
    assert resize_positions(code, (6, 5), (6, 5)) is code


def test_images_do_not_see_each_other(x: torch.Tensor) -> None:
    visual = small_clip().visual
    with torch.no_grad():
        together = value_path(visual, x).patches
        alone = value_path(visual, x[1:]).patches
    torch.testing.assert_close(alone[0], together[1], rtol=1e-4, atol=1e-4)
    assert float(F.cosine_similarity(together[0].flatten(), together[1].flatten(), dim=0)) < 0.999
