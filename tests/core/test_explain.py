"""Explanations: what they add up to, that a batch is its images, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from raytrain_xai.attribution.attribute import attribute
from raytrain_xai.attribution.tapped import tapped_pass
from raytrain_xai.config import parse_config
from raytrain_xai.errors import CheckpointError, ConfigError, DataError
from raytrain_xai.explain import Explainer
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network

CLASSES = ("cat", "dog", "horse", "sheep")
SIZE = 32


def network(name: str) -> Network:
    torch.manual_seed(0)
    return build_network(name, len(CLASSES), weights=None, norm_statistics="frozen").double().eval()


def explainer(name: str, method: str, layer: str) -> Explainer:
    return Explainer(network(name), classes=CLASSES, image_size=SIZE, method=method, layer=layer)


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def bcos() -> Explainer:
    return explainer("bcos_resnet_tiny", "bcos", "Input")


@pytest.fixture
def images() -> Tensor:
    return torch.randint(0, 256, (3, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def test_contributions_and_bias_sum_to_the_logit(bcos: Explainer, images: Tensor) -> None:
    for explanation in bcos(images, top=len(CLASSES)):
        assert len(explanation.classes) == len(CLASSES)
        for explained in explanation.classes:
            assert explained.completeness_residual is not None
            assert explained.completeness_residual < 1e-9
            # The same by hand from the published map: the bias of an untrained B-cos network of 4 classes is -log 3.
            assert float(explained.attribution.double().sum()) - np.log(3) == pytest.approx(explained.logit, abs=1e-4)


def test_residual_shows_a_map_that_does_not_add_up(bcos: Explainer, images: Tensor) -> None:
    """Contributions of the wrong class miss the logit by what the classes differ in."""
    tapped = bcos._forward(images)
    wrong = replace(tapped, pullback=lambda g, rows: tapped.pullback(g.roll(1, dims=1), rows))
    pairs = bcos.explain_pairs(images, wrong, torch.tensor([0, 0, 0]), torch.arange(3))
    assert pairs.residuals is not None
    torch.testing.assert_close(pairs.residuals, (tapped.logits[:, 1] - tapped.logits[:, 0]).abs())


def test_logits_and_probabilities_are_those_of_the_network(bcos: Explainer, images: Tensor) -> None:
    logits = bcos.network(images)
    for row, explanation in enumerate(bcos(images)):
        torch.testing.assert_close(explanation.logits, logits[row].float())
        torch.testing.assert_close(explanation.probabilities, logits[row].sigmoid().float())
        strongest = explanation.classes[0]
        assert (strongest.index, strongest.name) == (int(logits[row].argmax()), CLASSES[int(logits[row].argmax())])
        assert strongest.logit == pytest.approx(float(logits[row].max()), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "method", "layer"),
    [
        ("bcos_resnet_tiny", "bcos", "Input"),
        ("bcos_resnet_tiny", "bcos", "Mid2"),
        ("squeezenet1_1", "gradcam", "Final"),
        ("squeezenet1_1", "ixg", "Input"),
    ],
)
def test_a_batch_explains_every_image_as_if_alone(name: str, method: str, layer: str, images: Tensor) -> None:
    subject = explainer(name, method, layer)
    together = subject(images, top=2)
    for row, explanation in enumerate(together):
        [alone] = subject(images[row : row + 1], top=2)
        for one, other in zip(explanation.classes, alone.classes, strict=True):
            assert (one.index, one.name) == (other.index, other.name)
            torch.testing.assert_close(one.attribution, other.attribution)
            assert one.positive_share == pytest.approx(other.positive_share)


def test_the_map_is_the_measured_attribution_resized(images: Tensor) -> None:
    subject = explainer("squeezenet1_1", "gradcam", "Final")
    [explanation] = subject(images[:1], names=["horse"], top=0)
    tapped = tapped_pass(subject.network, images[:1], "Final")
    coarse = attribute(subject.network, tapped, torch.tensor([2]), method="gradcam", layer="Final")
    expected = torch.nn.functional.interpolate(coarse[None], size=(SIZE, SIZE), mode="bilinear")[0, 0]
    [explained] = explanation.classes
    torch.testing.assert_close(explained.attribution, expected.float())
    assert explained.completeness_residual is None
    assert explained.rgba is None
    assert explained.positive_share in (0.0, 1.0)  # Grad-CAM has no negative part


def test_positive_share_by_hand(bcos: Explainer, images: Tensor) -> None:
    [explained] = bcos(images[:1])[0].classes
    values = explained.attribution.double().numpy()
    assert explained.positive_share == pytest.approx(values[values > 0].sum() / np.abs(values).sum(), rel=1e-5)


def test_colour_explanation_is_transparent_where_evidence_is_against(bcos: Explainer) -> None:
    """A window of 3 pixels all against the class shows nothing."""
    image = torch.randint(0, 256, (1, 3, SIZE, SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    [explained] = bcos(image)[0].classes
    assert explained.rgba is not None
    assert (explained.rgba.shape, explained.rgba.dtype) == ((SIZE, SIZE, 4), torch.uint8)
    against = (explained.attribution < 0).float()[None]
    all_against = torch.nn.functional.avg_pool2d(against, 3, stride=1, padding=0)[0] == 1
    assert all_against.any()
    assert int(explained.rgba[1:-1, 1:-1, 3][all_against].max()) == 0
    assert int(explained.rgba[..., 3].max()) == 255


def test_named_and_strongest_classes_come_once_each_in_order_of_logits(bcos: Explainer, images: Tensor) -> None:
    for explanation in bcos(images, names=["sheep", "cat"], top=2):
        order = [explained.index for explained in explanation.classes]
        top = explanation.logits.topk(2).indices.tolist()
        assert sorted(order) == sorted({0, 3, *top})
        logits = [explained.logit for explained in explanation.classes]
        assert logits == sorted(logits, reverse=True)


def test_top_beyond_the_classes_is_all_of_them(bcos: Explainer, images: Tensor) -> None:
    assert all(len(explanation.classes) == 4 for explanation in bcos(images, top=99))


def test_pictures_of_any_size_and_mode_are_brought_to_the_network(bcos: Explainer, images: Tensor) -> None:
    rgb = Image.fromarray(images[0].permute(1, 2, 0).numpy())
    from_picture, from_grey = bcos([rgb, rgb.resize((50, 40)).convert("L")])
    [from_tensor] = bcos(images[:1])
    assert torch.equal(from_picture.logits, from_tensor.logits)
    assert from_grey.classes[0].attribution.shape == (SIZE, SIZE)


def test_given_targets_equal_named_classes(bcos: Explainer, images: Tensor) -> None:
    logits, pairs = bcos.attribute(images, torch.tensor([1, 1, 1]))
    named = bcos(images, names=["dog"], top=0)
    for row, explanation in enumerate(named):
        torch.testing.assert_close(pairs.maps[row].float(), explanation.classes[0].attribution)
        torch.testing.assert_close(logits[row].float(), explanation.logits)


def test_explaining_leaves_no_graph_and_no_gradients(bcos: Explainer, images: Tensor) -> None:
    _, pairs = bcos.attribute(images, torch.tensor([0, 1, 2]))
    assert not pairs.maps.requires_grad
    assert all(parameter.grad is None for parameter in bcos.network.parameters())


def test_refusals(bcos: Explainer, images: Tensor) -> None:
    with pytest.raises(ConfigError, match=r"unknown class 'cow'.*cat, dog, horse, sheep"):
        bcos(images, names=["cow"])
    with pytest.raises(ConfigError, match="nothing to explain"):
        bcos(images, top=0)
    with pytest.raises(DataError, match=r"\(3, 1, 32, 32\)"):
        bcos(images[:, :1])
    with pytest.raises(DataError, match="float32"):
        bcos(images.float())
    with pytest.raises(ConfigError, match="3 class names for the 4 outputs"):
        Explainer(bcos.network, classes=CLASSES[:3], image_size=SIZE, method="bcos", layer="Input")
    with pytest.raises(ConfigError, match="gradcam"):
        Explainer(bcos.network, classes=CLASSES, image_size=SIZE, method="gradcam", layer="Final")
    with pytest.raises(ConfigError, match="Mid9"):
        Explainer(bcos.network, classes=CLASSES, image_size=SIZE, method="bcos", layer="Mid9")


def test_broken_weights_are_named(images: Tensor) -> None:
    subject = explainer("bcos_resnet_tiny", "bcos", "Input")
    next(subject.network.parameters()).fill_(float("nan"))
    with pytest.raises(CheckpointError, match="non-finite"):
        subject(images)


def test_pictures_are_cut_as_evaluation_cuts_them() -> None:
    """90 x 60, shorter side to 40: 60 x 40. The network sees the middle 32 x 32, which is 48 x 48 at full size."""
    cutting = Explainer(
        network("bcos_resnet_tiny"), classes=CLASSES, image_size=SIZE, method="bcos", layer="Input", shorter=40
    )
    picture = Image.effect_noise((90, 60), 80).convert("RGB")
    assert cutting.visible(picture).size == (48, 48)
    assert np.array_equal(np.array(cutting.visible(picture)), np.array(picture)[6:54, 21:69])
    framed = picture.copy()
    framed.paste((255, 0, 0), (0, 0, 15, 60))  # outside of what it sees
    assert torch.equal(cutting.prepare([picture]), cutting.prepare([framed]))
    assert "shorter side to 40" in cutting.preprocessing["resize"]
    squeezing = explainer("bcos_resnet_tiny", "bcos", "Input")
    assert squeezing.visible(picture) is picture
    assert not torch.equal(squeezing.prepare([picture]), squeezing.prepare([framed]))


def test_probabilities_of_exclusive_classes_sum_to_one() -> None:
    options = {"classes": CLASSES, "image_size": SIZE, "method": "bcos", "layer": "Input"}
    images = torch.randint(0, 256, (2, 3, SIZE, SIZE), dtype=torch.uint8)
    exclusive = Explainer(network("bcos_resnet_tiny"), **options, exclusive=True)(images)
    separate = Explainer(network("bcos_resnet_tiny"), **options)(images)
    for one, other in zip(exclusive, separate, strict=True):
        torch.testing.assert_close(one.probabilities, one.logits.exp() / one.logits.exp().sum())
        torch.testing.assert_close(other.probabilities, 1 / (1 + (-other.logits).exp()))
        assert one.classes[0].probability == pytest.approx(float(one.probabilities.max()))


@pytest.mark.parametrize(
    ("sections", "compete"),
    [
        ({}, False),
        ({"loss": {"name": "cross_entropy"}}, True),
        ({"distill": {"teacher": "t"}}, True),
        ({"distill": {"teacher": "t", "form": "bernoulli"}}, False),
        ({"distill": {"teacher": "t", "truth_weight": 1.0}}, False),
    ],
)
def test_classes_compete_where_training_saw_only_differences(sections: dict[str, Any], compete: bool) -> None:
    raw = {
        "name": "run", "epochs": 1, "data": {"path": "d"}, "model": {"name": "bcos_resnet_tiny"},
        "evaluation": {"select": "last"},
    }  # fmt: skip
    config = parse_config(raw | sections)
    found = Explainer.of_run(network("bcos_resnet_tiny"), config, {"classes": CLASSES}, origin="run")
    assert found.exclusive is compete
