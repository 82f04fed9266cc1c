"""The shipped configurations of concepts of an encoder say what was published and measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raytrain_xai.concepts.groups import group_sizes
from raytrain_xai.config import RunConfig, load_job, parse_concept_config, parse_insight_config, parse_job
from raytrain_xai.errors import ConfigError
from raytrain_xai.insight_config import InsightRunConfig
from raytrain_xai.runners.sae_learner import concept_rate

FOLDER = Path(__file__).resolve().parents[3] / "configs"
CC12M_PATCHES = 0.9 * 10_968_539 * 196  # of an epoch


def recipe(name: str) -> InsightRunConfig:
    config = load_job(FOLDER / f"{name}.yaml")
    assert isinstance(config, InsightRunConfig)
    return config


def test_the_published_dictionary() -> None:
    config = recipe("insight/sae_cfm_cc12m")
    assert group_sizes(config.sae.latents, config.sae.group_fractions) == (65, 245, 491, 983, 1966, 4442)
    assert (config.sae.latents, config.sae.k, config.sae.aux_latents) == (8192, 12, 256)
    assert config.sae.aux_weight == 1 / 32
    assert config.sae.dead_after_epochs * CC12M_PATCHES == pytest.approx(10e6, rel=0.02)
    rates = {concept_rate(config.optim, step, 300, 100) for step in (0, 50, 150, 299)}
    assert rates == {1e-4}, "no warm-up, no decay"
    assert abs(config.batch_size - 83 * 196) < 196


def test_the_measured_one_decays_over_its_last_two_fifths() -> None:
    config = recipe("insight/sae")
    assert config.epochs == 10 and config.sae.unit_inputs
    assert [concept_rate(config.optim, step, 1000, 100) for step in (0, 599)] == [1e-3, 1e-3]
    assert concept_rate(config.optim, 800, 1000, 100) == pytest.approx(5e-4)
    assert config.sae.dead_after_epochs * 2601 * 100 == pytest.approx(50 * config.batch_size, rel=0.05)
    assert config.encoder == "embedded"


def test_the_tiny_one() -> None:
    assert recipe("tiny/scenes_insight").data == ("datasets/tiny-multi",)


def raw(**changes: Any) -> dict[str, Any]:
    return {"job": "concepts", "name": "n", "encoder": "embedded", "data": "d", **changes}


def test_the_encoder_tells_the_kinds_of_concept_runs_apart() -> None:
    assert parse_job(raw()).model_dump()["data"] == ("d",)
    with pytest.raises(ConfigError, match="network is missing"):
        parse_job({"job": "concepts", "name": "n", "layer": "Mid2"})
    with pytest.raises(ConfigError, match="for an encoder there is `raytrain-xai insight`"):
        parse_concept_config(raw())
    with pytest.raises(ConfigError, match="one of the concepts of an encoder is needed here"):
        parse_insight_config(RunConfig.model_validate(
            {"name": "n", "epochs": 1, "data": {"path": "d"}, "model": {"name": "m"}}
        ).model_dump())  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sae": {"group_fractions": [0.5, 0.4]}}, "positive and sum to 1"),
        ({"sae": {"group_fractions": [1.5, -0.5]}}, "positive and sum to 1"),
        ({"sae": {"latents": 100}}, "the smallest group of 100 latents would be empty"),
        ({"sae": {"latents": 4, "k": 5, "group_fractions": [1]}}, "k=5 is more than the latents=4"),
        ({"sae": {"kind": "topk"}}, "sae.kind"),
        ({"batch_size": 100, "workers": 3}, "does not divide into 3 equal shares"),
        ({"eval_resize": 64}, "needs an image_size"),
        ({"layer": "Mid2"}, "layer"),
    ],
)
def test_what_a_configuration_cannot_say(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_insight_config(raw(**changes))


def test_sizes_of_groups_come_back_from_their_fractions() -> None:
    for sizes in ((3, 7, 30), (1, 48), (65, 245, 491, 983, 1966, 4442)):
        fractions = [size / sum(sizes) for size in sizes]
        assert group_sizes(sum(sizes), fractions) == sizes
        parse_insight_config(raw(sae={"latents": sum(sizes), "k": 1, "group_fractions": fractions}))
