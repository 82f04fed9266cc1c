"""Sections of a run's configuration: strict, frozen pydantic models, one per concern.

A field's docstring is its documentation; checks that concern one section are here, those between sections in
:class:`raytrain_xai.config.RunConfig`.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from raytrain_xai.credentials import refuse_credentials

LossName = Literal["energy", "l1", "ppce", "rrr"]
AttributionName = Literal["bcos", "ixg", "gradcam", "intgrad"]
ClassLossName = Literal["bce", "off_label_bce", "cross_entropy"]
AugmentName = Literal["none", "flip", "shift", "crop"]
PolicyName = Literal["none", "randaugment", "trivialaugment"]
BaselineName = Literal["attention_transfer", "review_kd", "cat_kd", "crd"]
StrategyName = Literal[
    "random", "class_balanced", "lowest_confidence", "attribution_entropy", "disagreement", "k_centre"
]


class Section(BaseModel):
    """Unknown keys are refused, values cannot change, and addresses hold no credentials."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _without_credentials(cls, values: object) -> object:
        refuse_credentials(values)
        return values


class DataConfig(Section):
    path: str
    """Folder or s3:// address written by ``raytrain-xai data prepare``."""
    image_size: int = Field(default=224, ge=32, le=1024)
    """Side of the square network input, pixels."""
    train_size: int | None = Field(default=None, ge=32, le=1024)
    """Side of the images in training, pixels; nothing: image_size."""
    eval_resize: int | None = Field(default=None, ge=32, le=2048)
    """Shorter side before the central square is cut out, outside training; nothing: squeeze to a square (guidance)."""
    augment: AugmentName = "none"
    """none: resize (the paper's recipe); flip: and mirror; shift: and move by up to 1/8; crop: crop, resize, mirror."""
    crop_area: float = Field(default=0.7, gt=0, le=1)
    """Smallest share of an image that augment=crop keeps; .08 for ImageNet recipes, .7 where boxes should survive."""
    policy: PolicyName = "none"
    """Changes of colour and shape at random after that; boxes do not follow, so not with guidance."""
    magnitude: int = Field(default=9, ge=0, le=30)
    """Strength of randaugment; trivialaugment draws its own."""
    erase: float = Field(default=0.0, ge=0, le=1)
    """Probability that a random rectangle of a training image is blackened."""
    repeats: int = Field(default=1, ge=1, le=16)
    """Times an image is drawn into a step, each augmented anew; an epoch keeps its length and sees fewer images."""
    num_loader_workers: int = Field(default=0, ge=0, le=64)
    """Decoding processes per training worker; 0 decodes in the training process."""
    cache_decoded: bool = False
    """Keep decoded, resized images in memory; for data sets that fit (3 bytes per pixel), not with augment=crop."""
    shots: int | None = Field(default=None, ge=1)
    """Training images per class, drawn by labels and seed; nothing: all."""
    measured: str | None = None
    """Data set for validation and test where ``path`` only supplies images (distillation on unrelated pictures)."""
    shuffle_window: int = Field(default=4096, ge=1)
    """Samples among which the order is drawn, after whole shards have been shuffled."""

    @property
    def evaluated(self) -> str:
        """Address of the data set of validation and test."""
        return self.measured or self.path

    @model_validator(mode="after")
    def _crop_needs_originals(self) -> Self:
        if self.cache_decoded and self.augment == "crop":
            raise ValueError(
                "cache_decoded keeps resized images, augment=crop needs the originals; set one of them off"
            )
        return self

    @model_validator(mode="after")
    def _centre_fits(self) -> Self:
        if self.eval_resize is not None and self.eval_resize < self.image_size:
            raise ValueError(f"eval_resize {self.eval_resize} is smaller than the square of {self.image_size} cut out")
        return self


class ModelConfig(Section):
    name: str
    """Architecture, see ``raytrain_xai.models.zoo.MODEL_NAMES``."""
    weights: str | None = None
    """``official`` (published, see ``raytrain-xai models info``), ``imagenet`` (SqueezeNet) or ``voc`` (its B-cosified
    form) from the package, a file, a run folder, or nothing (random)."""
    norm_statistics: Literal["batch", "local", "frozen"] = "frozen"
    """batch: normalisation statistics of the batch, over all workers; local: torch's BatchNorm takes those of the share
    of each worker, as most published trainings; frozen: the stored ones (pretrained networks)."""
    stochastic_depth: float = Field(default=0.0, ge=0, lt=1)
    """Probability that the last residual block is left out in training, growing linearly from 0 at the first."""


