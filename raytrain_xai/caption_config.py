"""Configuration of a caption run (``job: caption``): a decoder that writes sentences from vectors of a text space."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from raytrain_xai.sections import CheckpointConfig, OptimConfig, ResourcesConfig, Section, TrackingConfig


class CaptionDataSection(Section):
    path: str
    """Folder or s3:// address written by ``raytrain-xai data prepare``."""
    names: dict[str, str] = {}
    """Class of the data set -> its name in sentences, where it is not the same: pottedplant: potted plant."""


class DecoderSection(Section):
    width: int = Field(default=128, ge=8)
    """Of the hidden vectors; a multiple of heads."""
    layers: int = Field(default=2, ge=1)
    heads: int = Field(default=4, ge=1)
    prefix: int = Field(default=4, ge=1)
    """Positions before the words that the vector becomes."""
    temperature: float = Field(default=0.01, gt=0)
    """In use a vector becomes a mean of those of the sentences it is like: the smaller this, the fewer sentences."""

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is no multiple of heads {self.heads}")
        return self


class CaptionEvaluationSection(Section):
    every_epochs: int = Field(default=5, ge=1)
    """Captions of the images of the validation splits."""
    batch_size: int = Field(default=32, ge=1)
    """Images that the encoder sees at a time."""
    max_images: int | None = Field(default=None, ge=1)
    """Of each validation and test split; nothing: all."""
    select: Literal["best_f1", "last"] = "best_f1"
    """Checkpoint that is used: by the categories that captions of the validation images name, or the last."""


class CaptionRunConfig(Section):
    """Everything that defines a caption run."""

    job: Literal["caption"]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    storage: str = "runs"
    """Folder or s3:// address; the run lives in <storage>/<name>/."""
    seed: int = Field(default=0, ge=0)
    epochs: int = Field(default=30, ge=1)
    workers: int = Field(default=1, ge=0)
    """Training workers; 0 trains inside the calling process, without Ray workers."""
    batch_size: int = Field(default=128, ge=1)
    """Sentences per optimiser step, over all workers."""
    encoder: str = "embedded"
    """embedded, RUN, clip:ARCH=WEIGHTS, dinoclip:ARCH=WEIGHTS@DINOISER.pt or siglip:ARCH=WEIGHTS."""
    data: tuple[CaptionDataSection, ...] = Field(min_length=1)
    """Data sets: annotations of their training images make the sentences, their other images judge captions."""
    decoder: DecoderSection = DecoderSection()
    noise: float = Field(default=0.3, ge=0)
    """Expected length of the noise that is added to a vector, whose own length is 1."""
    optim: OptimConfig = OptimConfig(name="adamw", lr=1e-3, weight_decay=0.01, schedule="cosine", clip_norm=1.0)
    evaluation: CaptionEvaluationSection = CaptionEvaluationSection()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="after")
    def _shares_are_equal(self) -> Self:
        self.resources.check_shares(self.batch_size, "batch_size", self.workers)
        return self
