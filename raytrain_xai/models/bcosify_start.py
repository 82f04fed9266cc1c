"""Where a B-cosified network starts: the filters of a plain one, and gains that restore the size of its features."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from raytrain_xai.models.bcosified_layers import BcosifiedConv2d, BcosifiedLinear
from raytrain_xai.models.encoding import Normalise
from raytrain_xai.models.network import Network

Fold = Literal["exact", "halves"]
Unit = BcosifiedConv2d | BcosifiedLinear

LOGIT_STD = 0.5  # of the scores of a new classifier over calibration images and classes, before the logit bias
_GAIN_RANGE = 4.0  # gains stay within this factor of the median of their layer
_TINY = 1e-30


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

    Layer by layer in one forward pass: the gain of a filter is the ratio of the mean positive part of its answers,
    within a factor of 4 of the median of the layer. Those of the classifier are one number, with which the scores of
    the images have standard deviation :data:`LOGIT_STD`.

    Args:
        network: B-cosified, changed in place.
        plain: its counterpart, in evaluation mode.
        images: (N, 3, H, W) uint8, or float in [0, 1]; some dozens from the training data.
    """
    wanted: dict[str, Tensor] = {}

    def record(name: str, unit: nn.Module, out: Tensor) -> Tensor:  # noqa: ARG001
        wanted[name] = _activity(out, is_map=isinstance(unit, nn.Conv2d))
        return out

    def rescale(name: str, unit: nn.Module, out: Tensor) -> Tensor:
        assert isinstance(unit, Unit)
        out = out.detach()
        is_map = isinstance(unit, BcosifiedConv2d)
        if name == network.head:
            factor = LOGIT_STD / (out.mean(dim=(2, 3)) if is_map else out).std()
        else:
            factor = _bounded(wanted[name] / _activity(out, is_map=is_map).clamp_min(_TINY))
        unit.rescale(factor)
        return out * (factor.view(-1, 1, 1) if is_map else factor)

    names = [name for name, _ in units(network)]
    with _watching(plain, names, record):
        plain(images)
    network.eval()
    with torch.enable_grad(), _watching(network, names, rescale):  # without gradients units are folded, not called
        network(images)


def units(network: Network) -> list[tuple[str, Unit]]:
    """B-cos units of a B-cosified network by name, in the order of its modules."""
    return [(name, module) for name, module in network.net.named_modules() if isinstance(module, Unit)]


def _activity(out: Tensor, *, is_map: bool) -> Tensor:
    """Mean positive part of each channel, (O,)."""
    return out.clamp_min(0).mean(dim=(0, 2, 3)) if is_map else out.clamp_min(0).flatten(0, -2).mean(dim=0)


def _bounded(ratio: Tensor) -> Tensor:
    median = ratio.median()
    return ratio.clamp(median / _GAIN_RANGE, median * _GAIN_RANGE)


@contextmanager
def _watching(network: Network, names: list[str], see: Callable[[str, nn.Module, Tensor], Tensor]) -> Generator[None]:
    """Call ``see`` with what each of the named modules answers, and go on with what it returns."""
    hooks = []
    for name in names:

        def hook(module: nn.Module, _: object, out: Tensor, name: str = name) -> Tensor:
            return see(name, module, out)

        hooks.append(network.net.get_submodule(name).register_forward_hook(hook))
    try:
        yield
    finally:
        for handle in hooks:
            handle.remove()
