"""The layers of CLIP-DINOiser: pooling by hand, and against a double loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from clip_cases import WIDTH, write_dinoiser
from safetensors.torch import save_file
from torch import Tensor

from raytrain_xai.errors import CheckpointError, DataError
from raytrain_xai.language.dinoiser import pool_by_correlation, read_dinoiser


def test_three_patches_by_hand() -> None:
    """Cosines .6 between the first two, .8 between the last two, 0 between the ends."""
    compared = torch.tensor([[2.0, 0.0], [0.3, 0.4], [0.0, 5.0]]).T[None, :, None]  # (1, 2, 1, 3); lengths drop out
    patches = torch.tensor([[[[1.0, 2.0, 4.0]]]])
    expected = torch.tensor([(1 + 0.6 * 2) / 1.6, (0.6 * 1 + 2 + 0.8 * 4) / 2.4, (0.8 * 2 + 4) / 1.8])
    torch.testing.assert_close(pool_by_correlation(patches, compared)[0, 0, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("cosine", "pooled"), [(0.19, 1.0), (0.21, (1 + 0.21 * 3) / 1.21), (-0.9, 1.0)])
def test_weak_and_negative_correlations_do_not_pool(cosine: float, pooled: float) -> None:
    compared = torch.tensor([[1.0, cosine], [0.0, (1 - cosine**2) ** 0.5]])[None, :, None]
    found = pool_by_correlation(torch.tensor([[[[1.0, 3.0]]]]), compared)
    assert found[0, 0, 0, 0].item() == pytest.approx(pooled, abs=1e-5)


def test_layers_of_a_file_against_loops(tmp_path: Path) -> None:
    """In float64: borders repeated by hand, the convolution as a sum over its nine shifts, patches one by one."""
    torch.manual_seed(0)
    state = {key: value.double() for key, value in write_dinoiser(tmp_path / "last.pt").items()}
    layers = read_dinoiser(str(tmp_path / "last.pt"), width=WIDTH).double()
    patches, middle = torch.randn(2, 5, 3, 4).double(), torch.randn(2, WIDTH, 3, 4).double()
    padded = F.pad(middle, (1, 1, 1, 1), mode="replicate")
    shifts = [
        torch.einsum("ec,bchw->behw", state["obj_proj.weight"][:, :, i, j], padded[:, :, i : i + 3, j : j + 4])
        for i in range(3)
        for j in range(3)
    ]
    compared = torch.stack(shifts).sum(dim=0) + state["obj_proj.bias"].view(-1, 1, 1)
    torch.testing.assert_close(layers.pool(patches, middle), _pool_by_loops(patches, compared))
    unit = middle / middle.norm(dim=1, keepdim=True)
    logits = (state["bkg_decoder.weight"][0, :, 0, 0].view(-1, 1, 1) * unit).sum(dim=1) + state["bkg_decoder.bias"]
    torch.testing.assert_close(layers.foreground(middle), 1 / (1 + torch.exp(-logits)))


def _pool_by_loops(patches: Tensor, compared: Tensor) -> Tensor:
    pooled = torch.zeros_like(patches)
    places = [(i, j) for i in range(3) for j in range(4)]
    for image in range(len(patches)):
        for i, j in places:
            total = 0.0
            for k, m in places:
                a, b = compared[image, :, i, j], compared[image, :, k, m]
                cosine = float(a @ b / (a.norm() * b.norm()))
                if cosine >= 0.2:
                    pooled[image, :, i, j] += cosine * patches[image, :, k, m]
                    total += cosine
            pooled[image, :, i, j] /= total + 1e-6
    return pooled


def test_alike_patches_are_left_as_they_are() -> None:
    """All correlations 1: every patch becomes the mean, up to the guard against division by zero."""
    patches = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    found = pool_by_correlation(patches, torch.ones(1, 7, 2, 2))
    torch.testing.assert_close(found, patches.mean(dim=(2, 3), keepdim=True).expand_as(found), rtol=1e-5, atol=1e-6)


def test_other_files_are_refused(tmp_path: Path) -> None:
    save_file({"visual.proj": torch.zeros(2, 2)}, tmp_path / "clip.safetensors")
    with pytest.raises(CheckpointError, match=r"holds no layers of CLIP-DINOiser \(obj_proj.weight.*last.pt"):
        read_dinoiser(str(tmp_path / "clip.safetensors"), width=WIDTH)
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(CheckpointError, match="holds no layers"):
        read_dinoiser(str(tmp_path / "tensor.pt"), width=WIDTH)
    write_dinoiser(tmp_path / "wide.pt", width=48)
    with pytest.raises(CheckpointError, match=r"\(6, 48, 3, 3\); expected \(E, 32, 3, 3\).*width 32"):
        read_dinoiser(str(tmp_path / "wide.pt"), width=WIDTH)
    (tmp_path / "cut.pt").write_bytes((tmp_path / "wide.pt").read_bytes()[:200])
    with pytest.raises(CheckpointError, match="truncated"):
        read_dinoiser(str(tmp_path / "cut.pt"), width=WIDTH)
    with pytest.raises(DataError, match="does not exist"):
        read_dinoiser(str(tmp_path / "absent.pt"), width=WIDTH)
