"""The two learned layers of CLIP-DINOiser (Wysoczanska et al., ECCV 2024): which patches belong together, and which are
foreground.

Both read features from the middle of the frozen CLIP tower and were trained to answer what DINO and FOUND answer, so
that neither has to run. CFM (2026) trains its autoencoder on patches pooled with them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raytrain_xai.errors import CheckpointError
from raytrain_xai.models.weight_files import parse_state_dict, parse_torch
from raytrain_xai.storage import locate, read_bytes

THRESHOLD = 0.2  # correlations below it do not pool
_EPSILON = 1e-6
_CONTAINER = "model_state_dict"  # key of the weights in the file that the authors' training writes
_KEYS = ("obj_proj.weight", "obj_proj.bias", "bkg_decoder.weight", "bkg_decoder.bias")


class Dinoiser(nn.Module):
    """Layers over features of the middle of the tower.

    C is the width of the tower, E that of the space in which patches are compared (256 as published).
    """

    def __init__(self, width: int, compared: int, kernel: int) -> None:
        """
        Args:
            width: C.
            compared: E.
            kernel: side of the convolution into that space, odd.
        """
        super().__init__()
        self.obj_proj = nn.Conv2d(width, compared, kernel, padding=kernel // 2, padding_mode="replicate")
        self.bkg_decoder = nn.Conv2d(width, 1, 1)

    def pool(self, patches: Tensor, middle: Tensor) -> Tensor:
        """Every patch as the mean of all patches of its image, weighted by how much they belong together.

        Args:
            patches: (B, D, h, w) float32.
            middle: (B, C, h, w) float32.
        Returns:
            (B, D, h, w) float32, not normalised.
        """
        return pool_by_correlation(patches, self.obj_proj(middle))

    def foreground(self, middle: Tensor) -> Tensor:
        """(B, C, h, w) float32 -> (B, h, w) float32 in (0, 1); above 0.5 a patch is foreground."""
        return self.bkg_decoder(F.normalize(middle, dim=1))[:, 0].sigmoid()


def pool_by_correlation(patches: Tensor, compared: Tensor) -> Tensor:
    """g_n = sum_m A_nm v_m / (sum_m A_nm + 1e-6), A the cosines of ``compared`` with those below 0.2 set to 0.

    Args:
        patches: v, (B, D, h, w) float32.
        compared: (B, E, h, w) float32.
    Returns:
        g, (B, D, h, w) float32. Memory beside it: A, (B, h w, h w) float32.
    """
    points = F.normalize(compared.flatten(2), dim=1)
    affinity = points.transpose(1, 2) @ points  # symmetric: rows may be summed as columns
    affinity.masked_fill_(affinity < THRESHOLD, 0.0)
    pooled = patches.flatten(2) @ affinity
    return (pooled / (affinity.sum(dim=1, keepdim=True) + _EPSILON)).view_as(patches)


def read_dinoiser(file: str, *, width: int) -> Dinoiser:
    """The layers in a file, such as the authors' ``last.pt``.

    Args:
        file: local or s3://; other weights in it are not read.
        width: C of the tower that they shall read.
    Raises:
        DataError: the file is missing or cannot be read.
        CheckpointError: damaged or unsafe file, no such layers in it, or layers for a tower of another width.
    """
    state = _read_state(file)
    missing = [key for key in _KEYS if key not in state]
    if missing:
        raise CheckpointError(
            f"{file} holds no layers of CLIP-DINOiser ({', '.join(missing)} missing); give last.pt of its authors"
        )
    state = {key: state[key] for key in _KEYS}
    weight = state["obj_proj.weight"]
    if weight.dim() != 4 or weight.shape[1] != width:
        raise CheckpointError(
            f"the layers in {file} have weights {tuple(weight.shape)}; expected (E, {width}, 3, 3) for this tower of "
            f"width {width}; give the CLIP that they were trained with (ViT-B/16 for the published ones)"
        )
    layers = Dinoiser(width, weight.shape[0], weight.shape[2])
    try:
        layers.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"the layers in {file} do not fit together: {error}") from error
    return layers.eval().requires_grad_(False)


def _read_state(file: str) -> dict[str, Tensor]:
    at = locate(file)
    data = read_bytes(at)
    if at.path.lower().endswith(".safetensors"):
        return parse_state_dict(data, at.path, file)
    loaded = parse_torch(data, file)
    state = loaded.get(_CONTAINER, loaded) if isinstance(loaded, dict) else {}
    return {str(key): value for key, value in state.items() if isinstance(value, torch.Tensor)}
