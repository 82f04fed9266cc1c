"""Attribution methods of other libraries, for comparison: captum's (extra ``benchmark``), run as their papers have it.

All act on the network input, the same tensor for every method, and call a position absent when it is 0: the mean
colour for normalised images, neither a colour nor its inverse for B-cos networks. Maps are sums over channels.
"""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Callable
from itertools import count
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import TraceError
from torch.nn import functional

from raytrain_xai.errors import ConfigError

if TYPE_CHECKING:
    from raytrain_xai.models.network import Network

PERTURBATION = ("occlusion", "lime")
PROPAGATION = ("gradient", "guided_backprop", "deeplift")
CELLS = 12  # squares per side of a mosaic; divisible by 2 and 3, so that no square lies in two tiles
LIME_SAMPLES = 500
IMAGES_AT_ONCE = 64  # perturbed images that run together
SEED = 0  # of the perturbations of LIME

_RELU_FUNCTIONS = (functional.relu, torch.relu, torch.relu_)
_LINEAR_MODULES = (
    nn.Conv2d, nn.Linear, nn.BatchNorm2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Dropout, nn.Flatten, nn.Identity,
)  # fmt: skip
_LINEAR_FUNCTIONS = (
    operator.add, operator.iadd, torch.add, torch.cat, torch.flatten, functional.adaptive_avg_pool2d,
    functional.avg_pool2d, functional.dropout,
)  # fmt: skip
_LINEAR_METHODS = ("flatten", "view", "reshape", "contiguous")


def check_peer(network: Network, method: str) -> None:
    """Refuse a method that is not installed or has no meaning for a network, before anything runs.

    Raises:
        ConfigError: captum (for LIME also scikit-learn) is missing; or ``method`` propagates gradients and the network
            is B-cos, or has nonlinear layers that guided backpropagation and DeepLIFT have no rule for.
    """
    _require("captum")
    if method == "lime":
        _require("sklearn")
    if method in PROPAGATION and network.is_bcos:
        raise ConfigError(f"{method} is defined by gradients of ReLU networks and does not fit {network.name} (B-cos)")
    if method in ("guided_backprop", "deeplift"):
        separate_nonlinearities(network, method)


def peer_maps(network: Network, inputs: Tensor, targets: Tensor, method: str) -> Tensor:
    """Attribution maps by captum.

    Args:
        network: in evaluation mode; its parameters get no gradient.
        inputs: (G, D, H, W), network inputs.
        targets: (G, n) int64, classes explained for each.
        method: one that :func:`check_peer` accepts.
    Returns:
        (G, n, H, W) float, signed. Occlusion: drop of the logit, averaged over the windows that cover a position.
        LIME: weight of the square in a ridge regression of the logit. Gradient, guided backpropagation (Springenberg et
        al., 2015) and DeepLIFT (Shrikumar et al., 2017, rescale rule): in units of the logit, per input for the first
        two.
    """
    if method == "occlusion":
        maps = [_occlusion(network, x, own) for x, own in zip(inputs.split(1), targets, strict=True)]
        return torch.stack(maps)
    if method == "lime":
        return torch.stack([_lime(network, x, own) for x, own in zip(inputs.split(1), targets, strict=True)])
    rows = inputs.repeat_interleave(targets.shape[1], dim=0)
    return _propagate(network, rows, targets.flatten(), method).view(*targets.shape, *inputs.shape[2:])


def separate_nonlinearities(network: Network, method: str) -> fx.GraphModule:
    """The network as a graph in which every nonlinearity is a module of its own, not in place.

    captum attaches its rules to modules. torchvision's blocks call one ReLU module several times (captum refuses), or a
    function (captum would quietly leave its rule out). The parameters are those of ``network``, not copies.

    Raises:
        ConfigError: the network cannot be traced, or has a nonlinearity without a rule; names it.
    """
    try:
        graph = fx.symbolic_trace(nn.Sequential(*network.stages))
    except (TraceError, TypeError) as error:  # what tracing raises for control flow that depends on values
        raise ConfigError(
            f"{method} needs {network.name} as a static graph, which it is not ({error}); use rise or occlusion"
        ) from error
    for number, node in enumerate(graph.graph.nodes):
        own = _own_nonlinearity(graph, node)
        if own is not None:
            name = f"nonlinearity{number}"
            graph.add_submodule(name, own)
            node.op, node.target, node.args, node.kwargs = "call_module", name, node.args[:1], {}
        elif not _is_linear(graph, node):
            what = type(graph.get_submodule(node.target)).__name__ if node.op == "call_module" else node.target
            raise ConfigError(
                f"{method} has no rule for {what} in {network.name}; it is for ReLU networks, use rise or occlusion"
            )
    graph.recompile()
    return graph.eval()


