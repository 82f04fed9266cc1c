"""Weights for a network: the embedded ones, a file, or a run. Tensors only; nothing in a file is ever executed."""

from __future__ import annotations

import io
import logging
import pickle
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.run_folder import CONFIG
from raytrain_xai.storage import Location, exists, locate, read_bytes

if TYPE_CHECKING:
    from raytrain_xai.models.network import Network

logger = logging.getLogger(__name__)

EMBEDDED = {"squeezenet1_1": "squeezenet1_1_imagenet_fp16.safetensors"}
CONTAINERS = ("state_dict", "model")  # keys under which training scripts keep the state dict
PREFIXES = ("module.", "0.")  # of DistributedDataParallel, and of B-cos networks stored with their logit layer


def load_weights(network: Network, source: str) -> None:
    """Load weights into ``network.net``.

    A classifier for another number of classes is left at its random initialisation, with a warning; everything else
    must fit exactly. Half-precision weights are widened to the type of the network.

    Args:
        network: changed in place.
        source: ``imagenet`` (embedded, SqueezeNet only), a ``.safetensors`` file, a ``.pth`` or ``.pt`` file with a
            plain state dict, or the folder of a run, of which the selected checkpoint is taken; local or ``s3://``.
    Raises:
        ConfigError: ``imagenet`` for an architecture without embedded weights, or an unknown kind of file.
        CheckpointError: missing, truncated or unsafe file, or weights of another architecture.
    """
    state = read_state_dict(source, architecture=network.name)
    state = _without_foreign_head(state, network, source)
    _check_fit(state, network, source)
    network.net.load_state_dict(state, strict=False)  # checked above; only batch counters may be absent


def read_state_dict(source: str, *, architecture: str) -> dict[str, Tensor]:
    """Read a state dict with public key names (prefixes of wrappers removed); see :func:`load_weights`."""
    if source == "imagenet":
        return _read_embedded(architecture)
    at = locate(source)
    if not exists(at):
        raise CheckpointError(
            f"no weights at {source}; give imagenet, a .safetensors or .pth file, or the folder of a run"
        )
    name = at.path.lower()
    if name.endswith(".safetensors"):
        return _without_prefix(_parse_safetensors(read_bytes(at), source))
    if name.endswith((".pth", ".pt")):
        return _without_prefix(_plain_tensors(_parse_torch(read_bytes(at), source), source))
    return _read_run(at, source)


def classifier_keys(network: Network) -> list[str]:
    """State-dict keys of the layer that makes the logits."""
    return [key for key in network.net.state_dict() if key.startswith(f"{network.head}.")]


def _read_run(at: Location, source: str) -> dict[str, Tensor]:
    from raytrain_xai.checkpoint import load_network  # it builds networks, which is what called this

    if not exists(at.child(CONFIG)):
        raise ConfigError(f"{source} is neither a .safetensors, .pth or .pt file nor the folder of a run")
    network, *_ = load_network(source)
    return network.net.state_dict()


def _read_embedded(architecture: str) -> dict[str, Tensor]:
    if architecture not in EMBEDDED:
        raise ConfigError(
            f"no ImageNet weights of {architecture} are embedded (only {', '.join(EMBEDDED)}); "
            "set model.weights to a .safetensors or .pth file"
        )
    asset = files("raytrain_xai.data") / "assets" / EMBEDDED[architecture]
    return _parse_safetensors(asset.read_bytes(), "imagenet")


def _parse_safetensors(data: bytes, source: str) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        return load(data)
    except SafetensorError as error:
        raise CheckpointError(
            f"{source} is truncated or not a safetensors file ({len(data)} bytes; {error}); copy or download it again"
        ) from error


def _parse_torch(data: bytes, source: str) -> Any:
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{source} holds more than tensors, and unpickling it could run code; refused. Convert it where you trust "
            "it: safetensors.torch.save_file(model.state_dict(), 'weights.safetensors')"
        ) from error
    except Exception as error:  # the reader fails on damaged bytes with whatever its position leads to
        raise CheckpointError(
            f"{source} is truncated or not a PyTorch file ({len(data)} bytes; {type(error).__name__}); "
            "copy or download it again"
        ) from error


def _plain_tensors(loaded: Any, source: str) -> dict[str, Tensor]:
    """The state dict inside what a training script saved."""
    container = next((key for key in CONTAINERS if isinstance(loaded, Mapping) and key in loaded), None)
    state = loaded if container is None else loaded[container]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        kind = type(state).__name__
        raise CheckpointError(f"{source} holds no state dict (found {kind}); save model.state_dict()")
    return {str(key): value for key, value in state.items()}


def _without_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def _without_foreign_head(state: dict[str, Tensor], network: Network, source: str) -> dict[str, Tensor]:
    """Drop the classifier if it differs from the network's in the number of classes and in nothing else."""
    own = network.net.state_dict()
    keys = [key for key in classifier_keys(network) if key in state]
    is_foreign = [state[key].shape[:1] != own[key].shape[:1] for key in keys]
    fits_otherwise = all(state[key].shape[1:] == own[key].shape[1:] for key in keys)
    if not keys or not all(is_foreign) or not fits_otherwise:
        return state
    logger.warning(
        "%s classifies %d classes, the network %d: the classifier starts at random",
        source, len(state[keys[0]]), network.num_classes,
    )  # fmt: skip
    body = {key: value for key, value in state.items() if not key.startswith(f"{network.head}.")}
    return body | {key: own[key] for key in classifier_keys(network)}


def _check_fit(state: Mapping[str, Tensor], network: Network, source: str) -> None:
    own = network.net.state_dict()
    missing = [key for key in own if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = sorted(key for key in state if key not in own)  # safetensors keeps no order
    reshaped = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    problems = {"missing": missing, "unknown": unexpected, "of another shape": reshaped}
    found = [f"{len(keys)} {kind} ({_first(keys)})" for kind, keys in problems.items() if keys]
    if found:
        raise CheckpointError(
            f"the weights in {source} are not those of {network.name}: {'; '.join(found)}; "
            "set model.name to the architecture of the file, or give another file"
        )


def _first(keys: Sequence[str], count: int = 3) -> str:
    return ", ".join(keys[:count]) + (", ..." if len(keys) > count else "")
