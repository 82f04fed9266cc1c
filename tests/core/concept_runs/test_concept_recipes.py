"""The shipped concept recipes: what was published, at taps that exist, with stores that fit 10 GB."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytrain_xai.concept_config import ConceptRunConfig, TopKSection
from raytrain_xai.concepts.positions import positions_per_image
from raytrain_xai.config import load_job
from raytrain_xai.features.plan import tap_shape
from raytrain_xai.models.network import Network
from raytrain_xai.models.weights import is_named
from raytrain_xai.models.zoo import build_network

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
IMAGENET = 1_281_167  # training images

# Parchami-Araghi et al., NeurIPS 2025: channels, side of the map, vectors of an image, latents, active ones, rate.
PUBLISHED = {
    "imagenet_r50_layer2": (512, 28, 72, 8192, 32, 1e-3),
    "imagenet_r50_layer3": (1024, 14, 36, 16384, 32, 1e-3),
    "imagenet_r50_layer4": (2048, 7, 18, 16384, 16, 1e-3),
    "imagenet_densenet121_transition2": (256, 14, 144, 8192, 32, 1e-4),
    "imagenet_densenet121_transition3": (512, 7, 49, 16384, 32, 1e-3),
    "imagenet_densenet121_norm5": (1024, 7, 36, 16384, 16, 1e-3),
    "imagenet_vitc_s_encoder4": (384, 14, 96, 16384, 64, 1e-4),
    "imagenet_vitc_s_encoder8": (384, 14, 96, 8192, 32, 1e-3),
    "imagenet_vitc_s_encoder9": (384, 14, 96, 16384, 32, 1e-4),
    "imagenet_vitc_s_encoder10": (384, 14, 96, 8192, 32, 1e-3),
}


def recipe(name: str) -> ConceptRunConfig:
    config = load_job(CONFIGS / f"{name}.yaml")
    assert isinstance(config, ConceptRunConfig)
    return config


@pytest.fixture(scope="module")
def networks() -> dict[str, Network]:
    names = {recipe(f"concepts/{name}").network.partition("=")[0] for name in PUBLISHED}
    return {name: build_network(name, 2, weights=None) for name in names}


def test_every_published_choice_has_a_file() -> None:
    assert {f.stem for f in (CONFIGS / "concepts").glob("imagenet_*.yaml")} == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_recipes(name: str, networks: dict[str, Network]) -> None:
    dim, side, vectors, latents, k, rate = PUBLISHED[name]
    config = recipe(f"concepts/{name}")
    network, _, weights = config.network.partition("=")
    assert is_named(weights)
    sae = config.sae
    assert isinstance(sae, TopKSection)
    assert (sae.latents, sae.k, config.optim.lr, config.epochs) == (latents, k, rate, 16)
    assert (sae.aux_weight, sae.aux_latents, sae.dead_after_epochs) == (1 / 32, 256, 0.5)
    assert (config.optim.warmup_epochs, config.optim.constant_epochs, config.optim.clip_norm) == (1, 1, 1)
    assert (config.image_size, config.eval_resize, config.evaluation.every_epochs) == (224, 256, 2)
    assert tap_shape(networks[network].eval(), config.layer, 224) == (dim, side, side)
    assert positions_per_image(dim, side * side) == vectors
    per_image = config.features.per_image
    assert per_image is not None
    assert IMAGENET * per_image * dim * 2 <= 10e9 < IMAGENET * (per_image + 1) * dim * 2
    assert IMAGENET * per_image // config.batch_size >= 39  # steps of an epoch
    assert config.batch_size % config.workers == 0


def test_recipes_of_this_repository() -> None:
    voc = recipe("concepts/voc_squeezenet")
    assert (voc.layer, voc.sae.latents, voc.features.store) == ("features.11", 1024, "datasets/features/voc-squeezenet")
    assert recipe("concepts/scenes_multi").network == "runs/scenes-multi-bcosified-energy"
    assert recipe("tiny/scenes_concepts").features.store == "runs/tiny-features"
