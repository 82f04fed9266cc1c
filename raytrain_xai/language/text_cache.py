"""Text vectors on disk, so that a term is encoded once for an encoder and its templates.

A cache is a folder, local or s3://, with one folder for each encoder and templates, and in it one safetensors file for
each block of terms that was encoded, named by its terms. Writers add files and change none, so any number of processes
may share it without a lock: the worst that a race costs is a block that is encoded twice.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from raytrain_xai.errors import CheckpointError
from raytrain_xai.sealed import seal, unseal
from raytrain_xai.storage import Location, list_names, read_many, write_bytes

_ENDING = ".safetensors"
_VECTORS = "vectors"
_TERMS = "terms"


class TextCache:
    """Vectors of terms, kept in a folder.

    Args:
        folder: made with the first vectors.
    """

    def __init__(self, folder: Location) -> None:
        self._folder = folder

    def vectors(self, terms: Sequence[str], *, of: Sequence[str], encode: Callable[[Sequence[str]], Tensor]) -> Tensor:
        """Vectors of terms; those that are not there yet are encoded and kept.

        Args:
            terms: M terms, repeats allowed.
            of: all that decides about the vector of a term, such as the fingerprint of the encoder and the templates.
            encode: m new terms, all different -> (m, D).
        Returns:
            (M, D) float32 on the CPU.
        Raises:
            CheckpointError: a file of the cache is damaged.
            DataError: the folder cannot be read or written.
        """
        folder = self._folder.child(_digest(of))
        known = _read(folder)
        new = [term for term in dict.fromkeys(terms) if term not in known]
        if new:
            fresh = encode(new).detach().float().cpu()
            write_bytes(folder.child(f"{_digest(new)}{_ENDING}"), _pack(new, fresh))
            known |= zip(new, fresh, strict=True)
        return torch.stack([known[term] for term in terms])


def _read(folder: Location) -> dict[str, Tensor]:
    """Term -> vector (D,), of all files of a folder."""
    known: dict[str, Tensor] = {}
    names = [name for name in list_names(folder) if name.endswith(_ENDING)]
    for name, content in zip(names, read_many(folder, names), strict=True):
        try:
            tensors = unseal(content)
            terms: list[str] = json.loads(bytes(tensors[_TERMS].tolist()))
            known |= zip(terms, tensors[_VECTORS], strict=True)
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"{folder.child(name).uri} is damaged; delete it, its terms are encoded anew ({error})"
            ) from error
    return known


def _pack(terms: Sequence[str], vectors: Tensor) -> bytes:
    # terms lie beside the vectors as bytes: readers of safetensors from memory do not return its metadata
    text = torch.frombuffer(bytearray(json.dumps(list(terms)).encode()), dtype=torch.uint8)
    return seal({_VECTORS: vectors, _TERMS: text})


def _digest(parts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:32]
