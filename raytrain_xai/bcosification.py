"""The start of a B-cosified network from a plain one and pictures, for training and as a file."""

from __future__ import annotations

import torch
from torch import Tensor

from raytrain_xai.config import BcosifyConfig
from raytrain_xai.data.dataset import StoredSplit, open_dataset
from raytrain_xai.data.loader import load_samples
from raytrain_xai.errors import ConfigError
from raytrain_xai.models.bcosify import ARCHITECTURES, PREFIX
from raytrain_xai.models.bcosify_start import calibrate, start_from
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network
from raytrain_xai.storage import locate, write_bytes


def build_plain(network: Network, bcosify: BcosifyConfig) -> Network:
    """The plain counterpart of a B-cosified network with its weights, on the same device, in evaluation mode.

    Raises:
        ConfigError, CheckpointError: ``bcosify.weights`` cannot be used.
    """
    plain = build_network(network.name.removeprefix(PREFIX), network.num_classes, weights=bcosify.weights)
    return plain.to(next(network.net.parameters()).device).eval()


def start(network: Network, plain: Network, bcosify: BcosifyConfig, data: str, image_size: int) -> None:
    """Bring a B-cosified network to where training starts: filters of ``plain``, gains from training images.

    Args:
        network: changed in place.
        plain: its counterpart, see :func:`build_plain`.
        bcosify: fold and number of images.
        data: prepared data set.
        image_size: side of the images, pixels.
    """
    start_from(network, plain, bcosify.fold)
    if bcosify.calibration_images:
        images = calibration_images(data, bcosify.calibration_images, image_size)
        calibrate(network, plain, images.to(next(network.net.parameters()).device))


def calibration_images(data: str, number: int, image_size: int) -> Tensor:
    """(N, 3, size, size) uint8: training images spread evenly over the split, all of them if there are fewer.

    Raises:
        DataError: no such data set or no training split.
    """
    total = len(StoredSplit(data, "train"))
    rows = torch.linspace(0, total - 1, min(number, total)).long().tolist()
    return load_samples(data, "train", rows, image_size)[0].images


def write_bcosified(name: str, out: str, bcosify: BcosifyConfig, data: str, image_size: int) -> Network:
    """Write the start of a B-cosified network as safetensors, to be given as ``model.weights``.

    Args:
        name: of the plain architecture.
        out: file or s3:// address.
        bcosify, data, image_size: see :func:`start`; the classes are those of the data set.
    Raises:
        ConfigError: ``name`` has no B-cosified counterpart, or ``out`` is no .safetensors file.
        CheckpointError: the weights cannot be used.
    """
    from safetensors.torch import save

    if f"{PREFIX}{name}" not in ARCHITECTURES:
        known = ", ".join(key.removeprefix(PREFIX) for key in ARCHITECTURES)
        raise ConfigError(f"{name!r} cannot be B-cosified; plain networks that can: {known}")
    if not out.lower().partition("?")[0].endswith(".safetensors"):
        raise ConfigError(f"OUT must be a .safetensors file, got {out}")
    num_classes = len(open_dataset(data).classes)
    network = build_network(f"{PREFIX}{name}", num_classes)
    start(network, build_plain(network, bcosify), bcosify, data, image_size)
    about = {"architecture": network.name, "num_classes": str(num_classes)}
    state = {key: value.contiguous() for key, value in network.net.state_dict().items()}
    write_bytes(locate(out), save(state, metadata=about))
    return network
