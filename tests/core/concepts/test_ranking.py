"""Which concepts are shown, and how many tell most of it."""

from __future__ import annotations

import torch

from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.ranking import concepts_for_share, is_among, strongest


def test_strongest_leaves_out_what_does_not_act() -> None:
    contribution = torch.tensor([[0.0, 2.0, -1.0, 3.0], [0.0, 0.0, -4.0, 0.0]])
    ids, is_shown = strongest(contribution, 3)
    assert ids[0].tolist() == [3, 1, 2]
    assert ids[1, 0] == 2
    assert is_shown.tolist() == [[True, True, True], [True, False, False]]
    assert strongest(contribution, 9)[0].shape == (2, 4)


def test_places_of_chosen_concepts() -> None:
    code = SparseCode(torch.ones(2, 2, 2), torch.tensor([[[0, 3], [1, 2]], [[3, 0], [2, 0]]]), 4)
    found = is_among(code, torch.tensor([[3, 1], [0, 2]]), torch.tensor([[True, True], [True, False]]))
    assert found.tolist() == [[[False, True], [True, False]], [[False, True], [False, True]]]


def test_concepts_for_a_share() -> None:
    """5 + 3 of 10 are just 80 %, whatever is negative; nothing carries nothing."""
    contribution = torch.tensor(
        [[1.0, 5.0, 0.0, 3.0, 1.0, -9.0], [0.0, 0.0, -1.0, 0.0, 0.0, 0.0], [0.0, 2, 0, 0, 0, 0]]
    )
    assert concepts_for_share(contribution).tolist() == [2, 0, 1]
    assert concepts_for_share(contribution, 0.81).tolist() == [3, 0, 1]
    assert concepts_for_share(contribution, 1.0).tolist() == [4, 0, 1]
