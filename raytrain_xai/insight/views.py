"""Patches of images as an encoder sees them, and as its concepts say them again."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from raytrain_xai.concepts.layer import to_vectors
from raytrain_xai.errors import ConfigError
from raytrain_xai.insight.contributions import PatchView
from raytrain_xai.insight.model import InsightModel
from raytrain_xai.language.encoder import FindsForeground, LanguageEncoder

See = Callable[[Tensor], PatchView]
"""Images (B, 3, H, W) uint8 -> their patches."""


def see_patches(encoder: LanguageEncoder, *, with_foreground: bool = False) -> See:
    """The encoder's own vectors.

    Args:
        with_foreground: also where it finds things.
    Raises:
        ConfigError: an encoder that finds no things.
    """
    if not with_foreground:
        return lambda images: _view(encoder.patches(images), None)
    if not isinstance(encoder, FindsForeground):
        raise ConfigError(
            f"{encoder.name} does not tell things from background; use a dinoclip: encoder, or a constant score or "
            "words as background"
        )
    return lambda images: _view(*encoder.patches_and_foreground(images))


def see_concepts(model: InsightModel, *, with_foreground: bool = False) -> See:
    """Reconstructions from concepts, with their code; see :func:`see_patches`."""
    see = see_patches(model.encoder, with_foreground=with_foreground)

    def look(images: Tensor) -> PatchView:
        seen = see(images)
        code = model.sae.encode(seen.vectors)
        return PatchView(model.sae.decode(code), seen.size, code, seen.foreground)

    return look


def _view(patches: Tensor, foreground: Tensor | None) -> PatchView:
    size = (patches.shape[2], patches.shape[3])
    return PatchView(to_vectors(patches), size, None, None if foreground is None else foreground.flatten(1))
