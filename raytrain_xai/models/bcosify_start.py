"""Where a B-cosified network starts: the filters of a plain one, and gains that restore the size of its features."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from raytrain_xai.models.bcosified_layers import BcosifiedConv2d, BcosifiedLinear
from raytrain_xai.models.encoding import Normalise
from raytrain_xai.models.network import Network

Fold = Literal["exact", "halves"]
Unit = BcosifiedConv2d | BcosifiedLinear

LOGIT_STD = 0.5  # of the scores of a new classifier over calibration images and classes, before the logit bias
_GAIN_RANGE = 4.0  # gains stay within this factor of the median of their layer


@torch.no_grad()
def start_from(network: Network, plain: Network, fold: Fold = "exact") -> None:
    """Give a B-cosified network the filters and statistics of the plain network it is the counterpart of.

    The first filters take in the encoding [x, 1 - x] and the normalisation (x - μ)/σ of the plain input: w(1 - μ)/σ
    for x and -wμ/σ for 1 - x. Their bias is spread over all weights of a filter, since x and 1 - x sum to 1. With
    B = 1 this is exact, but where the first convolution pads the share of the bias on the padding is missing. All
    other biases are dropped.

    Args:
        network: changed in place; gains become 1.
        plain: of the same architecture and number of classes, standard input normalisation.
        fold: exact, or halves: w/2 and -w/2 without bias, which ignores the statistics of the input; for comparison.
    """
    source = plain.net.state_dict()
    first = next(name for name, unit in units(network) if isinstance(unit, BcosifiedConv2d))
    start: dict[str, Tensor] = {}
    for key, own in network.net.state_dict().items():
        if key.endswith(".gain"):
            start[key] = torch.ones_like(own)
        elif key == f"{first}.linear.weight":
            bias = source.get(f"{first}.bias")
            start[key] = _fold_input(source[f"{first}.weight"], bias, plain.encoder, fold)
        else:
            start[key] = source[key.replace(".linear.weight", ".weight")].reshape(own.shape)
    network.net.load_state_dict(start)


def _fold_input(weight: Tensor, bias: Tensor | None, encoder: nn.Module, fold: Fold) -> Tensor:
    """(O, 3, kh, kw) -> (O, 6, kh, kw)."""
    if fold == "halves":
        return torch.cat([weight, -weight], dim=1) / 2
    assert isinstance(encoder, Normalise)
    scaled = weight / encoder.std
    folded = torch.cat([scaled * (1 - encoder.mean), -scaled * encoder.mean], dim=1)
    if bias is None:
        return folded
    return folded + (bias / weight[0].numel()).view(-1, 1, 1, 1)


@torch.no_grad()
def calibrate(network: Network, plain: Network, images: Tensor) -> None:
    """Set the gains so that every filter passes on as much as in the plain network.

    Layer by layer in one forward pass: the gain of a filter is the ratio of the mean positive part of its answers, or
    of their standard deviation where a norm comes next, within a factor of 4 of the median of the layer. Those of the
    classifier are one number, with which the scores of the images have standard deviation :data:`LOGIT_STD`.

    Args:
        network: B-cosified, changed in place.
        plain: its counterpart, in evaluation mode.
        images: (N, 3, H, W) uint8, or float in [0, 1]; some dozens from the training data.
    """
    wanted: dict[str, Tensor] = {}
    names = [name for name, _ in units(network)]
    normed = _followed_by_norm(plain)

    def record(name: str, unit: nn.Module, out: Tensor | tuple[Tensor, ...]) -> None:
        answer = out[0] if isinstance(out, tuple) else out
        wanted[name] = _activity(answer, is_map=isinstance(unit, nn.Conv2d), is_normed=name in normed)

    def rescale(name: str, unit: nn.Module, out: Tensor) -> Tensor:
        assert isinstance(unit, Unit)
        out, is_map = out.detach(), isinstance(unit, BcosifiedConv2d)
        if name == network.head:
            factor = LOGIT_STD / (out.mean(dim=(2, 3)) if is_map else out).std()
        else:
            factor = _bounded_ratio(wanted[name], _activity(out, is_map=is_map, is_normed=name in normed))
        unit.rescale(factor)
        return out * (factor.view(-1, 1, 1) if is_map and factor.dim() else factor)

    with _watching(plain, {_called_as(plain, name): name for name in names}, record):
        plain(images)
    network.eval()
    with (
        torch.enable_grad(),
        _watching(network, {name: name for name in names}, rescale),
    ):  # without gradients units are folded, not called
        network(images)


def units(network: Network) -> list[tuple[str, Unit]]:
    """B-cos units of a B-cosified network by name, in the order of its modules."""
    return [(name, module) for name, module in network.net.named_modules() if isinstance(module, Unit)]


def _followed_by_norm(network: Network) -> set[str]:
    """Layers behind which, in the order of modules, a norm is the next layer that computes something."""
    found: set[str] = set()
    before = ""
    norms = network.norms()
    for name, module in network.net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            before = name
        elif any(module is norm for norm in norms):
            found.add(before)
        elif isinstance(module, nn.ReLU | nn.GELU):
            before = ""
    return found


def _activity(out: Tensor, *, is_map: bool, is_normed: bool) -> Tensor:
    """What each filter passes on, (O,)."""
    answers = out.movedim(1 if is_map else -1, 0).flatten(1)
    return answers.std(dim=1) if is_normed else answers.clamp_min(0).mean(dim=1)


def _bounded_ratio(wanted: Tensor, found: Tensor) -> Tensor:
    """wanted / found near its median, (O,); filters that pass nothing on, here or there, get the median."""
    is_alive = (wanted > 0) & (found > 0)
    if not is_alive.any():
        return torch.ones_like(wanted)
    median = (wanted[is_alive] / found[is_alive]).median()
    ratio = torch.where(is_alive, wanted / found, median)
    return ratio.clamp(median / _GAIN_RANGE, median * _GAIN_RANGE)


def _called_as(plain: Network, name: str) -> str:
    """The module to watch for a layer: torch's attention does not call its projection, it reads the weights."""
    above = name.rpartition(".")[0]
    return above if isinstance(plain.net.get_submodule(above), nn.MultiheadAttention) else name


@contextmanager
def _watching(
    network: Network, names: Mapping[str, str], see: Callable[[str, nn.Module, Any], Tensor | None]
) -> Generator[None]:
    """Call ``see`` under the name given to a path with what the module there answers; it may answer in its place."""
    handles = [
        network.net.get_submodule(path).register_forward_hook(lambda module, _, out, name=name: see(name, module, out))
        for path, name in names.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
