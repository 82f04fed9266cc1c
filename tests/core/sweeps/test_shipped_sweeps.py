"""The shipped sweeps: every trial of each is a valid run, and the studies vary what they are for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from raytrain_xai.sweep_config import SweepConfig
from raytrain_xai.sweeps.load import load_sweep
from raytrain_xai.sweeps.plan import baseline_config, baseline_seeds, make_plan, trial_config

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
FILES = [*sorted((CONFIGS / "tune").glob("*.yaml")), CONFIGS / "tiny" / "sweep_birds.yaml"]


def sweep(name: str) -> SweepConfig:
    return load_sweep(CONFIGS / "tune" / f"{name}.yaml")


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_every_trial_is_a_run_of_one_process(file: Path) -> None:
    config = load_sweep(file)
    plan = make_plan(config)
    runs = [trial_config(config, spec, baseline="runs/x" if config.baseline else None) for spec in plan]
    assert len({spec.id for spec in plan}) == len(plan) == len({run.model_dump_json() for run in runs})
    assert all(run.workers == 0 and run.storage.endswith(f"runs/{config.name}/trials") for run in runs)
    assert all(baseline_config(config, seed).seed == seed for seed in baseline_seeds(config))
    assert "raytrain-xai data prepare" in file.read_text()


@pytest.mark.parametrize("name", ["loss_weight_birds", "loss_weight_voc"])
def test_losses_have_three_decades_of_weights_of_their_own_at_two_layers(name: str) -> None:
    values = [spec.values for spec in make_plan(sweep(name))]
    assert {v["guidance.layer"] for v in values} == {"Mid3", "Final"}
    weights: dict[object, list[float]] = {}
    for v in values:
        if v["guidance.layer"] == "Final":
            weights.setdefault(v.get("guidance.loss"), []).append(float(str(v["guidance.weight"])))
    assert weights.pop(None) == [0.0]  # the control
    assert set(weights) == {"energy", "l1", "ppce", "rrr"}
    for own in weights.values():
        assert [own[1] / own[0], own[2] / own[1]] == pytest.approx([10, 10])


def test_budgets_go_from_half_a_percent_to_everything() -> None:
    plan = make_plan(sweep("annotation_budget"))
    fractions = {float(str(spec.values["guidance.annotated_fraction"])) for spec in plan}
    assert sorted(fractions) == [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    assert Counter(spec.seed for spec in plan) == {0: 16, 1: 16, 2: 16}


def test_strategies_share_the_point_at_which_there_is_nothing_to_choose() -> None:
    plan = make_plan(sweep("annotation_strategies"))
    counts = Counter(spec.strategy for spec in plan)
    assert counts.pop(None) == 3  # all images annotated, three seeds
    assert len(counts) == 6 and set(counts.values()) == {5 * 3}


def test_other_studies_vary_what_they_are_named_for() -> None:
    dilation = {spec.values["guidance.box_dilation"] for spec in make_plan(sweep("box_dilation"))}
    assert dilation == {0.0, 0.1, 0.25, 0.5}
    weights = make_plan(sweep("distill_weights"))
    assert {(v["distill.temperature"], v["distill.explanation_weight"]) for v in (s.values for s in weights)} == {
        (t, w) for t in (1.0, 5.0) for w in (0.0, 0.2, 1.0, 5.0, 10.0)
    }
    assert Counter(len(spec.values) for spec in make_plan(sweep("sae"))) == {3: 3 * 3 * 2}
