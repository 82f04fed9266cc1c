"""Configuration of a concept run: a sparse autoencoder at one tap of a trained network."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from raytrain_xai.sections import CheckpointConfig, ResourcesConfig, Section, TrackingConfig


class SaeSection(Section):
    """What all variants share."""

    latents: int = Field(default=8192, ge=1)
    """Concepts in the dictionary (K)."""
    aux_weight: float = Field(default=1 / 32, ge=0)
    """Factor of the loss that revives dead latents; 0 leaves it out."""
    aux_latents: int = Field(default=256, ge=1)
    """Dead latents that take part in it at a vector, at most."""
    dead_after_epochs: float = Field(default=0.5, gt=0)
    """A latent is dead when it has not fired for this share of the vectors of an epoch."""
    keep_length: bool = True
    """In use, scale all reconstructions by one number so that they are as long as the features; training and codes do
    not change. false as published, where logits shrink with the share of the features that the code misses."""


class TopKSection(SaeSection):
    kind: Literal["topk"] = "topk"
    k: int = Field(default=16, ge=1)
    """Active latents at a position."""


class BatchTopKSection(SaeSection):
    kind: Literal["batch_topk"]
    k: int = Field(default=16, ge=1)
    """Active latents at a position, on average over a batch; afterwards a threshold decides."""


class ReluSection(SaeSection):
    kind: Literal["relu"]
    l1_weight: float = Field(default=0.1, ge=0)
    """Factor of the sum of all values of a code, of vectors whose mean squared length is 1."""


class JumpReluSection(SaeSection):
    kind: Literal["jumprelu"]
    l0_weight: float = Field(default=1e-3, ge=0)
    """Factor of the number of active latents."""
    bandwidth: float = Field(default=0.05, gt=0)
    """Width of the window through which thresholds get their gradient."""
    initial_threshold: float = Field(default=0.05, gt=0)
    """Thresholds are learned on a log scale and move by about lr in a step: start near where they should end."""


AnySae = Annotated[TopKSection | BatchTopKSection | ReluSection | JumpReluSection, Field(discriminator="kind")]


class FeaturesSection(Section):
    store: str | None = None
    """Folder or s3:// address of exported features; nothing: no disk, the network feeds the training."""
    split: str = "train"
    per_image: int | None = Field(default=None, ge=1)
    """Positions of an image that are kept; nothing: 72 · 512 / channels, all where there are fewer."""
    sampling: Literal["contribution", "uniform"] = "contribution"
    """Positions by their absolute contribution to the predicted logit, or all with equal chance."""
    reservoir: int = Field(default=65536, ge=1)
    """Vectors held in memory and mixed, without a store."""


class ConceptOptimSection(Section):
    lr: float = Field(default=1e-3, gt=0)
    warmup_epochs: float = Field(default=1.0, ge=0)
    """From 0 to lr, linearly."""
    constant_epochs: float = Field(default=1.0, ge=0)
    """At lr, after the warm-up; then half a cosine down to 0."""
    clip_norm: float | None = Field(default=1.0, gt=0)


class ConceptEvaluationSection(Section):
    every_epochs: int = Field(default=2, ge=1)
    """Plugged into the network and measured on the validation split."""
    batch_size: int = Field(default=64, ge=1)
    max_images: int | None = Field(default=None, ge=1)
    """Of the validation split; nothing: all."""
    select: Literal["best_accuracy", "last"] = "best_accuracy"
    """Accuracy with the concepts plugged in; F1 where images have several labels."""


class ConceptRunConfig(Section):
    """Everything that defines a concept run."""

    job: Literal["concepts"]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    storage: str = "runs"
    """Folder or s3:// address; the run lives in <storage>/<name>/."""
    seed: int = Field(default=0, ge=0)
    epochs: int = Field(default=16, ge=1)
    workers: int = Field(default=1, ge=0)
    """Training workers; 0 trains inside the calling process, without Ray workers."""
    parallel: Literal["data", "dictionary"] = "data"
    """What several workers share out: the vectors of a step, or the latents (dictionaries larger than one device)."""
    batch_size: int = Field(default=32768, ge=1)
    """Vectors per optimiser step, over all workers."""
    network: str
    """Run folder (local or s3://) of a B-cos network, or NAME=WEIGHTS."""
    layer: str
    """Tap whose map the concepts replace: Mid1, Mid2, Mid3, Final, or a block such as layer3.1."""
    data: str | None = None
    """Prepared data set; nothing: the one of the run of the network."""
    image_size: int | None = Field(default=None, ge=32, le=1024)
    """Side of the square network input, pixels; nothing: that of the run of the network."""
    eval_resize: int | None = Field(default=None, ge=32, le=2048)
    """Where image_size is given: shorter side before the central square is cut out; nothing: squeeze to a square."""
    features: FeaturesSection = FeaturesSection()
    sae: AnySae = TopKSection()
    optim: ConceptOptimSection = ConceptOptimSection()
    evaluation: ConceptEvaluationSection = ConceptEvaluationSection()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @field_validator("sae", mode="before")
    @classmethod
    def _topk_is_meant(cls, value: Any) -> Any:
        return {"kind": "topk", **value} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _k_fits(self) -> Self:
        if isinstance(self.sae, TopKSection | BatchTopKSection) and self.sae.k > self.sae.latents:
            raise ValueError(f"sae.k={self.sae.k} is more than the sae.latents={self.sae.latents} there are")
        return self

    @model_validator(mode="after")
    def _centre_fits(self) -> Self:
        if self.eval_resize is not None and (self.image_size is None or self.eval_resize < self.image_size):
            raise ValueError(
                f"eval_resize {self.eval_resize} needs an image_size that is not larger, got {self.image_size}"
            )
        return self

    @model_validator(mode="after")
    def _shares_are_equal(self) -> Self:
        if self.parallel == "data":
            self.resources.check_shares(self.batch_size, "batch_size", self.workers)
        else:
            self.resources.check_shares(self.sae.latents, "sae.latents", self.workers)
        return self
