"""The shipped training-from-scratch recipes say what was published, and their networks exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytrain_xai.config import RunConfig, load_config
from raytrain_xai.models.zoo import find_architecture
from raytrain_xai.runners.optimiser import learning_rate

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "classify"
FILES = sorted(FOLDER.glob("*.yaml"))
IMAGENET = 1_281_167  # training images


def recipe(name: str) -> RunConfig:
    return load_config(FOLDER / f"{name}.yaml")


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_networks_exist_and_start_at_random(file: Path) -> None:
    config = load_config(file)
    assert find_architecture(config.model.name).is_bcos == config.model.name.startswith("bcos")
    assert config.model.weights is None
    assert config.model.norm_statistics != "frozen"
    assert config.guidance.weight == 0


@pytest.mark.parametrize(
    ("name", "rates"),
    [  # rate at the start of epochs 0, 5 and of the last one
        ("imagenet_bcos_cnn", (1e-5, 1e-3, 3.4e-7)),
        ("imagenet_bcos_long", (1e-5, 1e-3, 7.0e-9)),
        ("imagenet_plain_cnn", (0.1, 0.1, 1e-3)),
        ("imagenet_bcos_vit", (1e-5, 6.29e-4, 3.7e-7)),
        ("imagenet_plain_vit", (1e-5, 6.29e-4, 3.7e-7)),
    ],
)
def test_rates_of_the_imagenet_recipes(name: str, rates: tuple[float, float, float]) -> None:
    config = recipe(name)
    per_epoch = IMAGENET // config.batch_size
    found = [
        learning_rate(config.optim, epoch * per_epoch, config.epochs * per_epoch, per_epoch)
        for epoch in (0, 5, config.epochs - 1)
    ]
    assert found == pytest.approx(rates, rel=0.03)


def test_the_long_recipe_scales_the_published_decay() -> None:
    config = recipe("imagenet_bcos_long")
    assert config.ema.decay is not None
    scale = config.batch_size * config.ema.every_steps / config.epochs
    assert 1 - config.ema.decay == pytest.approx((1 - 0.99998) * scale, rel=0.01)
    assert (config.data.train_size, config.data.eval_resize, config.data.image_size) == (176, 232, 224)
    assert (config.data.repeats, config.data.policy, config.data.erase) == (4, "trivialaugment", 0.1)
    assert (config.mixing.mixup_alpha, config.mixing.cutmix_alpha) == (0.2, 1.0)


def test_b_cos_recipes_clip_by_unit_and_plain_ones_do_not() -> None:
    for name in ("imagenet_bcos_cnn", "imagenet_bcos_long", "imagenet_bcos_vit"):
        assert (recipe(name).optim.agc, recipe(name).loss.name) == (0.01, "off_label_bce")
    for name in ("imagenet_plain_cnn", "imagenet_plain_vit"):
        assert (recipe(name).optim.agc, recipe(name).loss.name) == (None, "cross_entropy")
    assert (recipe("cifar10_bcos").optim.agc, recipe("cifar10_bcos").loss.name) == (None, "bce")
