"""What a sweep is refused for before anything starts, and that all reasons are named at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raytrain_xai.config import parse_config, parse_job, validated
from raytrain_xai.errors import ConfigError
from raytrain_xai.runners.branch import BRANCHABLE
from raytrain_xai.sweep_config import SweepConfig
from raytrain_xai.sweeps.checks import MUTABLE, check_sweep
from raytrain_xai.sweeps.load import load_sweep
from raytrain_xai.sweeps.objectives import check_on_data, data_metrics, refusal
from raytrain_xai.sweeps.plan import make_plan, trial_config

BASE: dict[str, Any] = {
    "epochs": 4, "data": {"path": "d"}, "model": {"name": "resnet18", "weights": "w"}, "guidance": {"weight": 0.5},
}  # fmt: skip
SAE: dict[str, Any] = {"job": "concepts", "network": "n", "layer": "Final"}
PBT = {"kind": "pbt", "metric": "f1", "mutate": {"optim.lr": {"loguniform": [1e-5, 1e-3]}}}


def sweep(**keys: Any) -> SweepConfig:
    return validated(SweepConfig, {"name": "s", "base": BASE, **keys}, "sweep")


ACCEPTED: list[dict[str, Any]] = [
    {"space": {"guidance.weight": [0, 1]}},
    {"seeds": [0, 1]},
    {"space": {"optim.lr": {"uniform": [0.1, 1]}, "guidance.loss": ["l1"]}, "search": {"kind": "random", "trials": 2}},
    {"space": {"optim.lr": {"uniform": [0.1, 1]}}, "search": {"kind": "optuna", "trials": 2}},
    {"space": {"guidance.weight": [0, 1]}, "scheduler": {"kind": "asha", "metric": "epg"}},
    {"space": {"guidance.weight": [0, 1]}, "scheduler": PBT},
    {"space": {"guidance.annotated_fraction": [0.1]}, "strategies": ["k_centre"], "baseline": {}},
    {"base": SAE, "space": {"sae.k": [8, 16]}, "objectives": {"accuracy": "max", "dead": "min"}},
    {"space": {"loss.name": ["bce", "cross_entropy"]}, "objectives": {"accuracy": "max"},
     "fixed": {"evaluation.select": "best_accuracy"}},
    {"cases": [{"loss.name": "cross_entropy", "evaluation.select": "last"}, {"loss.name": "bce"}],
     "objectives": {"accuracy": "max"}},
]  # fmt: skip


@pytest.mark.parametrize("keys", ACCEPTED, ids=str)
def test_accepted(keys: dict[str, Any]) -> None:
    check_sweep(sweep(**keys))


REFUSED: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["the space is empty", "guidance.weight: [0.1, 1]"]),
    ({"search": {"kind": "random", "trials": 3}, "seeds": [0, 1]}, ["the space is empty"]),
    ({"space": {"guidance.wieght": [1]}}, ["unknown key guidance.wieght", "did you mean weight?"]),
    ({"space": {"guidance.weight": [1]}, "fixed": {"optim.nam": 1}}, ["unknown key optim.nam", "did you mean name?"]),
    ({"space": {"guidance.weight": [1, -1]}}, ["greater than or equal to 0, got -1 (with guidance.weight=-1)"]),
    ({"space": {"epochs.x": [1]}}, ["epochs.x: epochs is a value (4), not a section"]),
    ({"space": {"seed": [1]}}, ["space: seed cannot be set", "set seeds"]),
    ({"fixed": {"name": "x"}, "seeds": [0, 1]}, ["fixed: name cannot be set"]),
    ({"fixed": {"optim.lr": 1}, "space": {"optim.lr": [1]}}, ["optim.lr is in space and in fixed or space; keep one"]),
    ({"space": {"optim.lr": [1]}, "cases": [{"optim.lr": [2]}]}, ["optim.lr is in cases[0] and in fixed or space"]),
    ({"space": {"optim.lr": {"uniform": [1, 2]}}}, ["a grid cannot list optim.lr (uniform)", "search.kind=random"]),
    ({"space": {"optim.lr": {"uniform": [-1, 2]}}}, ["a grid cannot list", "greater than 0"]),
    ({"space": {"optim.lr": {"choice": [1]}}}, ["a grid cannot list optim.lr (choice)"]),
    ({"space": {"optim.lr": [1]}, "search": {"kind": "random", "trials": 3}}, ["nothing to draw"]),
    ({"space": {"optim.lr": [1]}, "search": {"kind": "optuna", "trials": 3}, "seeds": [0, 1]}, ["give one seed"]),
    ({"space": {"optim.lr": {"uniform": [-1, 2]}}, "search": {"kind": "optuna", "trials": 3}}, ["optim.lr", "got -1"]),
    ({"space": {"optim.lr": [1]}, "objectives": {"epq": "max"}}, ["metric epq is not measured", "did you mean epg?"]),
    ({"space": {"optim.lr": [1]}, "objectives": {"dead": "min"}}, ["metric dead is of concept runs"]),
    ({"space": {"optim.lr": [1]}, "objectives": {"agreement": "max"}}, ["metric agreement", "set distill.teacher"]),
    ({"base": SAE, "space": {"sae.k": [8]}, "objectives": {"similarity": "max"}}, ["compares with a teacher"]),
    ({"space": {"loss.name": ["bce", "cross_entropy"]}, "fixed": {"evaluation.select": "last"}},
     ["metric f1 is decided at logit 0", "loss.name=cross_entropy", "with loss.name=cross_entropy"]),
    ({"base": {**BASE, "guidance": {}}, "fixed": {"distill.teacher": "t", "evaluation.select": "last"},
      "space": {"distill.temperature": [1]}}, ["metric f1", "distill.form=softmax", "take accuracy"]),
    ({"base": SAE, "space": {"sae.k": [8]}, "baseline": {}}, ["baseline: it is for classifiers"]),
    ({"space": {"optim.lr": [1]}, "baseline": {"set": {"guidance.weight": 1}}}, ["baseline: it is unguided"]),
    ({"space": {"optim.lr": [1]}, "baseline": {"set": {"epoch": 1}}}, ["baseline: unknown key epoch"]),
    ({"space": {"model.name": ["resnet18"]}, "baseline": {}}, ["model.name cannot vary", "one baseline"]),
    ({"space": {"guidance.annotated_fraction": [0.1]}, "strategies": ["random"]}, ["add baseline: {}"]),
    ({"space": {"optim.lr": [1]}, "strategies": ["random"], "baseline": {}}, ["strategies change nothing"]),
    ({"space": {"optim.lr": [1]}, "scheduler": {"kind": "asha", "metric": "acc"}}, ["metric acc is not measured"]),
    ({"space": {"optim.lr": [1]}, "scheduler": {"kind": "asha", "metric": "f1", "grace_period": 4}},
     ["scheduler.kind=asha decides nothing before the last of 4 epochs"]),
    ({"seeds": [0, 1], "fixed": {"evaluation.every_epochs": 4}, "scheduler": {"kind": "asha", "metric": "f1"}},
     ["decides nothing", "lower evaluation.every_epochs"]),
    ({"space": {"optim.lr": [1]}, "scheduler": {"kind": "asha", "metric": "f1", "grace_period": 3, "max_t": 2}},
     ["scheduler.max_t=2 is below scheduler.grace_period=3"]),
    ({"space": {"optim.lr": {"uniform": [1, 2]}}, "search": {"kind": "optuna", "trials": 3},
      "scheduler": {"kind": "asha", "metric": "f1"}}, ["one metric", "f1, epg, iou", "scheduler.kind=fifo"]),
    ({"space": {"guidance.weight": [0, 1]}, "scheduler": {**PBT, "mutate": {"guidance.layer": ["Final"]}}},
     ["cannot change guidance.layer", "scheduler.kind=pbt only optim"]),
    ({"space": {"model.name": ["a", "b"]}, "scheduler": PBT}, ["cannot change model.name"]),
    ({"space": {"guidance.weight": [0, 1]}, "scheduler": {**PBT, "mutate": {"optim.name": ["sgd"]}}}, ["optim.name"]),
    ({"space": {"guidance.weight": [0, 1]}, "scheduler": {**PBT, "mutate": {"optim.lr": [-1]}}}, ["got -1"]),
    ({"space": {"guidance.weight": [1]}, "scheduler": PBT}, ["population of two"]),
    ({"space": {"guidance.weight": [0, 1]}, "scheduler": PBT, "seeds": [0, 1]}, ["trials of one seed"]),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "words"), REFUSED, ids=[words[0] for _, words in REFUSED])
def test_refused(keys: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        check_sweep(sweep(**keys))
    for word in words:
        assert word in str(refused.value), str(refused.value)


def test_all_problems_are_listed_each_once() -> None:
    config = sweep(
        space={"guidance.wieght": [1, 2], "optim.lr": [0.1, -1]}, fixed={"name": "x"}, strategies=["random"],
        scheduler={"kind": "asha", "metric": "f3"},
    )  # fmt: skip
    with pytest.raises(ConfigError) as refused:
        check_sweep(config)
    text = str(refused.value)
    for problem in (
        "fixed: name",
        "add baseline",
        "strategies change nothing",
        "unknown key guidance.wieght",
        "got -1",
    ):
        assert text.count(problem) == 1, text


def test_keys_that_a_population_may_change_are_those_a_branch_may() -> None:
    assert set(MUTABLE) == set(BRANCHABLE)


def test_files_name_their_base_and_overrides_reach_dotted_keys(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("{name: b, epochs: 4, data: {path: d}, model: {name: resnet18, weights: w}}")
    (tmp_path / "s.yaml").write_text(
        "{name: s, base: base.yaml, fixed: {optim.lr: 0.1}, space: {guidance.weight: {uniform: [1, 2]}, optim: "
        "{weight_decay: [0.1]}}}"
    )
    sets = ["space.guidance.weight=[1, 2]", "fixed.optim.lr=1e-2", "fixed.epochs=9", "seeds=[5]", "name=other"]
    config = load_sweep(tmp_path / "s.yaml", sets)
    assert config.base["name"] == "b" and config.seeds == (5,) and config.name == "other"
    assert config.fixed == {"optim.lr": 0.01, "epochs": 9}
    assert {path: axis.model_dump() for path, axis in config.space.items()} == {
        "guidance.weight": {"grid": [1, 2]}, "optim.weight_decay": {"grid": [0.1]},
    }  # fmt: skip
    for text, words in (("{name: s}", "base is missing"), ("{name: s, base: no.yaml}", "no configuration file")):
        (tmp_path / "s.yaml").write_text(text)
        with pytest.raises(ConfigError, match=words):
            load_sweep(tmp_path / "s.yaml")


def test_metrics_that_data_give(birds: str, objects: str) -> None:
    shared = {"f1", "precision", "recall", "accuracy", "map", "epg", "iou", "empty_maps", "on_object"}
    assert data_metrics(objects) == shared | {"decision_agreement"}
    found = data_metrics(birds)
    assert found - shared - {"worst_group"} == {name for name in found if name.startswith("group_")}
    config = sweep(
        base={**BASE, "data": {"path": objects}}, space={"guidance.weight": [0, 1]},
        objectives={"f1": "max", "worst_group": "max", "top5": "max"},
    )  # fmt: skip
    runs = [trial_config(config, spec) for spec in make_plan(config)]
    with pytest.raises(ConfigError, match=r"worst_group is not measured on .*no such group.*; metric top5"):
        check_on_data(config, runs)
    check_on_data(config.model_copy(update={"objectives": {"epg": "max"}}), runs)


def test_groups_are_metrics_by_name_and_softmax_distillation_has_accuracy() -> None:
    run = parse_config({"name": "r", **BASE})
    assert refusal("group_water_on_land", run) is None and refusal("worst_group", run) is None
    distilled = {**BASE, "guidance": {}, "distill": {"teacher": "t"}, "evaluation": {"select": "last"}}
    run = parse_config({"name": "r", **distilled})
    assert refusal("similarity", run) is None and refusal("accuracy", run) is None
    assert refusal("f1", run) is not None


def test_concepts_of_an_encoder_have_metrics_of_their_own() -> None:
    run = parse_job({"job": "concepts", "name": "n", "encoder": "embedded", "data": "d"})
    assert refusal("variance_explained", run) is None
    assert refusal("accuracy", run) == (
        "metric accuracy is not of concepts of an encoder: variance_explained, cosine, l0, image_l0, dead, always_on"
    )


def test_a_sweep_over_concepts_of_an_encoder_checks_their_keys() -> None:
    base = {"job": "concepts", "encoder": "embedded", "data": ["d"], "workers": 0}
    fine = {"base": base, "objectives": {"variance_explained": "max"}, "space": {"sae.k": [8, 12]}}
    check_sweep(sweep(**fine))
    with pytest.raises(ConfigError, match="k=9000 is more than the latents"):
        check_sweep(sweep(**{**fine, "space": {"sae.k": [8, 9000]}}))
    with pytest.raises(ConfigError, match="metric f1 is not of concepts of an encoder"):
        check_sweep(sweep(**{**fine, "objectives": {"f1": "max"}}))
