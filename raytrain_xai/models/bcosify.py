"""B-cosified networks: torchvision's, layer by layer, as B-cos networks that can start from their weights.

=====================  =============================================================================================
layer                  becomes
=====================  =============================================================================================
convolution, linear    B-cos unit (B = 2) that keeps the filters' norms, with a gain per filter, without bias
first convolution      the same with 6 input channels, [image, 1 - image]
BatchNorm2d            BatchNormUncentered2d
LayerNorm              the centred one without bias
GELU                   a gate: in the linear view Φ(x) is a factor
self-attention         the same without biases; queries and keys are constant in the linear view
ReLU, max-pooling      stay; they select and so are linear as they are
dropout                stays
classifier             behind global average pooling it moves in front of it, as a 1x1 convolution
logits                 a fixed bias, the logit of one class in K
=====================  =============================================================================================

Transformers keep their class token and position code, which are added: their contributions do not sum to the logit.

Taps are those of the plain network. State-dict keys are the plain ones with ``.linear`` before ``weight`` in units, and
``gain``. Source: Arya et al., NeurIPS 2024 (arXiv 2411.00715). Deviations: the norms of the filters are kept and there
are gains; the mean and standard deviation of the input are folded into the first filters rather than applied; B is 2
from the start and activations stay, since raising B in training and leaving ReLU out gained nothing in small trials.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from raytrain_xai.models import standard
from raytrain_xai.models.architecture import Architecture, Cut
from raytrain_xai.models.bcos_layers import LogitLayer, class_prior_bias
from raytrain_xai.models.bcos_norms import BatchNormUncentered2d, LayerNorm, PositionNorm2d
from raytrain_xai.models.bcosified_layers import BcosifiedAttention, BcosifiedConv2d, BcosifiedLinear, GeluGate
from raytrain_xai.models.chain import run_chain

PREFIX = "bcosified_"
INPUT_CHANNELS = 6


class BcosifiedNet(nn.Module):
    """A B-cosified net: the children of a plain net under their names, and the logit layer.

    Args:
        plain: what it is made from.
        num_classes: K >= 1.
    """

    def __init__(self, plain: Architecture, num_classes: int) -> None:
        super().__init__()
        net = plain.build(num_classes)
        _replace_layers(net, plain)
        for name, child in net.named_children():
            self.add_module(name, child)
        for name, parameter in net.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        if hasattr(net, "patch_size"):  # which the cut of a transformer reads
            self.patch_size = net.patch_size
        self.logit_layer = LogitLayer(bias=class_prior_bias(num_classes))
        self._plain = plain

    def forward(self, x: Tensor) -> Tensor:
        """(B, 6, H, W) network input -> (B, K) logits."""
        return run_chain(self.cut().stages, x)

    def cut(self) -> Cut:
        """The plain net's chain with the classifier in front of global pooling, and the logit layer behind."""
        cut = self._plain.cut(self)
        stages, at = list(cut.stages), _global_pooling(cut)
        if at is not None:
            classifier = [stage for stage in stages[at + 1 :] if not isinstance(stage, nn.Flatten)]
            stages = [*stages[:at], *classifier, stages[at], nn.Flatten()]
        return Cut([*stages, self.logit_layer], cut.ends, cut.blocks)


def bcosified(plain: Architecture) -> Architecture:
    """The B-cosified counterpart of a plain architecture."""
    return Architecture(
        partial(BcosifiedNet, plain), BcosifiedNet.cut, plain.head, is_bcos=True, image_size=plain.image_size
    )


def _replace_layers(net: nn.Module, plain: Architecture) -> None:
    head = net.get_submodule(plain.head)
    if _global_pooling(plain.cut(net)) is not None and isinstance(head, nn.Linear):
        net.set_submodule(plain.head, nn.Conv2d(head.in_features, head.out_features, 1))
    is_first = True
    for path, module in list(net.named_modules()):
        layer = _counterpart(module, is_first=is_first)
        if layer is not None:
            net.set_submodule(path, layer)
        is_first = is_first and not isinstance(module, nn.Conv2d)


def _counterpart(module: nn.Module, *, is_first: bool) -> nn.Module | None:
    """What a layer becomes; None: it stays, or it is a container."""
    match module:
        case nn.Conv2d():
            return BcosifiedConv2d(INPUT_CHANNELS if is_first else module.in_channels, module)
        case nn.MultiheadAttention():
            return BcosifiedAttention(module)
        case nn.Linear():
            return BcosifiedLinear(module.in_features, module.out_features)
        case nn.BatchNorm2d():
            return BatchNormUncentered2d(module.num_features, module.eps, module.momentum or 0.1)
        case nn.LayerNorm():
            is_per_position = type(module) is not nn.LayerNorm  # torchvision's LayerNorm2d, of (B, C, H, W)
            return (PositionNorm2d if is_per_position else LayerNorm)(module.normalized_shape[0], module.eps)
        case nn.GELU():
            return GeluGate()
        case _:
            return None


def _global_pooling(cut: Cut) -> int | None:
    """Position of the pooling that leaves one value per channel, if there is one."""
    for position, stage in enumerate(cut.stages):
        if isinstance(stage, nn.AdaptiveAvgPool2d) and stage.output_size in (1, (1, 1)):
            return position
    return None


ARCHITECTURES = {f"{PREFIX}{name}": bcosified(plain) for name, plain in standard.ARCHITECTURES.items()}
