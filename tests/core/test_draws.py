"""Draws without state: uniform, independent, and functions of their arguments."""

from __future__ import annotations

import torch

from raytrain_xai.draws import uniform


def test_draws_are_uniform_and_depend_on_every_argument() -> None:
    index = torch.arange(20000)
    values = uniform(index, 3, 7)
    assert values.dtype == torch.float64 and values.min() >= 0 and values.max() < 1
    counts = torch.histc(values, 20, 0, 1)
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi-square of 19 degrees of freedom at 1 in 1000
    for other in (uniform(index, 4, 7), uniform(index, 3, 8), uniform(index, 7, 3), uniform(index + 1, 3, 7)):
        assert torch.corrcoef(torch.stack([values, other]))[0, 1].abs() < 0.03  # four standard errors
    assert torch.equal(values, uniform(index, torch.full_like(index, 3), 7))
    assert torch.equal(values[[5, 2]], uniform(index[[5, 2]], 3, 7))
