"""Models of the OpenCLIP library: built from its configurations, with weights by tag, from a file or from a folder.

This is the only module that imports the library. Weights are read with the reader of this package: tensors only, and
every one of them has to fit.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.language.value_path import LEAST_BLOCKS
from raytrain_xai.models.weight_files import parse_state_dict
from raytrain_xai.storage import exists, locate, read_bytes

_CONFIG = "open_clip_config.json"
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")  # names in folders, the first that is there
_ENDINGS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_SIDES = {"embed_dim": int, "vision_cfg": dict, "text_cfg": dict}  # what a configuration has to have
_SCALES = ("logit_scale", "logit_bias")
Channels = tuple[float, ...]


@dataclass(frozen=True)
class OpenClipModel:
    """A model in eval mode on the CPU.

    Attributes:
        model: ``CLIP`` or ``CustomTextCLIP`` of the library.
        tokenize: texts -> (M, context) int64. What does not fit into the context is cut off, as CLIP does.
        mean, std: of the channels of images in [0, 1].
        about: configuration and normalisation, JSON values: what beside the weights changes the vectors.
    """

    model: Any
    tokenize: Callable[[Sequence[str]], Tensor]
    mean: Channels
    std: Channels
    about: Mapping[str, Any]


@dataclass(frozen=True)
class _Plan:
    """What is built, and where its weights are.

    Attributes:
        config: ``model_cfg`` of the library.
        mean, std: see :class:`OpenClipModel`.
        tokenizer: name for the library's ``get_tokenizer``.
        weights: address of a file.
    """

    config: dict[str, Any]
    mean: Channels
    std: Channels
    tokenizer: str
    weights: str


def read_open_clip(source: str) -> OpenClipModel:
    """The model that ``ARCH=WEIGHTS`` or a folder names.

    A tag states how its images are normalised and which activation its network has. A file states neither: its images
    are normalised as those of the first tag of ARCH, and networks with QuickGELU have architectures of their own
    (``ViT-B-16-quickgelu``).

    Raises:
        ConfigError: no such architecture, tag, file or folder, or the library is not installed.
        CheckpointError: weights cannot be had, are damaged, of another architecture, or have no text side.
    """
    library = _library()
    arch, equals, weights = source.partition("=")
    plan = _plan_named(library, arch, weights) if equals else _plan_folder(source)
    model = _build(library, plan, source)
    _load(model, _read(plan.weights), plan.weights, source)
    about = {"config": plan.config, "mean": plan.mean, "std": plan.std}
    return OpenClipModel(model, _tokenizer(library, plan, source), plan.mean, plan.std, about)


def check_clip(model: Any, source: str) -> None:
    """Refuse what has no value path.

    Raises:
        ConfigError: the images are not seen by a plain vision transformer of the library.
    """
    library = _library()
    visual = model.visual
    if not isinstance(visual, library.transformer.VisionTransformer):
        raise ConfigError(
            f"{source} sees images with a {type(visual).__name__}; the value path needs a vision transformer of "
            "OpenCLIP, such as ViT-B-16 (SigLIP models: siglip:ARCH=WEIGHTS)"
        )
    blocks = list(visual.transformer.resblocks)
    is_plain = all(isinstance(block, library.transformer.ResidualAttentionBlock) for block in blocks)
    if not is_plain or visual.attn_pool is not None or len(blocks) < LEAST_BLOCKS:
        raise ConfigError(
            f"{source} has other blocks or pooling than CLIP, or less than {LEAST_BLOCKS} blocks; the value path is "
            "defined for plain ones, such as those of ViT-B-16"
        )


def check_siglip(model: Any, source: str) -> None:
    """Refuse what is no SigLIP model.

    Raises:
        ConfigError: the images are not seen by a vision transformer that pools with one learned query.
    """
    trunk = getattr(model.visual, "trunk", None)
    pool = getattr(trunk, "attn_pool", None)
    fits = pool is not None and getattr(pool, "latent_len", 0) == 1 and getattr(pool, "pos_embed", 0) is None
    if not fits or getattr(trunk, "num_prefix_tokens", 1) != 0:
        raise ConfigError(
            f"{source} does not pool patches with one learned query, as SigLIP does; give an architecture such as "
            "ViT-B-16-SigLIP (CLIP models: clip:ARCH=WEIGHTS)"
        )


def _library() -> Any:
    try:
        import open_clip
    except ModuleNotFoundError as error:
        raise ConfigError("this encoder needs OpenCLIP; pip install 'raytrain-xai[clip]'") from error
    return open_clip


def _plan_named(library: Any, arch: str, weights: str) -> _Plan:
    config = library.get_model_config(arch) if arch in library.list_models() else None
    if config is None:
        close = get_close_matches(arch, library.list_models(), n=4, cutoff=0.4)
        raise ConfigError(
            f"OpenCLIP has no architecture {arch!r}; {' or '.join(close) or 'ViT-B-16'}? See open_clip.list_models()"
        )
    tags = library.list_pretrained_tags_by_model(arch)
    is_tag = weights in tags
    if not is_tag and not _is_file(weights):
        known = ", ".join(tags) or "none"
        raise ConfigError(
            f"no weights {weights!r} of {arch}; give an existing file ({', '.join(_ENDINGS)}) or a tag: {known}"
        )
    stated = library.get_pretrained_cfg(arch, weights if is_tag else tags[0]) if tags else {}
    config["quick_gelu"] = (stated if is_tag else config).get("quick_gelu", False)
    if is_tag:
        weights = _download(library, stated, f"{arch}={weights}")
    mean, std = _channels(stated, library)
    return _Plan(config, mean, std, arch, weights)


def _is_file(weights: str) -> bool:
    at = locate(weights)
    return at.path.lower().endswith(_ENDINGS) and exists(at)


def _plan_folder(folder: str) -> _Plan:
    """A folder in the form of OpenCLIP's repositories; local, since tokenizers are read from it by path."""
    at = locate(folder)
    if not at.is_local or not exists(at.child(_CONFIG)):
        raise ConfigError(f"{folder!r} is neither ARCH=WEIGHTS nor a local folder with {_CONFIG}")
    try:
        read = json.loads(read_bytes(at.child(_CONFIG)))
        config, stated = dict(read["model_cfg"]), dict(read.get("preprocess_cfg", {}))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{at.child(_CONFIG).uri} is no configuration of OpenCLIP ({error!r})") from error
    absent = [key for key, kind in _SIDES.items() if not isinstance(config.get(key), kind)]
    if absent:
        raise ConfigError(f"{at.child(_CONFIG).uri} has no {', '.join(absent)}; the model needs both sides")
    config.setdefault("quick_gelu", False)
    file = next((name for name in _WEIGHTS if exists(at.child(name))), None)
    if file is None:
        raise CheckpointError(f"{folder} has no weights; expected {' or '.join(_WEIGHTS)} beside {_CONFIG}")
    mean, std = _channels(stated, _library())
    return _Plan(config, mean, std, f"local-dir:{Path(at.path)}", at.child(file).uri)


