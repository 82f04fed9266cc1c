"""Simple vision transformers against the `bcos` package at equal weights, and the identities of their explanations."""

from __future__ import annotations

import copy
import warnings
from functools import partial

import pytest
import torch
from bcos.models import pretrained, vit
from bcos.modules import BcosConv2d, BcosLinear, norms
from torch import Tensor, nn

from raytrain_xai.errors import ConfigError
from raytrain_xai.models.bcos_vit import BCOS, STANDARD, PositionCode, SimpleViT, Size, cut
from raytrain_xai.models.linearise import linearise, linearise_chain
from raytrain_xai.models.zoo import build_network

CLASSES = 5
PUBLISHED = [f"{kind}_{size}_{patch}" for size in ("ti", "s", "b", "l") for kind, patch in
             (("simple_vit", "patch16_224"), ("vitc", "patch1_14"))]  # fmt: skip
CASES = [(is_bcos, has_stem) for is_bcos in (True, False) for has_stem in (True, False)]


def pair(is_bcos: bool, has_stem: bool) -> tuple[SimpleViT, nn.Module]:
    """Ours and the package's: 16 channels, 3 blocks, 2 heads, with the same weights, far from initialisation."""
    size = Size(16, 3, 2, (8, 8, 12)) if has_stem else Size(16, 3, 2)
    torch.manual_seed(0)
    ours = SimpleViT(BCOS if is_bcos else STANDARD, size, CLASSES, patch=1 if has_stem else 4).double()
    for parameter in ours.parameters():
        nn.init.uniform_(parameter, 0.5, 2) if parameter.dim() == 1 else nn.init.normal_(parameter)
    published = {
        "linear_layer": partial(BcosLinear, b=2), "norm_layer": norms.NoBias(norms.DetachableLayerNorm),
        "conv2d_layer": partial(BcosConv2d, b=2), "norm2d_layer": norms.NoBias(norms.DetachableGNLayerNorm2d),
        "act_layer": nn.Identity, "channels": 6,
    } if is_bcos else {
        "linear_layer": nn.Linear, "norm_layer": nn.LayerNorm, "conv2d_layer": nn.Conv2d,
        "norm2d_layer": norms.DetachableGNLayerNorm2d, "act_layer": nn.GELU, "channels": 3,
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it advises against building without its logit layer
        peer = vit.SimpleViT(
            image_size=8, patch_size=1 if has_stem else 4, num_classes=CLASSES, dim=16, depth=3, heads=2, mlp_dim=64,
            conv_stem=list(size.stem) or None, **published,
        ).double()  # fmt: skip
    peer.load_state_dict(ours.state_dict())
    return ours, peer


def encoded(batch: int, is_bcos: bool, height: int = 16, width: int = 24) -> Tensor:
    x = torch.rand(batch, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return torch.cat([x, 1 - x], 1) if is_bcos else x - 0.5


def one_hot(*classes: int) -> Tensor:
    return torch.eye(CLASSES, dtype=torch.float64)[list(classes)]


def peer_view(peer: nn.Module, x: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
    """Logits without bias and W(x) by the package's own explanation mode (which plain layers do not have)."""
    x = x.clone().requires_grad_()
    for module in peer.modules():
        if hasattr(module, "detach") and isinstance(module.detach, bool):
            module.detach = isinstance(peer.linear_head[-1], BcosLinear)
    logits = peer(x)
    (weights,) = torch.autograd.grad(logits, x, seed)
    return logits.detach(), weights


@pytest.mark.parametrize("name", PUBLISHED)
def test_all_sizes_have_the_published_keys_and_shapes(name: str) -> None:
    with torch.device("meta"):
        for ours, theirs in ((f"bcos_{name}", name), (name, f"standard_{name}")):
            found = build_network(ours, 1000).net.state_dict()
            expected = getattr(pretrained, theirs)().state_dict()
            prefix = "0." if ours.startswith("bcos_") else ""
            assert {prefix + k: v.shape for k, v in found.items()} == {k: v.shape for k, v in expected.items()}


@pytest.mark.parametrize(("is_bcos", "has_stem"), CASES)
@pytest.mark.parametrize("train", [False, True])
def test_logits_and_explanations_equal_the_package(is_bcos: bool, has_stem: bool, train: bool) -> None:
    ours, peer = pair(is_bcos, has_stem)
    ours.train(train)
    peer.train(train)
    x, seed = encoded(3, is_bcos), one_hot(0, 4, 2)
    expected, weights = peer_view(peer, x, seed)
    bias = ours.logit_layer.bias if is_bcos else 0.0
    torch.testing.assert_close(ours(x) - bias, expected, rtol=1e-10, atol=1e-12)
    logits, pullback = linearise_chain(ours.stages(), x)
    torch.testing.assert_close(logits - bias, expected, rtol=1e-10, atol=1e-12)
    found = pullback(seed, None)
    assert weights.abs().max() > 1e-3
    assert (found - weights).abs().max() < 1e-10 * weights.abs().max()
    rows = torch.tensor([2, 0, 2])
    repeated = pullback(one_hot(2, 0, 1), rows)
    assert (repeated[:2] - weights[[2, 0]]).abs().max() < 1e-10 * weights.abs().max()


@pytest.mark.parametrize("name", ["simple_vit_ti_patch16_224", "vitc_ti_patch1_14"])
def test_published_size_in_float32(name: str) -> None:
    """As near to float64 as the package is."""
    torch.manual_seed(0)
    network = build_network(f"bcos_{name}", 1000).eval()
    peer = getattr(pretrained, name)()
    peer.load_state_dict({f"0.{key}": value for key, value in network.net.state_dict().items()})
    x = encoded(1, True, 64, 64)
    with torch.no_grad():
        logits, pullback = linearise_chain(network.stages[:-1], x.float())  # without the bias, beside which they round
        strongest = nn.functional.one_hot(logits.argmax(1), 1000).double()  # a logit near 0 is all rounding
        results = {"ours": (logits, pullback(strongest.float(), None))}
    for kind, dtype in (("exact", torch.float64), ("package", torch.float32)):
        net = copy.deepcopy(peer[0]).to(dtype).eval()
        results[kind] = peer_view(net, x.to(dtype), strongest.to(dtype))
    for ours, package, exact in zip(results["ours"], results["package"], results["exact"], strict=True):
        assert (ours - exact).norm() < 1e-5 * exact.norm()
        assert (ours - exact).norm() < 4 * (package - exact).norm()


@pytest.mark.parametrize("has_stem", [True, False])
def test_explanation_and_share_of_the_position_code_sum_to_the_logit(has_stem: bool) -> None:
    ours, _ = pair(True, has_stem)
    stages, x = ours.stages(), encoded(2, True)
    with torch.no_grad():
        logits, pullback = linearise_chain(stages, x)
        start = stages.index(ours.positional_embedding)
        tokens = nn.Sequential(*stages[:start])(x)
        code = ours.positional_embedding(torch.zeros_like(tokens))
        _, pull_to_map = linearise_chain(stages[start + 1 :], ours.positional_embedding(tokens))
        seed = one_hot(3, 1)
        explained = (x * pullback(seed, None)).sum((1, 2, 3))
        of_code = (code * pull_to_map(seed, None)).sum((1, 2, 3))
    evidence = (logits * seed).sum(1) - ours.logit_layer.bias
    torch.testing.assert_close(explained + of_code, evidence, rtol=1e-10, atol=1e-12)
    assert (of_code.abs() > 1e-3 * evidence.abs()).all()  # so the explanation alone does not sum to the logit


@pytest.mark.parametrize(("is_bcos", "has_stem"), CASES)
def test_a_loss_on_the_explanation_has_the_gradient_of_finite_differences(is_bcos: bool, has_stem: bool) -> None:
    ours, _ = pair(is_bcos, has_stem)
    x, seed = encoded(2, is_bcos, 8, 8), one_hot(1, 3)

    def loss() -> Tensor:
        logits, pullback = linearise_chain(ours.stages(), x)
        return (x * pullback(seed, None)).sum(1).square().mean() + logits.square().mean()

    parameters = [parameter for parameter in ours.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss(), parameters, materialize_grads=True)
    torch.manual_seed(2)
    steps = [1e-6 * torch.randn_like(parameter) * parameter.abs().mean() for parameter in parameters]
    with torch.no_grad():
        values = []
        for sign in (1, -2):
            for parameter, step in zip(parameters, steps, strict=True):
                parameter.add_(step, alpha=sign)
            values.append(loss())
    slope = sum((gradient * step).sum() for gradient, step in zip(gradients, steps, strict=True))
    torch.testing.assert_close(values[0] - values[1], torch.as_tensor(2 * slope), rtol=1e-5, atol=0)


@pytest.mark.parametrize(("is_bcos", "has_stem"), CASES)
def test_guided_step_under_bfloat16_autocast(is_bcos: bool, has_stem: bool) -> None:
    torch.manual_seed(0)  # at initialisation: the saturated attention of the other tests magnifies any rounding
    size = Size(16, 3, 2, (8, 8, 12)) if has_stem else Size(16, 3, 2)
    ours = SimpleViT(BCOS if is_bcos else STANDARD, size, CLASSES, patch=1 if has_stem else 4)
    x, rows = encoded(2, is_bcos).float(), torch.tensor([0, 1, 1])
    seed = one_hot(1, 2, 0).float()
    exact = linearise_chain(ours.stages(), x)[1](seed, rows)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits, pullback = linearise_chain(ours.stages(), x)
        found = pullback(seed.to(logits.dtype), rows)
    (found.float().square().mean() + logits.float().square().mean()).backward()
    assert (found - exact).norm() < 0.1 * exact.norm()
    for key, parameter in ours.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.dtype == torch.float32
        assert parameter.grad.isfinite().all(), key


def test_position_code_by_hand() -> None:
    """Two by two tokens of eight channels: waves of frequency 1 and 1/10000, columns before rows."""
    code = PositionCode()(torch.zeros(1, 2, 2, 8, dtype=torch.float64))[0]
    sin, cos = torch.tensor([1.0, 1e-4]).sin(), torch.tensor([1.0, 1e-4]).cos()
    expected = torch.cat([torch.zeros(2), torch.ones(2), sin, cos]).double()  # first column, second row
    torch.testing.assert_close(code[:, 1, 0], expected, rtol=1e-6, atol=1e-9)
    assert torch.equal(code[:, 0, 1], code[:, 1, 0].roll(4))
    assert torch.equal(code[:, 0, 0], torch.tensor([0.0, 0, 1, 1, 0, 0, 1, 1]).double())


def test_maps_between_blocks_change_to_tokens_without_a_copy() -> None:
    ours, _ = pair(True, False)
    x = encoded(2, True)
    with torch.no_grad():
        for stage in ours.stages()[: -len(list(ours.pool)) - 3]:
            x = stage(x)
            if stage in cut(ours).blocks:
                assert x.shape == (2, 16, 4, 6)
                assert x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("bcos_simple_vit_ti_patch16_224", (2, 5, 8, 11)),
        ("bcos_vitc_s_patch1_14", (2, 5, 8, 10)),
        ("simple_vit_l_patch16_224", (3, 6, 10, 13)),
        ("vitc_l_patch1_14", (3, 6, 9, 12)),
    ],
)
def test_taps(name: str, ends: tuple[int, ...]) -> None:
    with torch.device("meta"):
        network = build_network(name, 2)
    depths = [network.taps[f"transformer.encoder_{number}"] for number in ends]
    assert [network.taps[tap] for tap in ("Mid1", "Mid2", "Mid3", "Final")] == depths
    assert len(network.taps) == 5 + len(network.net.transformer)


def test_images_that_patches_do_not_cover_are_refused() -> None:
    network = build_network("simple_vit_ti_patch16_224", 2)
    with pytest.raises(ConfigError, match=r"100 x 96 pixels cannot be cut into patches of 16; set data.image_size to"):
        network(torch.zeros(1, 3, 100, 96))


def test_patches_and_their_inverse() -> None:
    ours, _ = pair(True, False)
    x = encoded(2, True)
    patches, pullback = linearise(ours.to_patch_embedding.patches, x)
    assert torch.equal(patches[1, 2, 3].view(4, 4, 6), x[1, :, 8:12, 12:16].permute(1, 2, 0))
    assert torch.equal(pullback(patches, None), x)
