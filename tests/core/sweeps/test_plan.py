"""Trials of a sweep: their number, names and configurations."""

from __future__ import annotations

from typing import Any

import pytest

from raytrain_xai.config import validated
from raytrain_xai.errors import ConfigError
from raytrain_xai.sweep_config import SweepConfig
from raytrain_xai.sweeps.plan import (
    baseline_config,
    baseline_name,
    baseline_seeds,
    describe_values,
    get_path,
    make_plan,
    set_path,
    trial_config,
    trial_spec,
)

BASE = {"epochs": 4, "data": {"path": "d"}, "model": {"name": "resnet18", "weights": "w"}, "guidance": {"weight": 0.5}}


def sweep(**keys: Any) -> SweepConfig:
    return validated(SweepConfig, {"name": "s", "storage": "/runs", "base": BASE, **keys}, "sweep")


def test_seeds_change_fastest_and_ids_are_stable() -> None:
    plan = make_plan(sweep(space={"guidance.loss": ["energy", "l1"]}, seeds=[3, 5]))
    assert [(spec.values["guidance.loss"], spec.seed) for spec in plan] == [
        ("energy", 3), ("energy", 5), ("l1", 3), ("l1", 5),
    ]  # fmt: skip
    assert plan[0].id == "0000-b5f7e3"  # sha256 of '[{"guidance.loss": "energy"}, 3, null]' begins so
    assert plan[2] == trial_spec(2, {"guidance.loss": "l1"}, 3)
    longer = make_plan(sweep(space={"guidance.loss": ["energy", "l1", "rrr"]}, seeds=[3, 5]))
    assert longer[:4] == plan


def test_strategies_are_crossed_with_points_where_there_is_a_choice() -> None:
    keys: dict[str, Any] = {"strategies": ["random", "k_centre"], "baseline": {}, "seeds": [0, 1]}
    plan = make_plan(sweep(space={"guidance.annotated_fraction": [0, 0.1, 1], "guidance.weight": [0, 1]}, **keys))
    chosen = {(s.values["guidance.annotated_fraction"], s.values["guidance.weight"], s.strategy) for s in plan}
    assert chosen == {
        (0, 0, None), (0, 1, None), (0.1, 0, None), (0.1, 1, "random"), (0.1, 1, "k_centre"), (1, 0, None),
        (1, 1, None),
    }  # fmt: skip
    assert len(plan) == 7 * 2
    by_base = make_plan(sweep(fixed={"guidance.annotated_fraction": 0.1}, space={"guidance.loss": ["l1"]}, **keys))
    assert [spec.strategy for spec in by_base] == ["random", "random", "k_centre", "k_centre"]


def test_a_trial_is_the_base_with_fixed_and_own_values_in_this_order() -> None:
    config = sweep(
        fixed={"guidance.layer": "Final", "optim.lr": 0.1}, space={"optim.lr": [0.2], "bcosify.fold": ["exact"]}
    )
    spec = make_plan(config)[0]
    with pytest.raises(
        ConfigError, match=rf"trial {spec.id} \(optim.lr=0.2, bcosify.fold=exact\): bcosify needs a model"
    ):
        trial_config(config, spec)
    config = sweep(fixed={"guidance.layer": "Final", "optim.lr": 0.1}, space={"optim.lr": [0.2]}, seeds=[7])
    spec = make_plan(config)[0]
    run = trial_config(config, spec, baseline="/b", order="/o.json")
    assert run.job == "classify"
    assert (run.guidance.layer, run.optim.lr, run.guidance.weight, run.seed) == ("Final", 0.2, 0.5, 7)
    assert (run.name, run.storage) == (spec.id, "/runs/s/trials")
    assert (run.model.weights, run.guidance.annotation_order) == ("/b", "/o.json")
    plain = trial_config(config, spec)
    assert plain.job == "classify" and plain.model.weights == "w" and plain.guidance.annotation_order is None
    assert BASE["guidance"] == {"weight": 0.5}  # the base is not changed


def test_options_of_an_address_stay_at_its_end() -> None:
    config = sweep(storage="s3://b/runs?scheme=http&endpoint_override=h:1", space={"optim.lr": [0.2]})
    run = trial_config(config, make_plan(config)[0])
    assert run.storage == "s3://b/runs/s/trials?scheme=http&endpoint_override=h:1"


def test_the_baseline_is_unguided_and_shared_unless_each_seed_has_its_own() -> None:
    shared = sweep(baseline={"set": {"epochs": 9}}, space={"guidance.weight": [1]}, seeds=[4, 2])
    run = baseline_config(shared, 4)
    assert run.job == "classify"
    assert (run.guidance.weight, run.epochs, run.seed, run.name, run.storage) == (0, 9, 4, "s4", "/runs/s/baseline")
    assert baseline_seeds(shared) == (4,) and baseline_name(shared, 2) == "s4"
    own = sweep(baseline={"each_seed": True}, space={"guidance.weight": [1]}, seeds=[4, 2])
    assert baseline_seeds(own) == (4, 2) and baseline_name(own, 2) == "s2"
    assert baseline_seeds(sweep(space={"guidance.weight": [1]})) == ()


def test_paths_reach_into_sections_that_are_absent_or_null() -> None:
    raw: dict[str, Any] = {"a": None, "b": 3}
    set_path(raw, "a.x.y", 1)
    set_path(raw, "c.d", 2)
    assert raw == {"a": {"x": {"y": 1}}, "b": 3, "c": {"d": 2}}
    assert [get_path(raw, path) for path in ("a.x.y", "a.z", "b.c", "b")] == [1, None, None, 3]
    with pytest.raises(ConfigError, match=r"b.c: b is a value \(3\), not a section"):
        set_path(raw, "b.c", 1)


def test_values_are_described_in_short() -> None:
    assert (
        describe_values({"guidance.weight": 0.000123456, "n": 3, "x": None}) == "guidance.weight=0.0001235, n=3, x=None"
    )
