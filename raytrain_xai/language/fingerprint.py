"""What an encoder is known by: equal fingerprints, equal vectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


def fingerprint_of(weights: Mapping[str, Tensor], about: Mapping[str, Any]) -> str:
    """SHA-256, hexadecimal, of weights and of whatever else changes the vectors.

    Args:
        weights: name -> tensor; neither their order nor their device, strides or memory format matter.
        about: JSON values, such as the mean of the channels; their order does not matter.
    """
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
