"""Projection, clipping, Adam and unit rows; counts of what fires."""

from __future__ import annotations

import pytest
import torch
from test_sae_step import DEAD, KINDS, L1, make_sae, make_vectors

from raytrain_xai.concepts.sae import TopKSae
from raytrain_xai.concepts.step import StepSettings, sae_step
from raytrain_xai.concepts.update import apply_update, build_adam, project_gradients
from raytrain_xai.concepts.usage import LatentUsage


def test_projection_by_hand() -> None:
    """Row (0.6, 0.8) and gradient (1, 2): along the row 2.2, so (1 - 1.32, 2 - 1.76) is left."""
    sae = TopKSae(2, 1, 1).double()
    with torch.no_grad():
        sae.dictionary.copy_(torch.tensor([[0.6, 0.8]]))
    gradients = {
        "dictionary": torch.tensor([[1.0, 2.0]], dtype=torch.float64),
        "encoder": torch.tensor([[3.0, 0.0]], dtype=torch.float64),
    }
    norm = project_gradients(sae, gradients)
    torch.testing.assert_close(gradients["dictionary"], torch.tensor([[-0.32, 0.24]], dtype=torch.float64))
    assert float(norm) == pytest.approx((9 + 0.32**2 + 0.24**2) ** 0.5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("clip_norm", [None, 0.1])
def test_updates_are_those_of_the_plain_loop(kind: str, clip_norm: float | None) -> None:
    """Three steps against torch's own Adam, clipping and normalisation, one after the other."""
    ours, plain = make_sae(kind), make_sae(kind)
    optimizer = build_adam(ours)
    reference = torch.optim.Adam(plain.parameters(), foreach=False, fused=False)
    for position, rate in enumerate((0.01, 0.02, 0.005)):
        x = make_vectors(seed=position)
        for sae in (ours, plain):
            for name, gradient in sae_step(sae, x, dead=DEAD, settings=L1).gradients.items():
                dict(sae.named_parameters())[name].grad = gradient
        gradients = {name: p.grad for name, p in ours.named_parameters() if p.grad is not None}
        apply_update(ours, gradients, project_gradients(ours, gradients), optimizer, lr=rate, clip_norm=clip_norm)
        rows = plain.dictionary
        assert rows.grad is not None
        with torch.no_grad():
            rows.grad -= (rows.grad * rows).sum(dim=1, keepdim=True) * rows
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(plain.parameters(), clip_norm)
        reference.param_groups[0]["lr"] = rate
        reference.step()
        with torch.no_grad():
            rows /= rows.norm(dim=1, keepdim=True)
    assert all(parameter.grad is None for parameter in ours.parameters())
    for name, value in plain.named_parameters():
        torch.testing.assert_close(dict(ours.named_parameters())[name], value, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(ours.dictionary.norm(dim=1), torch.ones(ours.num_latents, dtype=torch.float64))


def test_training_explains_what_is_sparse() -> None:
    """Vectors made of 2 of 8 directions: a dictionary of 16 finds them and explains nearly everything."""
    torch.manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(8, 12), dim=1)
    sae, usage = TopKSae(12, 16, 2), LatentUsage(16)
    optimizer = build_adam(sae)
    share = 0.0
    for _ in range(250):
        chosen = torch.rand(128, 8).topk(2, dim=1).indices
        x = (directions[chosen] * (0.5 + torch.rand(128, 2, 1))).sum(dim=1)
        step = sae_step(sae, x, dead=usage.dead(640), settings=StepSettings())
        apply_update(sae, step.gradients, project_gradients(sae, step.gradients), optimizer, lr=0.01, clip_norm=1.0)
        usage.update(step.fired, 128)
        share = 1 - float(step.sums["squared_error"] / step.sums["variance"])
    assert share > 0.9
    assert (sae.dictionary @ directions.T).max(dim=0).values.min() > 0.9, "a direction has no latent"


def test_usage_by_hand() -> None:
    usage = LatentUsage(3)
    usage.update(torch.tensor([7, 0, 1]), 10)
    usage.update(torch.tensor([6, 0, 0]), 10)
    assert usage.idle.tolist() == [0, 20, 10]
    assert usage.dead(10).tolist() == [1, 2]
    assert usage.dead(20).tolist() == [1]
    assert usage.always_on().tolist() == [True, False, False]  # 13 of 20 vectors
    assert usage.always_on(0.65).tolist() == [False, False, False]
    usage.restart()
    assert usage.always_on().tolist() == [False, False, False]
    assert usage.dead(20).tolist() == [1]


def test_usage_goes_on_from_a_checkpoint() -> None:
    usage, restored = LatentUsage(4), LatentUsage(4)
    usage.update(torch.tensor([1, 0, 2, 0]), 5)
    restored.load_state_dict(usage.state_dict())
    for counts in (usage, restored):
        counts.update(torch.tensor([0, 0, 1, 0]), 5)
    assert restored.idle.tolist() == usage.idle.tolist() == [5, 10, 0, 10]
    assert int(restored.vectors) == 10
