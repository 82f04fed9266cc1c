"""Tensors in one file with a checksum of their content, for files that no manifest lists.

A safetensors file like any other, with one tensor more: ``sha256`` of the names, types, shapes and bytes of the others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

_SEAL = "sha256"


def seal(tensors: Mapping[str, Tensor]) -> bytes:
    """The content of a file for :func:`unseal`; equal tensors give equal files, whatever their device."""
    assert _SEAL not in tensors
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    return safetensors.torch.save({**plain, _SEAL: _digest(plain)})


def unseal(content: bytes) -> dict[str, Tensor]:
    """The tensors that :func:`seal` was given, on the CPU.

    Raises:
        ValueError: not such a file, or one whose content changed.
    """
    try:
        tensors = safetensors.torch.load(content)
    except SafetensorError as error:
        raise ValueError(f"not a whole safetensors file: {error}") from error
    found = tensors.pop(_SEAL, None)
    if found is None:
        raise ValueError("it has no checksum, so another release wrote it")
    if not torch.equal(found, _digest(tensors)):
        raise ValueError("its content differs from its checksum")
    return tensors


def _digest(tensors: Mapping[str, Tensor]) -> Tensor:
    digest = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return torch.frombuffer(bytearray(digest.digest()), dtype=torch.uint8)
