"""Configuration of a run: strict pydantic models, YAML files with dotted overrides.

Unknown keys and bad values are refused with their path, the reason and the valid choices. The resolved
configuration of a run is ``RunConfig.model_dump(mode="json")``; it is written into the run folder and sent to workers.
"""

from __future__ import annotations

import copy
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from raytrain_xai.errors import ConfigError

LossName = Literal["energy", "l1", "ppce", "rrr"]
AttributionName = Literal["bcos", "ixg", "gradcam", "intgrad"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class DataConfig(_Section):
    path: str
    """Folder or s3:// address written by ``raytrain-xai data prepare``."""
    image_size: int = Field(default=224, ge=32, le=1024)
    """Side of the square network input, pixels."""
    augment: Literal["none", "flip", "crop"] = "none"
    """none: resize (the paper's recipe); flip: and mirror; crop: random-resized crop and mirror."""
    num_loader_workers: int = Field(default=0, ge=0, le=64)
    """Decoding processes per training worker; 0 decodes in the training process."""
    cache_decoded: bool = False
    """Keep decoded, resized images in memory; for data sets that fit (3 bytes per pixel), not with augment=crop."""
    shuffle_window: int = Field(default=4096, ge=1)
    """Samples among which the order is drawn, after whole shards have been shuffled."""

    @model_validator(mode="after")
    def _crop_needs_originals(self) -> Self:
        if self.cache_decoded and self.augment == "crop":
            raise ValueError(
                "cache_decoded keeps resized images, augment=crop needs the originals; set one of them off"
            )
        return self


class ModelConfig(_Section):
    name: str
    """Architecture, see ``raytrain_xai.models.zoo.MODEL_NAMES``."""
    weights: str | None = None
    """``imagenet`` (embedded SqueezeNet), a file (.safetensors, .pth), a run folder, or nothing (random)."""
    norm_statistics: Literal["batch", "frozen"] = "frozen"
    """batch: normalisation statistics of the batch, over all workers; frozen: the stored ones (pretrained networks)."""


class OptimConfig(_Section):
    name: Literal["adam", "adamw", "sgd"] = "adam"
    lr: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = Field(default=0, ge=0)
    clip_norm: float | None = Field(default=None, gt=0)


class GuidanceConfig(_Section):
    loss: LossName = "energy"
    weight: float = Field(default=0.0, ge=0)
    """Factor of the localisation loss; 0 trains unguided and still measures everything."""
    attribution: AttributionName | None = None
    """Nothing: bcos for B-cos networks, ixg for the others."""
    layer: str = "Input"
    """Tap of the network: Input, Mid1, Mid2, Mid3, Final, or a block such as layer3.1."""
    annotated_fraction: float = Field(default=1.0, ge=0, le=1)
    """Share of training images whose annotation is used; 1 % lies within 10 % at the same seed."""
    box_dilation: float = Field(default=0.0, ge=0, le=2)
    """Every side of a box moves out by this share of its width or height; training only."""
    annotation: Literal["boxes", "masks"] = "boxes"
    reduction: Literal["sum", "mean"] = "sum"
    """Over the annotated images of a step: sum as in the paper, or mean (weight independent of batch and budget)."""
    intgrad_steps: int = Field(default=8, ge=1, le=512)


class EvaluationConfig(_Section):
    every_epochs: int = Field(default=1, ge=1)
    batch_size: int = Field(default=64, ge=1)
    iou_threshold: float | None = Field(default=None, gt=0, lt=1)
    """Nothing: chosen on the validation split among .05, .10 … .95."""
    order: Literal["canonical", "paper_code"] = "canonical"
    """canonical: resize the signed map, then clamp; paper_code: clamp first for L1 and PPCE, as the released code."""
    select: Literal["last", "best_f1"] = "best_f1"
    """Checkpoint that is measured on the test split at the end."""
    min_f1: float | None = Field(default=None, ge=0, le=1)
    """Stop after an evaluation when the best F1 so far is below this."""

    @field_validator("iou_threshold")
    @classmethod
    def _on_the_grid(cls, value: float | None) -> float | None:
        if value is not None and abs(value * 20 - round(value * 20)) > 1e-6:
            raise ValueError("IoU is measured at .05, .10, … .95; give one of these or nothing")
        return value


class CheckpointConfig(_Section):
    every_steps: int | None = Field(default=None, ge=1)
    """Besides the one after each epoch."""
    keep: int = Field(default=2, ge=1)
    """Newest checkpoints kept for resuming; those on the Pareto front and the best by F1 are kept besides."""


class TrackingConfig(_Section):
    log_every_steps: int = Field(default=10, ge=1)
    tensorboard: bool = True
    mlflow: str | None = None
    """Tracking URI; needs the extra ``mlflow``."""


class ResourcesConfig(_Section):
    cpus_per_worker: float = Field(default=1.0, gt=0)
    gpus_per_worker: float = Field(default=0.0, ge=0)
    max_failures: int = Field(default=2, ge=0)
    """Restarts of the worker group after a crash; each continues from the newest checkpoint."""


class RunConfig(_Section):
    """Everything that defines a guided (or plain) training run."""

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
    data: DataConfig
    model: ModelConfig
    optim: OptimConfig = OptimConfig()
    guidance: GuidanceConfig = GuidanceConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    resources: ResourcesConfig = ResourcesConfig()

    @model_validator(mode="after")
    def _parts_divide_batch(self) -> Self:
        parts = max(self.workers, 1) * self.accumulate
        if self.batch_size % parts:
            raise ValueError(
                f"batch_size {self.batch_size} does not divide into workers x accumulate = {parts} equal parts"
            )
        return self


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file, apply ``a.b=c`` overrides (values are YAML) and validate.

    Raises:
        ConfigError: the file is missing or not a mapping, an override is malformed, a key is unknown or a value
            is refused; all problems are listed, one per line.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"no configuration file at {file}; give the path of a YAML file such as configs/tiny/*.yaml")
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not valid YAML: {_one_line(error)}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{file} holds {type(raw).__name__}, expected a mapping of configuration keys")
    return with_overrides(raw, overrides, source=str(file))


