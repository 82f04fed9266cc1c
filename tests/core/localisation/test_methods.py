"""Methods by name, and that the classes of a mosaic share one pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raytrain_xai.attribution.attribute import attribute
from raytrain_xai.attribution.tapped import tapped_pass
from raytrain_xai.errors import ConfigError
from raytrain_xai.guidance.postprocess import localise_map
from raytrain_xai.localisation.methods import Method, attribution_maps, check_method, parse_method
from raytrain_xai.models.linearise import Pullback
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network

MOSAICS = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TARGETS = torch.tensor([[0, 1, 2, 3], [4, 0, 1, 2], [3, 4, 0, 2]])


def test_names_and_layers() -> None:
    assert parse_method("gradcam") == Method("gradcam", "Final")
    assert parse_method("gradcam@Mid2") == Method("gradcam", "Mid2")
    assert parse_method("ixg") == Method("ixg", "Input")
    assert str(parse_method("ixg")) == "ixg@Input"
    assert str(parse_method("rise")) == "rise"
    assert parse_method("rise@Input") == Method("rise")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("grad-cam", "unknown method 'grad-cam'; did you mean gradcam"),
        ("saliency", "unknown method 'saliency'; .*methods: bcos, ixg, gradcam, intgrad, rise, occlusion"),
        ("rise@Final", "rise explains the network input only, not 'Final'"),
        ("bcos@", "names no layer; write bcos or bcos@LAYER"),
    ],
)
def test_wrong_methods_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_method(text)


def test_methods_must_fit_the_network() -> None:
    plain, bcos = build_network("squeezenet1_1", 5), build_network("bcos_resnet_tiny", 5)
    check_method(plain, Method("gradcam", "Final"))
    check_method(bcos, Method("rise"))
    with pytest.raises(ConfigError, match="'bcos' does not fit squeezenet1_1"):
        check_method(plain, Method("bcos"))
    with pytest.raises(ConfigError, match="no layer 'Finale'; did you mean Final"):
        check_method(plain, Method("gradcam", "Finale"))
    with pytest.raises(ConfigError, match=r"deeplift .* does not fit bcos_resnet_tiny"):
        check_method(bcos, Method("deeplift"))


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("squeezenet1_1", Method("ixg")),
        ("squeezenet1_1", Method("gradcam", "Final")),
        ("squeezenet1_1", Method("intgrad", "Final")),
        ("bcos_resnet_tiny", Method("bcos")),
        ("bcos_resnet_tiny", Method("bcos", "Mid2")),
    ],
    ids=str,
)
def test_all_classes_at_once_equal_one_by_one(name: str, method: Method) -> None:
    torch.manual_seed(0)
    network = build_network(name, 5).double().eval()
    got = attribution_maps(network, method, MOSAICS, TARGETS)
    assert got.shape == (3, 4, 64, 64)
    for grid in range(3):
        for position in range(4):
            tapped = tapped_pass(network, MOSAICS[grid : grid + 1], method.layer)
            attr = attribute(
                network, tapped, TARGETS[grid, position : position + 1], method=method.name, layer=method.layer,
                intgrad_steps=50,
            )  # fmt: skip
            expected = localise_map(attr.detach(), (64, 64), None, "canonical")[0]
            torch.testing.assert_close(got[grid, position], expected)


@pytest.mark.parametrize(("name", "method"), [("squeezenet1_1", "ixg"), ("bcos_resnet_tiny", "bcos")])
def test_one_forward_and_one_walk_back_for_all(name: str, method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build_network(name, 5).eval()
    calls: list[int] = []
    linearise_from = Network.linearise_from

    def counted(self: Network, features: torch.Tensor, layer: str) -> tuple[torch.Tensor, Pullback]:
        logits, pullback = linearise_from(self, features, layer)
        calls.append(len(features))

        def walk(g: torch.Tensor, rows: torch.Tensor | None) -> torch.Tensor:
            calls.append(len(g))
            return pullback(g, rows)

        return logits, walk

    monkeypatch.setattr(Network, "linearise_from", counted)
    maps = attribution_maps(network, Method(method), MOSAICS, TARGETS)
    assert calls == [3, 12]  # three mosaics forward, twelve pairs back
    assert not maps.requires_grad


def test_contributions_of_a_bcos_network_sum_to_the_logits() -> None:
    torch.manual_seed(0)
    network = build_network("bcos_resnet_tiny", 5).double().eval()
    with torch.no_grad():
        logits = network(MOSAICS).gather(1, TARGETS)
    sums = attribution_maps(network, Method("bcos"), MOSAICS, TARGETS).sum(dim=(2, 3))
    missing = logits - sums
    torch.testing.assert_close(missing, missing[:1, :1].expand_as(missing))  # the logit bias, the same everywhere
    assert float(sums.std()) > 0


def test_rise_sees_the_network_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hidden positions are 0 after the encoding: for a B-cos network neither a colour nor its inverse."""
    network = build_network("bcos_resnet_tiny", 5).eval()
    seen: list[Any] = []

    def record(forward: Any, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append((inputs.shape, forward(inputs)))
        return torch.zeros(*targets.shape, 64, 64)

    monkeypatch.setattr("raytrain_xai.localisation.methods.rise", record)
    attribution_maps(network, Method("rise"), MOSAICS, TARGETS)
    shape, logits = seen[0]
    assert shape == (3, 6, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(logits, network(MOSAICS))
