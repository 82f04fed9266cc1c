"""Files of other codes as safetensors: classifiers, checked against their architecture, and concept layers of FaCT."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from raytrain_xai.errors import CheckpointError
from raytrain_xai.models.weight_files import parse_state_dict, parse_torch
from raytrain_xai.models.weights import check_fit, classifier_keys, read_state_dict
from raytrain_xai.models.zoo import build_network
from raytrain_xai.storage import locate, read_bytes, write_bytes

CONCEPT_LAYER = "topk_sae"  # what ``convert_concept_layer`` reads, where a command asks for an architecture


def convert_classifier(source: str, architecture: str, out: str) -> int:
    """Write a classifier's weights with public keys; every key and shape must be that of the architecture.

    Args:
        source: any source of :func:`~raytrain_xai.models.weights.load_weights`.
        architecture: name in the zoo.
        out: safetensors file to write (local or ``s3://``); its metadata names the architecture.
    Returns:
        Number of classes.
    Raises:
        ConfigError: unknown architecture or kind of file.
        CheckpointError: the file cannot be read, or belongs to another architecture.
    """
    state = read_state_dict(source, architecture=architecture)
    with torch.device("meta"):
        heads = [key for key in classifier_keys(build_network(architecture, 1)) if key in state and state[key].dim()]
        num_classes = state[heads[0]].shape[0] if heads else 1
        check_fit(state, build_network(architecture, num_classes), source)
    about = {"architecture": architecture, "num_classes": str(num_classes)}
    write_bytes(locate(out), save({key: value.contiguous() for key, value in state.items()}, metadata=about))
    return num_classes


def convert_concept_layer(source: str, out: str) -> tuple[int, int, int]:
    """Write a published concept layer of FaCT as safetensors, ``k`` as metadata.

    The layer is u = TopK_k(ReLU(W F)), F' = V u without any bias (Parchami-Araghi et al., NeurIPS 2025, arXiv
    2510.25512). Tensors: ``encoder.weight`` W (K, C) and ``decoder.weight`` V (C, K). The file's ``threshold`` is left
    out, since only the training code of the layer reads it, and so is its training log.

    Returns:
        Concepts K, channels C, and concepts k active at a position.
    Raises:
        CheckpointError: the file cannot be read, or does not hold such a layer; a bias is refused, since it would add
            a share that belongs to no concept.
    """
    encoder, decoder, k = read_concept_layer(source)
    tensors = {"encoder.weight": encoder.contiguous(), "decoder.weight": decoder.contiguous()}
    write_bytes(locate(out), save(tensors, metadata={"format": CONCEPT_LAYER, "k": str(k)}))
    return encoder.shape[0], encoder.shape[1], k


def read_concept_layer(source: str) -> tuple[Tensor, Tensor, int]:
    """Encoder (K, C), decoder (C, K) and k of a published concept layer of FaCT, or of what this module made of one.

    Args:
        source: .pt file as published, or .safetensors of :func:`convert_concept_layer`; local or ``s3://``.
    Raises:
        CheckpointError: as for :func:`convert_concept_layer`.
    """
    data = read_bytes(locate(source))
    if not source.lower().partition("?")[0].endswith(".safetensors"):
        return _concept_layer(parse_torch(data, source), source)
    tensors: dict[str, Any] = dict(parse_state_dict(data, source.partition("?")[0], source))
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # whole, since the tensors could be read
    k = str(header.get("__metadata__", {}).get("k", ""))
    return _concept_layer(tensors | ({"k": int(k)} if k.isdecimal() else {}), source)


def _concept_layer(loaded: Any, source: str) -> tuple[Tensor, Tensor, int]:
    expected = "expected encoder.weight (K, C), decoder.weight (C, K), the number k, and no bias"
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{source} holds no concept layer (found {type(loaded).__name__}); {expected}")
    encoder, decoder, k = (loaded.get(key) for key in ("encoder.weight", "decoder.weight", "k"))
    biases = sorted(str(key) for key in loaded if "bias" in str(key) or str(key).startswith("b_"))
    if not isinstance(encoder, Tensor) or not isinstance(decoder, Tensor) or k is None or biases:
        keys = ", ".join(sorted(map(str, loaded))[:6])
        raise CheckpointError(f"{source} holds no concept layer without bias (its keys: {keys}); {expected}")
    if encoder.dim() != 2 or decoder.shape != encoder.T.shape or not 1 <= int(k) <= encoder.shape[0]:
        shapes = f"encoder {tuple(encoder.shape)}, decoder {tuple(decoder.shape)}, k {int(k)}"
        raise CheckpointError(f"{source} is damaged: {shapes}; {expected}")
    return encoder, decoder, int(k)
