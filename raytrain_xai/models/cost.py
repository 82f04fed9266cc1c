"""Size and work of an architecture, counted on shapes alone."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.resources import files

import torch
from torch.utils.flop_counter import FlopCounterMode

from raytrain_xai.models.zoo import build_network, find_architecture


@dataclass(frozen=True)
class Cost:
    """Cost of one image.

    Attributes:
        parameters: numbers that training changes; buffers are not among them.
        multiply_adds: of convolutions, linear layers and attention in a forward pass, the "FLOPs" of most papers and of
            torchvision. Elementwise work, pooling and patch norms are not counted.
        image_size: side of the image, pixels.
    """

    parameters: int
    multiply_adds: int
    image_size: int


def count_cost(name: str, num_classes: int = 1000) -> Cost:
    """Count without allocating or computing anything (on torch's meta device).

    Raises:
        ConfigError: unknown name.
    """
    size = find_architecture(name).image_size
    with torch.device("meta"), torch.no_grad():
        network = build_network(name, num_classes).eval()
        parameters = sum(parameter.numel() for parameter in network.parameters())
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, 3, size, size))
    return Cost(parameters, counter.get_total_flops() // 2, size)


def listed_costs() -> dict[str, Cost]:
    """Costs of all architectures with 1000 classes, from ``costs.csv``: counting them takes half a minute."""
    text = (files("raytrain_xai.models") / "costs.csv").read_text(encoding="utf-8")
    return {
        row["architecture"]: Cost(
            int(row["parameters"]), int(row["multiply_adds"]), find_architecture(row["architecture"]).image_size
        )
        for row in csv.DictReader(text.splitlines())
    }
