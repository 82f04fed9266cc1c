"""Two workers under DDP make the steps of distillation that one makes on the joint batch."""

from __future__ import annotations

from pathlib import Path

import distill_gloo
import pytest
import safetensors.torch
import torch


@pytest.mark.parametrize("name", distill_gloo.TERMS)
def test_two_workers_make_the_steps_of_one(of_workers: Path, name: str) -> None:
    shares = [safetensors.torch.load_file(of_workers / f"{name}-{rank}.safetensors") for rank in (0, 1)]
    one = distill_gloo.run(name, 0, 1)
    assert set(one) == set(shares[0]) == set(shares[1])
    for key, value in one.items():
        if " sum " in key:
            torch.testing.assert_close(shares[0][key] + shares[1][key], value, rtol=1e-10, atol=1e-12)
        else:
            assert torch.equal(shares[0][key], shares[1][key])
    for step in distill_gloo.STEPS:
        keys = [key for key in one if key.startswith(f"{step} ") and " sum " not in key]
        joint, found = (torch.cat([tensors[key].flatten() for key in keys]) for tensors in (one, shares[0]))
        assert (found - joint).norm() < 1e-10 * joint.norm() and joint.norm() > 0
    explained = {int(key.split()[0]) for key in one if key.endswith("exp_sum")}
    assert explained == ({2} if name == "weights" else set(distill_gloo.STEPS))