def _own_nonlinearity(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """A fresh module for a node that applies ReLU or max-pooling; None for other nodes."""
    if node.op == "call_module":
        module = graph.get_submodule(str(node.target))
        if isinstance(module, nn.ReLU):
            return nn.ReLU()
        return copy.deepcopy(module) if isinstance(module, nn.MaxPool2d) else None
    is_relu = node.op == "call_function" and node.target in _RELU_FUNCTIONS
    return nn.ReLU() if is_relu or (node.op == "call_method" and node.target in ("relu", "relu_")) else None


def _is_linear(graph: fx.GraphModule, node: fx.Node) -> bool:
    if node.op == "call_module":
        return isinstance(graph.get_submodule(str(node.target)), _LINEAR_MODULES)
    if node.op == "call_function":
        return node.target in _LINEAR_FUNCTIONS
    return node.op != "call_method" or node.target in _LINEAR_METHODS


def _propagate(network: Network, rows: Tensor, target: Tensor, method: str) -> Tensor:
    """(R, D, H, W) -> (R, H, W), by one backward pass for all rows."""
    from captum.attr import DeepLift, GuidedBackprop, Saliency

    if method == "gradient":
        attributed = Saliency(nn.Sequential(*network.stages)).attribute(rows.requires_grad_(), target=target, abs=False)
    else:
        model = separate_nonlinearities(network, method)
        make: Callable[[nn.Module], Any] = DeepLift if method == "deeplift" else GuidedBackprop
        with warnings.catch_warnings():  # captum announces its hooks on every call
            warnings.filterwarnings("ignore", message="Setting (forward, )?backward hooks", category=UserWarning)
            attributed = make(model).attribute(rows.requires_grad_(), target=target)
    return attributed.detach().sum(dim=1)


def _occlusion(network: Network, x: Tensor, targets: Tensor) -> Tensor:
    """(1, D, H, W) and (n,) -> (n, H, W). Windows of two cells a side, a cell apart; all classes share the passes."""
    from captum.attr import Occlusion

    stride = max(1, x.shape[3] // CELLS)
    chain = nn.Sequential(*network.stages)
    maps = Occlusion(lambda part: chain(part)[:, targets]).attribute(
        x,
        sliding_window_shapes=(x.shape[1], 2 * stride, 2 * stride),
        strides=(x.shape[1], stride, stride),
        perturbations_per_eval=IMAGES_AT_ONCE,
    )
    return maps[:, 0]  # captum repeats the value of a window in every channel


def _lime(network: Network, x: Tensor, targets: Tensor) -> Tensor:
    """(1, D, H, W) and (n,) -> (n, H, W). Squares instead of superpixels: their borders are those of the tiles.

    captum explains one class at a time, with new passes. Equal seeds draw equal perturbations, so the logits of the
    first class's passes are played back to the others.
    """
    from captum._utils.models.linear_model import SkLearnRidge
    from captum.attr import Lime

    chain, passes, squares = nn.Sequential(*network.stages), list[Tensor](), _squares(x)

    def explain(target: Tensor) -> Tensor:
        number = count()

        def forward(part: Tensor) -> Tensor:
            position = next(number)
            if position == len(passes):
                passes.append(chain(part))
            return passes[position][:, target]

        torch.manual_seed(SEED)
        return Lime(forward, interpretable_model=SkLearnRidge(alpha=1.0)).attribute(
            x, feature_mask=squares, n_samples=LIME_SAMPLES, perturbations_per_eval=IMAGES_AT_ONCE
        )[0, 0]

    with torch.no_grad(), torch.random.fork_rng(devices=[]):  # captum draws from the global state
        return torch.stack([explain(target) for target in targets])


def _squares(x: Tensor) -> Tensor:
    """(1, 1, H, W) int64: number of the square of every pixel."""
    height, width = x.shape[2:]
    row = torch.arange(height, device=x.device) * CELLS // height
    column = torch.arange(width, device=x.device) * CELLS // width
    return (row[:, None] * CELLS + column)[None, None]


def _require(package: str) -> None:
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise ConfigError(f"{package} is not installed; pip install 'raytrain-xai[benchmark]' for the peer methods")
