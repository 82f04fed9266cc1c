"""Encoders made of OpenCLIP models: CLIP with its value path, CLIP-DINOiser, SigLIP."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raytrain_xai.errors import ConfigError
from raytrain_xai.language.causal_text import causal_text, is_causal
from raytrain_xai.language.dinoiser import THRESHOLD, Dinoiser, read_dinoiser
from raytrain_xai.language.encoder import CHOICES, DINOCLIP, SIGLIP, to_patch_multiple
from raytrain_xai.language.fingerprint import fingerprint_of
from raytrain_xai.language.open_clip import OpenClipModel, check_clip, check_siglip, read_open_clip
from raytrain_xai.language.siglip import siglip_patches
from raytrain_xai.language.value_path import value_path

_TEXTS = 256  # encoded together
_CLIP_SCALE = 100.0  # where training clips it, and what CFM multiplies cosines by


@dataclass(frozen=True, eq=False)
class ClipEncoder:
    """A :class:`~raytrain_xai.language.encoder.LanguageEncoder` around an OpenCLIP model.

    Attributes:
        name, fingerprint, dim, multiple, image_size, logit_scale, text_mean, device: see there.
        dense: (B, 3, H, W) float, normalised -> (B, D, h, w) float32.
        model: of OpenCLIP, on the device.
        tokenize: texts -> (M, context) int64.
        mean, std: (3, 1, 1) float32 of the channels in [0, 255].
    """

    name: str
    fingerprint: str
    dim: int
    multiple: int
    image_size: int
    logit_scale: float
    text_mean: Tensor
    device: torch.device
    dense: Callable[[Tensor], Tensor]
    model: Any
    tokenize: Callable[[Sequence[str]], Tensor]
    mean: Tensor
    std: Tensor

    @torch.no_grad()
    def patches(self, images: Tensor) -> Tensor:
        """See :class:`~raytrain_xai.language.encoder.LanguageEncoder`."""
        return self.dense(self.pixels(images))

    @torch.no_grad()
    def text(self, texts: Sequence[str]) -> Tensor:
        """See :class:`~raytrain_xai.language.encoder.LanguageEncoder`."""
        groups = [texts[start : start + _TEXTS] for start in range(0, len(texts), _TEXTS)]
        found = [self._embed(self.tokenize(group)) for group in groups]
        return torch.cat([torch.zeros(0, self.dim, device=self.device), *found])

    def _embed(self, tokens: Tensor) -> Tensor:
        if is_causal(self.model):
            return causal_text(self.model, tokens)
        return self.model.encode_text(tokens.to(self.device), normalize=True)

    def pixels(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB -> (B, 3, H', W') float32, filled up to whole patches and normalised.

        Raises:
            DataError: no such images.
        """
        filled = to_patch_multiple(images, self.multiple, self.device)
        return (filled.float() - self.mean) / self.std


@dataclass(frozen=True, eq=False)
class DinoiserEncoder(ClipEncoder):
    """CLIP-DINOiser: patches are pooled over those that belong together, and some are foreground.

    Attributes:
        layers: the two learned ones.
    """

    layers: Dinoiser

    @torch.no_grad()
    def patches_and_foreground(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`~raytrain_xai.language.encoder.FindsForeground`."""
        patches, middle = value_path(self.model.visual, self.pixels(images))
        return self.layers.pool(patches, middle), self.layers.foreground(middle)


def load_clip(text: str, *, device: torch.device) -> ClipEncoder:
    """The encoder that ``clip:...``, ``dinoclip:...@...`` or ``siglip:...`` names.

    Raises:
        ConfigError: no such architecture, weights or folder, no encoder of that kind, or OpenCLIP is not installed.
        CheckpointError: its weights cannot be had, do not fit, or have no text side.
        DataError: the file of CLIP-DINOiser is missing.
    """
    kind, colon, source = text.partition(":")
    file = ""
    if kind + colon == DINOCLIP:
        source, _, file = source.rpartition("@")
        if not source or not file:
            raise ConfigError(f"{text} names no layers of CLIP-DINOiser; give {DINOCLIP}ARCH=WEIGHTS@DINOISER.pt")
    if not source:
        raise ConfigError(f"{text!r} names no model; give {CHOICES}")
    parts = read_open_clip(source)
    if kind + colon == SIGLIP:
        return _siglip(text, parts, device)
    check_clip(parts.model, source)
    return _dinoiser(text, parts, file, device) if file else _clip(text, parts, device)


def _clip(text: str, parts: OpenClipModel, device: torch.device) -> ClipEncoder:
    visual = parts.model.visual
    tower = _Tower(lambda x: value_path(visual, x).patches, visual.patch_size[0], visual.grid_size[0], _CLIP_SCALE)
    return _encoder(text, parts, tower, device)


def _dinoiser(text: str, parts: OpenClipModel, file: str, device: torch.device) -> DinoiserEncoder:
    visual = parts.model.visual
    layers = read_dinoiser(file, width=visual.conv1.out_channels)
    weights = {f"dinoiser.{key}": value for key, value in layers.state_dict().items()}
    tower = _Tower(
        lambda x: layers.pool(*value_path(visual, x)), visual.patch_size[0], visual.grid_size[0], _CLIP_SCALE
    )
    encoder = _encoder(text, parts, tower, device, layers=weights)
    return DinoiserEncoder(**vars(encoder), layers=layers.to(device))


def _siglip(text: str, parts: OpenClipModel, device: torch.device) -> ClipEncoder:
    check_siglip(parts.model, text)
    visual = parts.model.visual
    patch, grid = visual.trunk.patch_embed.patch_size[0], visual.trunk.patch_embed.grid_size[0]
    scale = float(parts.model.logit_scale.exp())
    return _encoder(text, parts, _Tower(lambda x: siglip_patches(visual, x), patch, grid, scale), device)


@dataclass(frozen=True)
class _Tower:
    """The image side: see :class:`ClipEncoder`; ``grid`` patches of ``patch`` pixels are a side of a whole image."""

    dense: Callable[[Tensor], Tensor]
    patch: int
    grid: int
    scale: float


def _encoder(
    text: str, parts: OpenClipModel, tower: _Tower, device: torch.device, *, layers: Mapping[str, Tensor] | None = None
) -> ClipEncoder:
    weights = {**parts.model.state_dict(), **(layers or {})}
    about = {**parts.about, "kind": text.partition(":")[0], "threshold": THRESHOLD if layers else None}
    dim = int(parts.about["config"]["embed_dim"])
    return ClipEncoder(
        name=text,
        fingerprint=fingerprint_of(weights, about),
        dim=dim,
        multiple=tower.patch,
        image_size=tower.patch * tower.grid,
        logit_scale=tower.scale,
        text_mean=torch.zeros(dim, device=device),
        device=device,
        dense=tower.dense,
        model=parts.model.to(device),
        tokenize=parts.tokenize,
        mean=torch.tensor(parts.mean, device=device).view(3, 1, 1) * 255,
        std=torch.tensor(parts.std, device=device).view(3, 1, 1) * 255,
    )