def with_overrides(raw: Mapping[str, Any], overrides: Sequence[str], source: str = "configuration") -> RunConfig:
    """Apply ``a.b=c`` overrides to a mapping and validate; see :func:`load_config`."""
    changed = copy.deepcopy(dict(raw))
    for override in overrides:
        _apply_override(changed, override)
    return parse_config(changed, source=source)


def parse_config(raw: Mapping[str, Any], source: str = "configuration") -> RunConfig:
    """Validate a mapping; see :func:`load_config`."""
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        problems = "; ".join(_describe(problem) for problem in error.errors())
        raise ConfigError(f"{source}: {problems}") from error


def dump_config(config: RunConfig) -> str:
    """YAML text that :func:`load_config` reads back to an equal configuration."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _apply_override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {override!r} is not KEY=VALUE; write for example --set guidance.weight=0.1")
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override!r}: the value is not valid YAML: {_one_line(error)}") from error
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        value = float(value)  # YAML 1.1 reads 1e-3 as text
    *parents, last = key.strip().split(".")
    node = raw
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override!r}: {parent} is a value, not a section")
        node = child
    node[last] = value


def _describe(problem: Mapping[str, Any]) -> str:
    """One validation problem as ``path: reason (choices)``."""
    location = [part for part in problem["loc"] if isinstance(part, str)]
    path = ".".join(location) or "run"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(location[:-1])
        near = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        return f"unknown key {path}; {hint}valid keys here: {', '.join(known)}"
    if problem["type"] == "missing":
        return f"{path} is missing; set it in the file or with --set {path}=VALUE"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"{path}: {message}, got {problem['input']!r}" if location else message


def _known_keys(location: Sequence[str]) -> list[str]:
    section: type[BaseModel] = RunConfig
    for part in location:
        annotation = section.model_fields[part].annotation
        candidates = [annotation, *get_args(annotation)]
        section = next(c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel))
    return list(section.model_fields)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
