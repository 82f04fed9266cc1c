"""Configuration of an alignment run: patch features of a frozen classifier brought into the space of texts."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from raytrain_xai.sections import CheckpointConfig, ResourcesConfig, Section, TrackingConfig


class AlignSource(Section):
    """Images that an encoder learns from."""

    path: str
    """Folder or s3:// address written by ``raytrain-xai data prepare``; its train split is used."""
    images: int = Field(ge=1)
    """Of a step: how many are drawn from this set, each once before any is drawn again."""
    terms: str | None = None
    """What its classes are called: imagenet, voc, or a CSV file with class and term. Nothing: their names."""
    labels: bool = True
    """Learn from its labels; false: its images are only looked at."""


class AlignLossSection(Section):
    """The loss is the sum of the terms below, each with its weight."""

    distil_weight: float = Field(default=1.0, ge=0)
    """Direction of the bridge: what the classifier of the backbone says of each patch."""
    multilabel_weight: float = Field(default=5.0, ge=0)
    """Binary cross-entropy over the classes of sets whose images have several labels."""
    multiclass_weight: float = Field(default=0.2, ge=0)
    """Cross-entropy over the classes of sets whose images have one label."""
    scale: float = Field(default=30.0, gt=0)
    """What cosines are multiplied by before a softmax over texts: in that cross-entropy, and in use."""

    @model_validator(mode="after")
    def _learns_something(self) -> Self:
        if not (self.distil_weight or self.multilabel_weight or self.multiclass_weight):
            raise ValueError("every weight is 0; set distil_weight, multilabel_weight or multiclass_weight")
        return self


class AlignOptimSection(Section):
    lr: float = Field(default=1e-3, gt=0)
    """Largest rate of a one-cycle schedule (Smith and Topin, 2018): up over 30 % of the steps, down over the rest."""
    scale_lr: float = Field(default=1e-2, gt=0)
    """Of the line from a score to a class logit."""
    weight_decay: float = Field(default=1e-4, ge=0)


class AlignEvaluationSection(Section):
    path: str
    """Prepared data set whose val and test splits are measured; images with several labels."""
    terms: str | None = None
    """As of a source."""
    every_epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=64, ge=1)
    min_images: int = Field(default=10, ge=1)
    """Classes with fewer images in a split have no say in its map."""
    select: Literal["best_map", "last"] = "last"
    """Ranking images of val is learned before segments are: best_map stops early where only images matter."""


class AlignRunConfig(Section):
    """Everything that defines an alignment run."""

    job: Literal["align"]
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    storage: str = "runs"
    """Folder or s3:// address; the run lives in <storage>/<name>/."""
    seed: int = Field(default=0, ge=0)
    epochs: int = Field(default=7, ge=1)
    epoch_steps: int = Field(default=50, ge=1)
    """Optimiser steps of an epoch: sets of different sizes have no epoch in common."""
    workers: int = Field(default=1, ge=0)
    """Training workers; 0 trains inside the calling process, without Ray workers."""
    backbone: Literal["efficientnet_lite0", "squeezenet1_1"] = "efficientnet_lite0"
    text: Literal["minilm"] = "minilm"
    templates: str = "plain"
    """Family of templates that terms are put into."""
    image_size: int = Field(default=320, ge=32, le=1024)
    """Side to which images are squeezed, pixels."""
    hidden: int = Field(default=512, ge=1)
    """Channels of the head between features and texts."""
    features: str | None = None
    """Folder or s3:// address where patch features and text vectors are kept for restarts and other runs; nothing: in
    memory alone."""
    sources: tuple[AlignSource, ...] = Field(min_length=1)
    loss: AlignLossSection = AlignLossSection()
    optim: AlignOptimSection = AlignOptimSection()
    evaluation: AlignEvaluationSection
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="after")
    def _workers_have_sizes(self) -> Self:
        self.resources.sizes(self.workers)  # any of them: an image belongs to one worker
        return self

    @model_validator(mode="after")
    def _paths_differ(self) -> Self:
        paths = [source.path for source in self.sources]
        if len(set(paths)) < len(paths):
            raise ValueError("a path is in sources twice; name each set once and give it more images")
        return self
