"""Sections of a sweep's file: how axes are written, and what is refused by them alone."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from raytrain_xai.config import dump_config, validated
from raytrain_xai.errors import ConfigError
from raytrain_xai.sweep_config import SweepConfig


def parsed(text: str) -> SweepConfig:
    return validated(SweepConfig, {"name": "s", "base": {"epochs": 1}, **yaml.safe_load(text)}, "sweep.yaml")


def test_axes_are_lists_ranges_and_single_values() -> None:
    config = parsed("""
space:
  guidance.weight: {loguniform: [1e-4, 1]}
  optim: {lr: [1e-3, 2.0e-3], weight_decay: 0.1}
  seed_like: {choice: [a, null, true]}
""")
    assert {path: axis.model_dump() for path, axis in config.space.items()} == {
        "guidance.weight": {"loguniform": [1e-4, 1]},  # YAML reads 1e-4 as text
        "optim.lr": {"grid": [1e-3, 2e-3]},
        "optim.weight_decay": {"grid": [0.1]},
        "seed_like": {"choice": ["a", None, True]},
    }


def test_stored_and_read_back_it_is_the_same() -> None:
    config = parsed("""
space: {a.b: {randint: [1, 5]}}
cases: [{c: [1, 1.5]}, {d: x}]
fixed: {data: {path: p}}
baseline: {set: {epochs: 3}}
search: {kind: random, trials: 3}
scheduler: {kind: pbt, metric: f1, mutate: {optim.lr: {uniform: [0, 1]}}}
seeds: [0, 4]
strategies: [random]
""")
    assert config.fixed == {"data.path": "p"}
    assert validated(SweepConfig, yaml.safe_load(dump_config(config)), "again") == config
    assert parsed("search: grid\nscheduler: fifo") == parsed("{}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("space: {a: []}", ["space", "grid is empty"]),
        ("space: {a: {loguniform: [0, 1]}}", ["ends above 0"]),
        ("space: {a: {uniform: [2, 1]}}", ["lower end below the upper"]),
        ("space: {a: {uniform: [1, 2, 3]}}", ["needs two numbers"]),
        ("space: {a: {uniform: [x, y]}}", ["needs two numbers"]),
        ("space: {a: {randint: [1, 2.5]}}", ["whole numbers"]),
        ("space: {a: {grid: 3}}", ["grid needs a list of values"]),
        ("space: {a: [1, 1]}", ["names a value twice"]),
        ("seeds: []", ["seeds", "at least one seed"]),
        ("seeds: [1, 1]", ["seeds", "names one twice"]),
        ("strategies: [randm]", ["strategies", "'random'"]),
        ("search: {kind: bayes}", ["search", "'grid', 'random', 'optuna'"]),
        ("search: {kind: random}", ["search.trials is missing"]),
        ("scheduler: {kind: asha, metric: [f1, epg]}", ["scheduler.metric", "one metric", "optuna"]),
        ("scheduler: {kind: pbt, metric: f1}", ["scheduler.mutate is missing"]),
        (
            "scheduler: {kind: asha, metric: f1, grace_perod: 2}",
            ["scheduler.grace_perod", "did you mean grace_period?"],
        ),
        ("objectives: {}", ["objectives", "at least 1"]),
        ("objectives: {f1: up}", ["objectives", "'max' or 'min'"]),
        ("spaces: {}", ["unknown key spaces", "did you mean space?"]),
    ],
)
def test_refusals(text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        parsed(text)
    for word in words:
        assert word in str(refused.value)


def test_true_and_one_are_two_values() -> None:
    values: list[Any] = [1, True]
    assert parsed("space: {a: [1, true]}").space["a"].values == tuple(values)