class OptimConfig(Section):
    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "cosine", "step"] = "constant"
    """After the warm-up: constant; half a cosine down to 0; or step_factor times less every step_epochs."""
    step_epochs: int = Field(default=30, ge=1)
    step_factor: float = Field(default=0.1, gt=0, le=1)
    warmup_steps: int = Field(default=0, ge=0)
    warmup_epochs: float = Field(default=0.0, ge=0)
    """The same in epochs, for recipes that do not know the size of the data set."""
    warmup_start: float | None = Field(default=None, ge=0, le=1)
    """Share of lr at which the warm-up starts; nothing: at lr / (number of warm-up steps)."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Longest gradient, over all parameters together (L2)."""
    agc: float | None = Field(default=None, gt=0)
    """Adaptive gradient clipping: longest gradient of a unit relative to its weights."""

    @model_validator(mode="after")
    def _one_of_a_kind(self) -> Self:
        if self.warmup_steps and self.warmup_epochs:
            raise ValueError("warmup_steps and warmup_epochs are both set; choose one")
        if self.clip_norm is not None and self.agc is not None:
            raise ValueError("clip_norm and agc are both set; choose one")
        return self


class LossConfig(Section):
    name: ClassLossName = "bce"
    """Classification loss. bce: each class for itself; off_label_bce: no target below 1/classes, as published B-cos
    networks were trained; cross_entropy: classes compete, for images with one label."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of a target that is spread evenly over all classes."""


class MixingConfig(Section):
    mixup_alpha: float = Field(default=0.0, ge=0)
    """Parameter of the Beta distribution by which two images are blended; 0 never blends."""
    cutmix_alpha: float = Field(default=0.0, ge=0)
    """The same for the share of a rectangle pasted from another image. With both, half of the pairs take each."""

    @property
    def is_on(self) -> bool:
        """Whether any pair is mixed."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0


class EmaConfig(Section):
    decay: float | None = Field(default=None, gt=0, lt=1)
    """Share of the average that an update keeps; nothing: no average. With one, it is what is measured and used."""
    every_steps: int = Field(default=1, ge=1)


class GuidanceConfig(Section):
    loss: LossName = "energy"
    weight: float = Field(default=0.0, ge=0)
    """Factor of the localisation loss; 0 trains unguided and still measures everything."""
    attribution: AttributionName | None = None
    """Nothing: bcos for B-cos networks, ixg for the others."""
    layer: str = "Input"
    """Tap of the network: Input, Mid1, Mid2, Mid3, Final, or a block such as layer3.1."""
    annotated_fraction: float = Field(default=1.0, ge=0, le=1)
    """Share of training images whose annotation is used; 1 % lies within 10 % at the same seed."""
    annotation_order: str | None = None
    """File (local or s3://) of ``raytrain-xai annotate suggest``: the images are the first of it. Nothing: drawn."""
    box_dilation: float = Field(default=0.0, ge=0, le=2)
    """Every side of a box moves out by this share of its width or height; training only."""
    annotation: Literal["boxes", "masks"] = "boxes"
    reduction: Literal["sum", "mean"] = "sum"
    """Over the annotated images of a step: sum as in the paper, or mean (weight independent of batch and budget)."""
    intgrad_steps: int = Field(default=8, ge=1, le=512)


class BcosifyConfig(Section):
    """B-cosification: the start is the plain network unless ``model.weights`` is given."""

    weights: str = "imagenet"
    """Of the plain network, as ``model.weights``; it gives the start, and its features teach."""
    fold: Literal["exact", "halves"] = "exact"
    """First filters, for six channels: exact takes in the normalisation of the input; halves (w/2, -w/2) compares."""
    calibration_images: int = Field(default=64, ge=0)
    """Training images from which the gains are set; 0 leaves them at 1."""
    distil_weight: float = Field(default=0.4, ge=0)
    """Factor of the distance between the features and those of the plain network."""
    distil_epochs: int = Field(default=3, ge=0)
    """Epochs at the start in which only the features learn."""


class DistillConfig(Section):
    """Distillation: a network (the student, ``model``) learns to answer and to explain as another one (the teacher).

    The loss is the sum of the terms below, each with its weight; what has weight 0 costs nothing.
    """

    teacher: str
    """Run folder (local or s3://), or NAME=WEIGHTS as of ``model.name`` and ``model.weights``."""
    cache: str | None = None
    """Folder or s3:// address written by ``raytrain-xai distill cache``: answers about whole images, which are moved
    along with every crop and mirror. Nothing: the teacher answers live."""
    kd_weight: float = Field(default=1.0, ge=0)
    temperature: float = Field(default=1.0, gt=0)
    form: Literal["softmax", "bernoulli"] = "softmax"
    """Of L_KD: classes compete (also for B-cos networks), or each class for itself (several labels per image)."""
    explanation_weight: float = Field(default=0.0, ge=0)
    explanation: Literal["weights", "gradcam"] | None = None
    """weights: the linear map of a B-cos network at the input; gradcam: at the last features. Nothing: weights where
    both networks are B-cos, else gradcam."""
    explain_every: int = Field(default=1, ge=1)
    """Steps between those with L_exp; more than 1 is cheaper, and another method."""
    truth_weight: float = Field(default=0.0, ge=0)
    """Of the classification loss; 0 needs no labels."""
    baseline: BaselineName | None = None
    """Published loss to compare with, on features or relations instead of explanations."""
    baseline_weight: float = Field(default=0.0, ge=0)
    """Published: attention_transfer 1000, review_kd 1, crd .8, cat_kd 100 (400 in its code, see there)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the live teacher."""

    @model_validator(mode="after")
    def _learns_something(self) -> Self:
        if not (self.kd_weight or self.explanation_weight or self.truth_weight or self.baseline_weight):
            raise ValueError("every weight is 0; set kd_weight, explanation_weight, truth_weight or baseline_weight")
        if self.explain_every > 1 and not (self.kd_weight or self.truth_weight or self.baseline_weight):
            raise ValueError("explain_every leaves steps without any loss; set it to 1, or kd_weight above 0")
        if (self.baseline is None) != (self.baseline_weight == 0):
            raise ValueError("baseline and baseline_weight go together; set both or none")
        if self.cache is not None and self.baseline is not None:
            raise ValueError("a cache has no features of the teacher, which the baselines need; set cache to nothing")
        return self


class EvaluationConfig(Section):
    every_epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=64, ge=1)
    iou_threshold: float | None = Field(default=None, gt=0, lt=1)
    """Nothing: chosen on the validation split among .05, .10 … .95."""
    order: Literal["canonical", "paper_code"] = "canonical"
    """canonical: resize the signed map, then clamp; paper_code: clamp first for L1 and PPCE, as the released code."""
    select: Literal["last", "best_f1", "best_accuracy"] = "best_f1"
    """Checkpoint that is measured on the test split at the end; cross_entropy, and softmax distillation without
    truth_weight, leave F1 without meaning."""
    min_f1: float | None = Field(default=None, ge=0, le=1)
    """Stop after an evaluation when the best F1 so far is below this."""

    @field_validator("iou_threshold")
    @classmethod
    def _on_the_grid(cls, value: float | None) -> float | None:
        if value is not None and abs(value * 20 - round(value * 20)) > 1e-6:
            raise ValueError("IoU is measured at .05, .10, … .95; give one of these or nothing")
        return value


