"""Networks of the ``bcos`` package with the weights of ours, the peer of the benches of whole networks."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from raytrain_xai.models.network import Network


def package_resnet(network: Network, name: str) -> nn.Module:
    """``resnet18`` or ``resnet50`` of the package, in evaluation mode; takes encoded images (B, 6, H, W)."""
    from bcos.models import resnet
    from bcos.modules import BcosConv2d, norms

    norm_layer = norms.NoBias(norms.BatchNormUncentered2d)
    conv_layer = partial(BcosConv2d, b=2, max_out=1)
    peer = getattr(resnet, name)(num_classes=network.num_classes, norm_layer=norm_layer, conv_layer=conv_layer)
    peer.load_state_dict(network.net.state_dict())
    return peer.to(next(network.parameters()).device).eval()


def package_heatmaps(peer: nn.Module, encoded: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Contribution maps by the package's explanation mode, all images at once and one class of each after the other.

    Its own ``explain`` takes one image and one class; this is the fastest use of its layers.

    Args:
        encoded: (B, 6, H, W).
        classes: (B, M) int64.
    Returns:
        Logits (B, K) and maps (B, M, H, W).
    """
    with peer.explanation_mode():
        entry = encoded.detach().requires_grad_()
        logits = peer(entry)
        maps = []
        for target in classes.unbind(1):
            chosen = logits.gather(1, target[:, None]).sum()
            gradient = torch.autograd.grad(chosen, entry, retain_graph=True)[0]
            maps.append((gradient * entry.detach()).sum(dim=1))
    return logits.detach(), torch.stack(maps, dim=1)
