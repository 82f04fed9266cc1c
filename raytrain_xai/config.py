"""Configuration of a run: strict pydantic models, YAML files with dotted overrides.

Unknown keys and bad values are refused with their path, the reason and the valid choices. The resolved
configuration of a run is ``RunConfig.model_dump(mode="json")``; it is written into the run folder and sent to workers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from raytrain_xai.align_config import AlignRunConfig
from raytrain_xai.caption_config import CaptionRunConfig
from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.config_text import dump_config, overridden, read_yaml, validated
from raytrain_xai.errors import ConfigError
from raytrain_xai.insight_config import InsightRunConfig
from raytrain_xai.sections import (
    BcosifyConfig,
    CheckpointConfig,
    DataConfig,
    DistillConfig,
    EmaConfig,
    EvaluationConfig,
    GuidanceConfig,
    LossConfig,
    MixingConfig,
    ModelConfig,
    OptimConfig,
    ResourcesConfig,
    Section,
    TrackingConfig,
)

__all__ = [
    "AnyRunConfig",
    "BcosifyConfig",
    "CheckpointConfig",
    "DataConfig",
    "DistillConfig",
    "EmaConfig",
    "EvaluationConfig",
    "GuidanceConfig",
    "LossConfig",
    "MixingConfig",
    "ModelConfig",
    "OptimConfig",
    "ResourcesConfig",
    "RunConfig",
    "TrackingConfig",
    "dump_config",
    "load_config",
    "overridden",
    "parse_config",
    "read_yaml",
    "validated",
    "with_overrides",
]


class RunConfig(Section):
    """Everything that defines a guided (or plain) training run."""

    job: Literal["classify"] = "classify"
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    storage: str = "runs"
    """Folder or s3:// address; the run lives in <storage>/<name>/."""
    seed: int = Field(default=0, ge=0)
    epochs: int = Field(ge=1)
    workers: int = Field(default=1, ge=0)
    """Training workers; 0 trains inside the calling process, without Ray workers."""
    batch_size: int = Field(default=64, ge=1)
    """Samples per optimiser step over all workers and accumulated parts."""
    accumulate: int = Field(default=1, ge=1)
    """Parts in which a worker computes its share of a batch."""
    precision: Literal["float32", "bfloat16"] = "float32"
    channels_last: bool = False
    compile: bool = False
    """Compile the training pass (minutes at the start); for plain training, guided steps gain next to nothing."""
    data: DataConfig
    model: ModelConfig
    optim: OptimConfig = OptimConfig()
    loss: LossConfig = LossConfig()
    mixing: MixingConfig = MixingConfig()
    ema: EmaConfig = EmaConfig()
    guidance: GuidanceConfig = GuidanceConfig()
    bcosify: BcosifyConfig | None = None
    """Start from a plain network and learn its features; for models named ``bcosified_*``."""
    distill: DistillConfig | None = None
    """Learn from a teacher."""
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="after")
    def _parts_divide_batch(self) -> Self:
        if self.resources.min_workers is not None:
            return self._check_elastic()
        parts = max(self.workers, 1) * self.accumulate
        if self.batch_size % parts:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide into workers x accumulate = {parts} equal parts"
            )
        if self.mixing.is_on and self.batch_size // parts % 2:
            raise ValueError(f"mixing needs pairs, each part of a batch has {self.batch_size // parts} images")
        return self

    def _check_elastic(self) -> Self:
        """Parts of any number of workers: they may differ by one image, or by a pair of them where images are mixed."""
        most, each = self.resources.sizes(self.workers)[-1] * self.accumulate, 2 if self.mixing.is_on else 1
        if self.batch_size % each or self.batch_size < most * each:
            raise ValueError(
                f"batch_size {self.batch_size} leaves some of workers x accumulate = {most} parts without "
                f"{'a pair of images to mix' if each == 2 else 'an image'}"
            )
        if self.distill is not None and self.distill.baseline == "crd":  # it gathers features, equally many of each
            self.resources.check_shares(self.batch_size, "batch_size", self.workers)
        return self

    @property
    def fixes_logits(self) -> bool:
        """Whether training says where a logit of 0 is, at which F1 is decided; some losses see only differences."""
        if self.distill is None or self.distill.truth_weight > 0:
            return self.loss.name != "cross_entropy"
        return self.distill.form == "bernoulli" and self.distill.kd_weight > 0

    @model_validator(mode="after")
    def _f1_has_a_meaning(self) -> Self:
        if self.fixes_logits or (self.evaluation.select != "best_f1" and self.evaluation.min_f1 is None):
            return self
        if self.distill is None or self.distill.truth_weight > 0:
            cause, remedy = "loss.name=cross_entropy fixes", ""
        else:
            cause = f"distill.form={self.distill.form} without distill.truth_weight fixes"
            remedy = ", or for images with several labels distill.form to bernoulli with a kd_weight"
        raise ValueError(
            f"{cause} only differences of logits, F1 is decided at logit 0: set evaluation.select to best_accuracy or "
            f"last, and no min_f1{remedy}"
        )

    @model_validator(mode="after")
    def _boxes_stay_true(self) -> Self:
        if self.guidance.weight > 0 and (self.mixing.is_on or self.data.policy != "none"):
            raise ValueError(
                "boxes do not follow images that are mixed or bent: set guidance.weight=0, or mixup_alpha, "
                "cutmix_alpha and data.policy off"
            )
        return self

    @model_validator(mode="after")
    def _compiles_what_is_plain(self) -> Self:
        if self.compile and (self.guidance.weight > 0 or self.bcosify is not None):
            raise ValueError("compile is for plain training: set guidance.weight=0 and no bcosify, or compile=false")
        return self

    @model_validator(mode="after")
    def _distils_alone(self) -> Self:
        if self.distill is None:
            if self.data.measured is not None:
                raise ValueError("data.measured is for distillation on unrelated pictures; set distill.teacher")
            return self
        if self.bcosify is not None or self.guidance.weight > 0 or self.compile:
            raise ValueError("distill does not go together with bcosify, guidance.weight or compile; set them off")
        if self.distill.cache is not None and (self.mixing.is_on or self.data.policy != "none" or self.data.erase > 0):
            raise ValueError(
                "distill.cache holds answers about whole images, which follow crops, shifts and mirrors only: set "
                "mixup_alpha, cutmix_alpha, data.policy and data.erase off, or leave distill.cache out"
            )
        if self.data.measured is not None and self.distill.truth_weight > 0:
            raise ValueError("the labels of data.path are not those of data.measured; set distill.truth_weight=0")
        return self

    @model_validator(mode="after")
    def _bcosify_fits(self) -> Self:
        if self.bcosify is None:
            return self
        if not self.model.name.startswith("bcosified_"):
            raise ValueError(f"bcosify needs a model named bcosified_*, got model.name={self.model.name}")
        if self.mixing.is_on:
            raise ValueError("the teacher of bcosify sees images as they are; set mixup_alpha and cutmix_alpha off")
        return self