class CheckpointConfig(Section):
    every_steps: int | None = Field(default=None, ge=1)
    """Besides the one after each epoch."""
    keep: int = Field(default=2, ge=1)
    """Newest checkpoints kept for resuming; those on the Pareto front and the best by F1 are kept besides."""


class TrackingConfig(Section):
    log_every_steps: int = Field(default=10, ge=1)
    tensorboard: bool = True
    mlflow: str | None = None
    """Tracking URI; needs the extra ``mlflow``. User and password by the usual variables of MLflow, never in here."""


class ResourcesConfig(Section):
    cpus_per_worker: float = Field(default=1.0, gt=0)
    gpus_per_worker: float = Field(default=0.0, ge=0)
    max_failures: int = Field(default=2, ge=0)
    """Restarts of the worker group after a crash; each continues from the newest checkpoint."""
    min_workers: int | None = Field(default=None, ge=1)
    """Elastic: train on as many of ``workers`` as the cluster offers, no fewer than this; nothing: on all or none.
    Batch and learning rate stay what they are: the workers that are there share out the batch."""
    capacity_deadline_s: float | None = Field(default=86400.0, gt=0)
    """Seconds without enough workers, at the start or after a loss, that end the run; nothing: it waits on."""

    def sizes(self, workers: int) -> range:
        """Numbers of workers that a run with at most ``workers`` may train on.

        Raises:
            ValueError: ``min_workers`` is more than there are workers.
        """
        if self.min_workers is None:
            return range(max(workers, 1), max(workers, 1) + 1)
        if self.min_workers > workers:
            raise ValueError(f"resources.min_workers {self.min_workers} is more than workers {workers}")
        return range(self.min_workers, workers + 1)

    def check_shares(self, total: int, what: str, workers: int) -> None:
        """Check that ``total`` of ``what`` divides into equal shares, however many of the workers there are.

        Raises:
            ValueError: names the number of workers that it does not divide by.
        """
        for size in self.sizes(workers):
            if total % size:
                raise ValueError(f"{what} {total} does not divide into {size} equal shares")
