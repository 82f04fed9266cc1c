"""Two workers compute what one computes on the joint batch, and every parameter gets a gradient in every step."""

from __future__ import annotations

from pathlib import Path

import baseline_gloo
import pytest
import safetensors.torch
import torch
from torch import Tensor


def loaded(folder: Path, name: str) -> list[dict[str, Tensor]]:
    return [safetensors.torch.load_file(folder / f"{name}-{rank}.safetensors") for rank in range(2)]


@pytest.mark.parametrize("name", ["attention_transfer", "cat_kd", "crd"])
def test_two_workers_are_one(of_workers: Path, name: str) -> None:
    one = baseline_gloo.run(name, rank=0, world_size=1)
    for other in loaded(of_workers, name):
        torch.testing.assert_close(other, one, rtol=1e-8, atol=1e-10)


def test_workers_of_review_kd_agree_although_each_normalises_its_share(of_workers: Path) -> None:
    first, second = loaded(of_workers, "review_kd")
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    one = baseline_gloo.run("review_kd", rank=0, world_size=1)
    assert set(first) == set(one)
    assert not torch.allclose(first["losses"], one["losses"])