AnyRunConfig = RunConfig | ConceptRunConfig | InsightRunConfig | AlignRunConfig | CaptionRunConfig
"""Configuration of any kind of run; its key ``job`` tells them apart, and of concepts whether there is ``encoder``."""


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read the YAML file of a classifier's run, apply ``a.b=c`` overrides (values are YAML) and validate.

    Raises:
        ConfigError: the file is missing or not a mapping, an override is malformed, a key is unknown or a value
            is refused; all problems are listed, one per line.
    """
    return with_overrides(read_yaml(Path(path)), overrides, source=str(path))


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> AnyRunConfig:
    """As :func:`load_config`, for any kind of run; its key ``job`` says which."""
    return job_with_overrides(read_yaml(Path(path)), overrides, source=str(path))


def with_overrides(raw: Mapping[str, Any], overrides: Sequence[str], source: str = "configuration") -> RunConfig:
    """Apply ``a.b=c`` overrides to a mapping and validate; see :func:`load_config`."""
    return parse_config(overridden(raw, overrides), source=source)


def job_with_overrides(raw: Mapping[str, Any], overrides: Sequence[str], source: str) -> AnyRunConfig:
    """As :func:`with_overrides`, for any kind of run."""
    return parse_job(overridden(raw, overrides), source=source)


def parse_job(raw: Mapping[str, Any], source: str = "configuration") -> AnyRunConfig:
    """Validate a mapping as the kind of run that its key ``job`` names; without one, as a classifier's."""
    if raw.get("job") == "concepts":
        return parse_insight_config(raw, source) if "encoder" in raw else parse_concept_config(raw, source)
    if raw.get("job") == "align":
        return validated(AlignRunConfig, raw, source)
    if raw.get("job") == "caption":
        return validated(CaptionRunConfig, raw, source)
    if raw.get("job", "classify") != "classify":
        raise ConfigError(f"{source}: job is {raw['job']!r}; it is classify, concepts, align or caption")
    return parse_config(raw, source)


def parse_config(raw: Mapping[str, Any], source: str = "configuration") -> RunConfig:
    """Validate a mapping; see :func:`load_config`."""
    if raw.get("job") == "concepts":
        raise ConfigError(
            f"{source} describes a concept run, a classifier's is needed here; it is in its folder network"
        )
    return validated(RunConfig, raw, source)


def parse_concept_config(raw: Mapping[str, Any], source: str = "configuration") -> ConceptRunConfig:
    """Validate the mapping of a concept run (``job: concepts``); see :func:`load_config`."""
    if raw.get("job") != "concepts":
        raise ConfigError(f"{source} describes a classifier's run, a concept run is needed here (job: concepts)")
    if "encoder" in raw:
        raise ConfigError(
            f"{source} describes concepts of an encoder, those of a B-cos network are needed here; for an encoder "
            "there is `raytrain-xai insight`"
        )
    return validated(ConceptRunConfig, raw, source)


def parse_insight_config(raw: Mapping[str, Any], source: str = "configuration") -> InsightRunConfig:
    """Validate the mapping of a concept run of an encoder; see :func:`load_config`."""
    if raw.get("job") != "concepts" or "encoder" not in raw:
        raise ConfigError(
            f"{source} describes another kind of run, one of the concepts of an encoder is needed here (job: concepts, "
            "with the key encoder)"
        )
    return validated(InsightRunConfig, raw, source)
