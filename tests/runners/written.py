"""What a run left in its folder, as tests compare it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raytrain_xai.config import AnyRunConfig


def folder(config: AnyRunConfig) -> Path:
    """Of a run on this machine."""
    return Path(config.storage) / config.name


def records(config: AnyRunConfig, kind: str | None = None) -> list[dict[str, Any]]:
    """Lines of its log; of one kind."""
    lines = (folder(config) / "metrics.jsonl").read_text().splitlines()
    return [record for line in lines if (record := json.loads(line))["kind"] == kind or kind is None]


def step_files(config: AnyRunConfig, step: int) -> dict[str, bytes]:
    """Name -> content of the tensors of a checkpoint."""
    at = folder(config) / "checkpoints" / f"step-{step:08d}"
    return {file.name: file.read_bytes() for file in at.glob("*.safetensors")}


def results(config: AnyRunConfig) -> dict[str, bytes]:
    """What a run has to show: the tensors of its last checkpoint, and its metrics."""
    last = max((folder(config) / "checkpoints").iterdir()).name
    metrics = (folder(config) / "metrics.json").read_bytes()
    return {"last": last.encode(), "metrics": metrics, **step_files(config, int(last.removeprefix("step-")))}
