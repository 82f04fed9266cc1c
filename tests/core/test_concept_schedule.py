"""Learning rates of concept runs, by hand."""

from __future__ import annotations

import pytest

from raytrain_xai.concept_config import ConceptOptimSection
from raytrain_xai.runners.sae_learner import concept_rate


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.25), (3, 1.0), (4, 1.0), (7, 1.0), (8, 1.0), (10, 0.8535534), (12, 0.5), (14, 0.1464466), (16, 0.0)],
)
def test_warm_up_then_constant_then_half_a_cosine(step: int, rate: float) -> None:
    """Epochs of 4 steps: one up, one constant, two down."""
    assert concept_rate(ConceptOptimSection(lr=1.0), step, 16, 4) == pytest.approx(rate, abs=1e-6)


def test_runs_shorter_than_the_warm_up_never_reach_the_rate() -> None:
    config = ConceptOptimSection(lr=1.0, warmup_epochs=3)
    assert [concept_rate(config, step, 4, 4) for step in range(4)] == pytest.approx([1 / 12, 2 / 12, 3 / 12, 4 / 12])


def test_without_warm_up_the_first_step_has_the_whole_rate() -> None:
    assert concept_rate(ConceptOptimSection(lr=0.5, warmup_epochs=0), 0, 10, 5) == 0.5
