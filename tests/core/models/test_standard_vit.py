"""torchvision's vision transformers as chains of stages."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import vision_transformer
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from raytrain_xai.errors import ConfigError
from raytrain_xai.models.linearise import linearise_chain
from raytrain_xai.models.standard_vit import cut_vit, vit
from raytrain_xai.models.zoo import build_network

NAMES = ["vit_b_16", "vit_b_32", "vit_l_16", "vit_l_32", "vit_h_14"]


def small(image_size: int = 32) -> VisionTransformer:
    """Two blocks of 16 channels, patches of 8 pixels."""
    with torch.device("meta"):
        vit("vit_b_32", 2)  # registers the rules of the blocks
    torch.manual_seed(0)
    net = VisionTransformer(image_size, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    return net.double().eval()


def images(batch: int, side: int) -> Tensor:
    return torch.randn(batch, 3, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("train", [False, True])
def test_logits_and_gradients_are_those_of_torchvision(train: bool) -> None:
    net = small().train(train)
    x = images(3, 32).requires_grad_()
    seed = torch.eye(5, dtype=torch.float64)[[0, 4, 2]]
    expected = net(x)
    (gradient,) = torch.autograd.grad(expected, x, seed)
    logits, pullback = linearise_chain(cut_vit(net).stages, x.detach())
    torch.testing.assert_close(logits, expected, rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(nn.Sequential(*cut_vit(net).stages)(x), expected, rtol=1e-11, atol=1e-12)
    assert gradient.abs().max() > 1e-3
    torch.testing.assert_close(pullback(seed, None), gradient, rtol=1e-10, atol=1e-12)
    rows = torch.tensor([1, 1])
    torch.testing.assert_close(pullback(seed[rows], rows), gradient[rows], rtol=1e-10, atol=1e-12)


def test_another_resolution_takes_the_position_code_as_torchvision_interpolates_it() -> None:
    net, wide = small(), small(48)
    wide.load_state_dict(interpolate_embeddings(48, 8, net.state_dict()))
    x = images(2, 48)
    with torch.no_grad():
        found = nn.Sequential(*cut_vit(net).stages)(x)
        torch.testing.assert_close(found, wide(x), rtol=1e-10, atol=1e-12)


def test_images_that_patches_do_not_cover_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"36 x 36 pixels cannot be cut into patches of 8; set data.image_size"):
        nn.Sequential(*cut_vit(small()).stages)(images(1, 36))


@pytest.mark.parametrize("name", NAMES)
def test_names_keys_and_taps(name: str) -> None:
    with torch.device("meta"):
        network = build_network(name, 7)
        theirs = getattr(vision_transformer, name)(num_classes=7)
    assert {k: v.shape for k, v in network.net.state_dict().items()} == {
        k: v.shape for k, v in theirs.state_dict().items()
    }
    assert list(network.taps) == ["Input", "conv_proj"]
    with pytest.raises(ConfigError, match=r"has no layer 'Final'; its layers are Input, conv_proj"):
        network.depth("Final")
