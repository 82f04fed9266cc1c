"""Encoders that put image patches and texts into one space, and how they are named.

=====================================  =================================================================================
``embedded``                           the encoder that comes with the package; needs no network
``RUN``                                an encoder that ``job: align`` trained: a run folder, local or s3://
``clip:ARCH=WEIGHTS``                  an OpenCLIP vision transformer, patches by the value path of its last block
``dinoclip:ARCH=WEIGHTS@DINOISER.pt``  the same, pooled over patches that belong together (CLIP-DINOiser)
``siglip:ARCH=WEIGHTS``                a SigLIP model, patches by the value path of its pooling head
=====================================  =================================================================================

ARCH is a name of ``open_clip.list_models()`` and WEIGHTS a file or one of its tags, such as
``clip:ViT-B-16=laion2b_s34b_b88k``; a tag is downloaded when it is not in the cache of the hub. ``ARCH=WEIGHTS`` may be
a folder in the form in which OpenCLIP publishes models, with ``open_clip_config.json``, weights and tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.run_folder import CONFIG
from raytrain_xai.storage import exists, locate

EMBEDDED = "embedded"
CLIP, DINOCLIP, SIGLIP = "clip:", "dinoclip:", "siglip:"
CHOICES = (
    f"{EMBEDDED}, the folder of a run of `job: align`, {CLIP}ARCH=WEIGHTS, {DINOCLIP}ARCH=WEIGHTS@DINOISER.pt or "
    f"{SIGLIP}ARCH=WEIGHTS"
)


class LanguageEncoder(Protocol):
    """Image patches and texts as vectors of one space; D its dimension.

    Attributes:
        name: how it was asked for.
        fingerprint: SHA-256 over the weights and over everything else that changes the vectors.
        dim: D.
        multiple: of which the sides of images should be a multiple, pixels: side of a patch. What is missing is filled
            with black on the right and below.
        image_size: side to which whole images are brought, pixels.
        logit_scale: what cosines are multiplied by before a softmax over texts.
        text_mean: (D,) float32, taken from unit text vectors before they are compared; zeros for CLIP and SigLIP.
        device: where it computes and where its answers are.
    """

    @property
    def name(self) -> str: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def dim(self) -> int: ...

    @property
    def multiple(self) -> int: ...

    @property
    def image_size(self) -> int: ...

    @property
    def logit_scale(self) -> float: ...

    @property
    def text_mean(self) -> Tensor: ...

    @property
    def device(self) -> torch.device: ...

    def patches(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) uint8 RGB -> (B, D, h, w) float32, not normalised, pooled as the encoder pools at use.

        h and w are H and W divided by :attr:`multiple`, rounded up.

        Raises:
            DataError: no such images.
        """
        ...

    def text(self, texts: Sequence[str]) -> Tensor:
        """M texts -> (M, D) float32 of unit length, :attr:`text_mean` not taken off. M may be 0."""
        ...


@runtime_checkable
class FindsForeground(Protocol):
    """An encoder that also says where the things are that an image is about."""

    def patches_and_foreground(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """In one pass: patches as :meth:`LanguageEncoder.patches`, and (B, h, w) float32 in (0, 1), > 0.5: foreground.

        Raises:
            DataError: no such images.
        """
        ...


def load_encoder(text: str, *, device: torch.device | str = "cpu") -> LanguageEncoder:
    """The encoder that a text names; see the table above.

    Raises:
        ConfigError: nothing of this name, or a package that it needs is not installed.
        CheckpointError: its weights cannot be had, do not fit, or have no text side.
    """
    device = torch.device(device)
    if text.startswith((CLIP, DINOCLIP, SIGLIP)):
        from raytrain_xai.language.clip_encoder import load_clip

        return load_clip(text, device=device)
    if text == EMBEDDED:
        from raytrain_xai.language.aligned import load_embedded

        return load_embedded(device=device)
    if not text.strip() or not exists(locate(text).child(CONFIG)):
        raise ConfigError(f"no encoder {text!r}; give {CHOICES}")
    from raytrain_xai.language.aligned import load_aligned

    return load_aligned(text, device=device)


def to_patch_multiple(images: Tensor, multiple: int, device: torch.device) -> Tensor:
    """Images on the device, with black on the right and below up to sides that are multiples.

    Args:
        images: (B, 3, H, W) uint8 RGB.
        multiple: pixels.
    Returns:
        (B, 3, H', W') uint8.
    Raises:
        DataError: not such a tensor.
    """
    if images.dim() != 4 or images.shape[1] != 3 or images.dtype != torch.uint8 or 0 in images.shape:
        raise DataError(
            f"images have shape {tuple(images.shape)} and type {images.dtype}; expected (B, 3, H, W) uint8 RGB, at "
            "least one of them"
        )
    height, width = images.shape[-2:]
    return F.pad(images.to(device, non_blocking=True), (0, -width % multiple, 0, -height % multiple))