def _channels(stated: Mapping[str, Any], library: Any) -> tuple[Channels, Channels]:
    mean = stated.get("mean", library.constants.OPENAI_DATASET_MEAN)
    std = stated.get("std", library.constants.OPENAI_DATASET_STD)
    return tuple(map(float, mean)), tuple(map(float, std))


def _download(library: Any, stated: Mapping[str, Any], source: str) -> str:
    try:
        return str(library.download_pretrained(stated))
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot download {source}: {_short(error)}; fetch its weights on another machine and give ARCH=FILE "
            "(HF_HUB_OFFLINE=1 looks into the cache of the hub only)"
        ) from error


def _build(library: Any, plan: _Plan, source: str) -> Any:
    config = {key: dict(value) if isinstance(value, dict) else value for key, value in plan.config.items()}
    has_own_text = config.pop("custom_text", False) or "hf_model_name" in config["text_cfg"]
    if "multimodal_cfg" in config:
        raise ConfigError(f"{source} is a captioning model (CoCa), whose patches have no value path; give a CLIP model")
    config["text_cfg"]["hf_model_pretrained"] = False  # the weights of both sides come from one file
    config["vision_cfg"]["timm_model_pretrained"] = False
    kind = library.model.CustomTextCLIP if has_own_text else library.model.CLIP
    try:
        return kind(**config).eval().requires_grad_(False)
    except (OSError, TypeError, RuntimeError, ValueError) as error:
        raise ConfigError(f"OpenCLIP cannot build {source}: {_short(error)}") from error


def _tokenizer(library: Any, plan: _Plan, source: str) -> Callable[[Sequence[str]], Tensor]:
    try:
        tokenizer = library.get_tokenizer(plan.tokenizer)
    except (OSError, ImportError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"cannot get the tokenizer of {source}: {_short(error)}; give a folder that holds {_CONFIG}, weights and "
            "the files of the tokenizer"
        ) from error
    return lambda texts: tokenizer(list(texts))


def _read(file: str) -> dict[str, Tensor]:
    at = locate(file)
    data = read_bytes(at)
    if _is_program(data):
        raise CheckpointError(
            f"{file} is a TorchScript archive, a program and not only weights; refused. OpenAI's weights are read by "
            "the tag openai; others: torch.save(torch.jit.load(file).state_dict(), 'weights.pt') where you trust them"
        )
    return parse_state_dict(data, at.path, file)


def _is_program(data: bytes) -> bool:
    """Whether ``torch.jit.save`` wrote this; what ``torch.save`` writes has no constants."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return False
    return any(name.endswith("/constants.pkl") for name in zipfile.ZipFile(io.BytesIO(data)).namelist())


def _load(model: nn.Module, state: dict[str, Tensor], file: str, source: str) -> None:
    own = model.state_dict()
    scales = {key: state[key].reshape(own[key].shape) for key in _SCALES if key in own and key in state}
    state = {**state, **scales}  # stored as a number or as a vector of one
    missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    text = {key for key in own if not key.startswith("visual.") and key not in _SCALES}
    if text <= set(missing) and not unknown:
        raise CheckpointError(
            f"the weights in {file} have no text side; concepts are named and found by texts: give the weights of both "
            "sides"
        )
    other = [key for key in own.keys() & state.keys() if state[key].shape != own[key].shape]
    if missing or unknown or other:
        key = min([*other, *missing, *unknown])
        shown = f"{tuple(state[key].shape)} for {tuple(own[key].shape)}" if key in other else "absent on one side"
        raise CheckpointError(
            f"the weights in {file} are not those of {source}: {len({*other, *missing, *unknown})} tensors do not fit, "
            f"such as {key} ({shown})"
        )
    model.load_state_dict(state)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
