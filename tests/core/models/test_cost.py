"""Parameters and multiply-adds against torchvision's tables and by hand."""

from __future__ import annotations

import pytest
import torchvision

from raytrain_xai.models.cost import count_cost, listed_costs
from raytrain_xai.models.zoo import MODEL_NAMES


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "densenet121", "vgg11_bn", "convnext_tiny", "vit_b_16"])
def test_equals_torchvisions_table(name: str) -> None:
    meta = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].meta
    cost = count_cost(name)
    assert cost.parameters == meta["num_params"]
    assert round(cost.multiply_adds / 1e9, 3) == meta["_ops"]
    assert cost.image_size == 224


def test_bcos_transformer_by_hand() -> None:
    """196 tokens of 192 channels: patches, 12 blocks of (4 + 8) matrices and two products with all tokens, head."""
    n, d = 14**2, 192
    block = 12 * n * d**2 + 2 * n**2 * d
    cost = count_cost("bcos_simple_vit_ti_patch16_224", 10)
    assert cost.multiply_adds == n * (16**2 * 6) * d + 12 * block + d * 10
    assert cost.parameters == 16**2 * 6 * d + 12 * (12 * d**2 + 2 * d) + d + d * 10


def test_the_list_has_every_architecture_as_counted() -> None:
    """All names; the count itself of one network per family, as counting all takes half a minute."""
    listed = listed_costs()
    assert sorted(listed) == sorted(MODEL_NAMES)
    families = ["bcos_resnet18", "bcos_densenet121", "bcos_vgg11_bnu", "bcos_convnext_atto_pn", "vgg11", "vit_b_32",
                "bcos_vitc_ti_patch1_14", "bcosified_squeezenet1_1", "xdnn_resnet18", "squeezenet1_1"]  # fmt: skip
    assert {name: listed[name] for name in families} == {name: count_cost(name) for name in families}
