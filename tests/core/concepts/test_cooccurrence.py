"""Sums over pairs of active latents against dense products."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from raytrain_xai.concepts import cooccurrence
from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.cooccurrence import CoOccurrence, co_occurrence
from raytrain_xai.concepts.merging import merge_parts

LATENTS = 23


def random_code(positions: int, k: int, seed: int) -> SparseCode:
    """A third of the places are unused or below the threshold of activity."""
    generator = torch.Generator().manual_seed(seed)
    indices = torch.rand(positions, LATENTS, generator=generator).topk(k, dim=1).indices
    values = torch.rand(positions, k, generator=generator, dtype=torch.float64)
    values = values * (torch.rand(positions, k, generator=generator) > 0.2)
    return SparseCode(torch.where(values < 0.1, values / 1e3, values), indices, LATENTS)


def dense(seen: CoOccurrence) -> tuple[Tensor, Tensor]:
    """C and D as tables."""
    together, mass = torch.diag(seen.frequency.double()), torch.diag(seen.mass)
    source, target, counts, sums = seen.directed()
    together[source, target], mass[source, target] = counts, sums
    return together, mass


def test_three_positions_by_hand() -> None:
    values = torch.tensor([[2.0, 1.0], [0.5, 3.0], [4.0, 0.0]])
    indices = torch.tensor([[0, 2], [2, 0], [1, 0]])
    together, mass = dense(co_occurrence(SparseCode(values, indices, 3)))
    assert together.tolist() == [[2, 0, 2], [0, 1, 0], [2, 0, 2]]
    assert mass.tolist() == [[5, 0, 5], [0, 4, 0], [1.5, 0, 1.5]]  # latent 0 has 2 and 3 where 2 has 1 and 0.5


@pytest.mark.parametrize("k", [1, 2, 7])
def test_equals_dense_products(k: int) -> None:
    code = random_code(300, k, seed=k)
    z = code.dense()
    active = (z > 1e-3).double()
    together, mass = dense(co_occurrence(code))
    assert torch.equal(together, active.T @ active)
    torch.testing.assert_close(mass, (z * active).T @ active, rtol=1e-13, atol=0)


def test_shares_do_not_exceed_one() -> None:
    seen = co_occurrence(random_code(300, 7, seed=0))
    source, _, _, sums = seen.directed()
    assert bool((sums / seen.mass[source] <= 1 + 1e-12).all())


def test_a_map_counts_like_its_positions() -> None:
    code = random_code(60, 5, seed=1)
    as_map = SparseCode(code.values.view(3, 20, 5), code.indices.view(3, 20, 5), LATENTS)
    for one, other in zip(dense(co_occurrence(code)), dense(co_occurrence(as_map)), strict=True):
        assert torch.equal(one, other)


def test_blocks_inside_and_outside_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    code = random_code(200, 6, seed=2)
    whole = co_occurrence(code)
    monkeypatch.setattr(cooccurrence, "_PAIRS_AT_ONCE", 100)  # six positions at a time
    parts = [co_occurrence(code.rows(rows)) for rows in torch.arange(200).split(7)]
    for grouped in (
        merge_parts(parts),
        parts[0].merge(*parts[1:]),
        merge_parts([part.merge(other) for part, other in zip(parts[::2], parts[1::2], strict=False)] + parts[28:]),
    ):
        assert int(grouped.positions) == 200
        for one, other in zip(dense(whole), dense(grouped), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-13, atol=0)


def test_sums_do_not_grow_with_the_positions() -> None:
    code = random_code(500, 6, seed=3)
    few, many = co_occurrence(code), merge_parts(co_occurrence(code) for _ in range(40))
    assert int(many.positions) == 20_000
    assert {n: v.nbytes for n, v in many.to_tensors().items()} == {n: v.nbytes for n, v in few.to_tensors().items()}


def test_stored_and_read_again() -> None:
    seen = co_occurrence(random_code(50, 4, seed=4))
    found = CoOccurrence.from_tensors(seen.to_tensors() | {"something": torch.zeros(1)})
    for one, other in zip(dense(seen), dense(found), strict=True):
        assert torch.equal(one, other)


def test_nothing_active() -> None:
    seen = co_occurrence(SparseCode(torch.zeros(4, 3), torch.zeros(4, 3, dtype=torch.int64), 5))
    assert (int(seen.positions), seen.frequency.tolist(), len(seen.pairs.keys)) == (4, [0] * 5, 0)


def test_nothing_to_merge() -> None:
    with pytest.raises(ValueError, match="nothing to merge"):
        merge_parts([])
