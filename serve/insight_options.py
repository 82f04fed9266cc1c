"""What may be asked of an encoder with named concepts about an image."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raytrain_xai.errors import ConfigError
from raytrain_xai.serving.insight_jobs import SegmentQuestion
from raytrain_xai.serving.served_insight import MAX_LABELS
from serve.schemas import Body
from serve.settings import LimitSettings

_Text = Annotated[str, Field(min_length=1, max_length=200)]


class SegmentOptions(Body):
    """Options of :segment."""

    labels: Annotated[tuple[_Text, ...], Field(alias="label", max_length=MAX_LABELS)] = ()
    """Words that pixels are given to; may be given several times. None: only the concepts of patches are told."""
    background: Annotated[tuple[_Text, ...], Field(alias="background", max_length=MAX_LABELS)] = ()
    """Words that compete with the labels; where one of them wins is background."""
    background_score: Annotated[float | None, Field(ge=-1, le=1)] = None
    """Instead, cosine that a label has to exceed; without both, every pixel gets a label."""
    top: Annotated[int, Field(ge=1, le=1_000_000)] = 5
    """Concepts of a segment shown one by one."""
    patches: bool = True
    """Tell the concepts of every patch."""

    def question(self, limits: LimitSettings) -> SegmentQuestion:
        """What the engine is asked.

        Raises:
            ConfigError: more than the limits allow, or nothing.
        """
        if self.top > limits.concepts:
            raise ConfigError(f"{self.top} concepts are to be shown of each segment, at most {limits.concepts} may be")
        if not self.labels and not self.patches:
            raise ConfigError("nothing is asked for; give labels, or patches=true for the concepts of patches")
        return SegmentQuestion(self.labels, self.background, self.background_score, self.top)
