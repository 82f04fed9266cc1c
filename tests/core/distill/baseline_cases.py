"""Batches, networks and features for the tests of baselines."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from raytrain_xai.config import RunConfig, parse_config
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network
from raytrain_xai.types import Batch

SIZE = 48


def batch_of(index: list[int], step_size: int | None = None) -> Batch:
    """Random images, each a function of its number."""
    count = len(index)
    images = [torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(number)) for number in index]
    return Batch(
        images=torch.stack(images),
        labels=torch.eye(3)[torch.tensor(index) % 3],
        boxes=torch.zeros(count, 0, 4),
        box_labels=torch.zeros(count, 0, dtype=torch.int64),
        masks=None,
        has_mask=torch.zeros(count, dtype=torch.bool),
        annotated_rows=torch.zeros(0, dtype=torch.int64),
        groups=torch.full((count,), -1),
        index=torch.tensor(index),
        step_size=step_size or count,
        step_annotated=0,
    )


def network_of(name: str, seed: int = 0) -> Network:
    """In evaluation mode and float64, so that one image does not depend on the others."""
    torch.manual_seed(seed)
    return build_network(name, 3).double().eval()


def config_of(baseline: str, **sections: Any) -> RunConfig:
    raw: dict[str, Any] = {
        "name": "run", "epochs": 1, "data": {"path": "anywhere"}, "model": {"name": "bcos_resnet_tiny"},
        "distill": {"teacher": "elsewhere", "baseline": baseline, "baseline_weight": 1.0},
        "evaluation": {"select": "last"},
    }  # fmt: skip
    for name, section in sections.items():
        raw[name] = {**raw.get(name, {}), **section} if isinstance(section, dict) else section
    return parse_config(raw)


def random_maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
