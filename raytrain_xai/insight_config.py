"""Configuration of a concept run of a language-aligned encoder (``job: concepts`` with ``encoder``)."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from raytrain_xai.concept_config import ConceptOptimSection
from raytrain_xai.concepts.groups import ROUNDING
from raytrain_xai.sections import CheckpointConfig, ResourcesConfig, Section, TrackingConfig

PUBLISHED_FRACTIONS = (0.008, 0.03, 0.06, 0.12, 0.24, 0.542)


class MatryoshkaSection(Section):
    kind: Literal["matryoshka"] = "matryoshka"
    latents: int = Field(default=8192, ge=1)
    """Concepts in the dictionary (K)."""
    k: int = Field(default=12, ge=1)
    """Active latents of a patch, on average over a batch; afterwards a threshold decides."""
    group_fractions: tuple[float, ...] = Field(default=PUBLISHED_FRACTIONS, min_length=1)
    """Shares of the latents in each group, coarse concepts first; every group reconstructs with those before it."""
    unit_inputs: bool = False
    """Bring patches to length 1 first: all get as many latents, not the long ones most. Published: as they are."""
    aux_weight: float = Field(default=1 / 32, ge=0)
    """Factor of the loss that revives dead latents; 0 leaves it out."""
    aux_latents: int = Field(default=256, ge=1)
    """Dead latents that take part in it at a patch, at most."""
    dead_after_epochs: float = Field(default=0.5, gt=0)
    """A latent is dead when it has not fired for this share of the patches of an epoch."""

    @model_validator(mode="after")
    def _groups_make_a_dictionary(self) -> Self:
        if min(self.group_fractions) <= 0 or not math.isclose(sum(self.group_fractions), 1, abs_tol=1e-3):
            raise ValueError(f"group_fractions are positive and sum to 1, got {list(self.group_fractions)}")
        if self.k > self.latents:
            raise ValueError(f"k={self.k} is more than the latents={self.latents} there are")
        if min(self.group_fractions) * self.latents < 1 - ROUNDING:
            raise ValueError(
                f"the smallest group of {self.latents} latents would be empty; set more latents, or group_fractions"
            )
        return self


class PatchesSection(Section):
    store: str | None = None
    """Folder or s3:// address of exported patches; nothing: no disk, the encoder feeds the training."""
    split: str = "train"
    per_image: int | None = Field(default=None, ge=1)
    """Patches of an image that are kept, all with equal chance; nothing: all of them."""
    reservoir: int = Field(default=65536, ge=1)
    """Patches held in memory and mixed, without a store."""


class PatchEvaluationSection(Section):
    every_epochs: int = Field(default=1, ge=1)
    """Reconstruction of the patches of the validation splits."""
    batch_size: int = Field(default=32, ge=1)
    """Images at a time, in evaluation and export."""
    max_images: int | None = Field(default=None, ge=1)
    """Of each validation split; nothing: all."""


class InsightRunConfig(Section):
    """Everything that defines a concept run of an encoder."""

    job: Literal["concepts"]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    storage: str = "runs"
    """Folder or s3:// address; the run lives in <storage>/<name>/."""
    seed: int = Field(default=0, ge=0)
    epochs: int = Field(default=3, ge=1)
    workers: int = Field(default=1, ge=0)
    """Training workers; 0 trains inside the calling process, without Ray workers."""
    batch_size: int = Field(default=16384, ge=1)
    """Patches per optimiser step, over all workers."""
    encoder: str
    """embedded, RUN, clip:ARCH=WEIGHTS, dinoclip:ARCH=WEIGHTS@DINOISER.pt or siglip:ARCH=WEIGHTS."""
    data: tuple[str, ...] = ()
    """Prepared data sets whose images are seen, one after the other; labels are not used."""
    image_size: int | None = Field(default=None, ge=16, le=2048)
    """Side of the square images, pixels; nothing: that of the encoder."""
    eval_resize: int | None = Field(default=None, ge=16, le=4096)
    """Shorter side before the central square is cut out; nothing: squeeze to a square."""
    features: PatchesSection = PatchesSection()
    sae: MatryoshkaSection = MatryoshkaSection()
    optim: ConceptOptimSection = ConceptOptimSection()
    evaluation: PatchEvaluationSection = PatchEvaluationSection()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @field_validator("data", mode="before")
    @classmethod
    def _one_is_enough(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _centre_fits(self) -> Self:
        if self.eval_resize is not None and (self.image_size is None or self.eval_resize < self.image_size):
            raise ValueError(
                f"eval_resize {self.eval_resize} needs an image_size that is not larger, got {self.image_size}"
            )
        return self

    @model_validator(mode="after")
    def _shares_are_equal(self) -> Self:
        self.resources.check_shares(self.batch_size, "batch_size", self.workers)
        return self
