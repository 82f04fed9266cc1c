"""Vectors or latents shared out over workers: the same step as in one process."""

from __future__ import annotations

import pytest
import torch
from test_sae_step import KINDS, L1, assert_equal_steps
from threads import ThreadWorker, together
from torch import Tensor

from raytrain_xai.concepts.sae import BatchTopKSae, JumpReluSae, ReluSae, SparseAutoencoder, TopKSae
from raytrain_xai.concepts.sharded import join_tensors, shard_of, shard_tensors
from raytrain_xai.concepts.step import SaeStep, sae_step
from raytrain_xai.concepts.update import apply_update, build_adam, project_gradients
from raytrain_xai.concepts.usage import LatentUsage
from raytrain_xai.errors import ConfigError

DIM, LATENTS, K, VECTORS, WORLD_SIZE = 7, 18, 7, 24, 3
DEAD = {"spread": [0, 5, 8, 11, 17], "in one shard": [7, 8], "none": []}


def make_sae(kind: str) -> SparseAutoencoder:
    """k = 7 is more than the 6 latents of a shard."""
    torch.manual_seed(0)
    sae: SparseAutoencoder
    match kind:
        case "topk":
            sae = TopKSae(DIM, LATENTS, K)
        case "batch_topk":
            sae = BatchTopKSae(DIM, LATENTS, K)
        case "relu":
            sae = ReluSae(DIM, LATENTS)
        case _:
            sae = JumpReluSae(DIM, LATENTS, bandwidth=0.4, initial_threshold=0.3)
    with torch.no_grad():
        sae.encoder.add_(0.1 * torch.randn_like(sae.encoder))
    return sae.double()


@pytest.fixture
def x() -> Tensor:
    lengths = torch.linspace(0.2, 2, VECTORS, dtype=torch.float64)[:, None]  # so that shares differ
    return torch.randn(VECTORS, DIM, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * lengths


@pytest.mark.parametrize("dead", DEAD)
@pytest.mark.parametrize("kind", KINDS)
def test_vectors_shared_out(kind: str, dead: str, x: Tensor) -> None:
    latents = torch.tensor(DEAD[dead], dtype=torch.int64)
    alone = make_sae(kind)
    expected = sae_step(alone, x, dead=latents, settings=L1)
    copies = [make_sae(kind) for _ in range(WORLD_SIZE)]

    def work(worker: ThreadWorker) -> tuple[SaeStep, SparseAutoencoder]:
        sae = copies[worker.rank]
        return sae_step(sae, x.chunk(WORLD_SIZE)[worker.rank], dead=latents, settings=L1, workers=worker), sae

    for step, sae in together(WORLD_SIZE, work):
        assert_equal_steps(step, expected)
        assert_equal_buffers(sae, alone)


@pytest.mark.parametrize("dead", DEAD)
@pytest.mark.parametrize("kind", KINDS)
def test_latents_shared_out(kind: str, dead: str, x: Tensor) -> None:
    alone = make_sae(kind)
    is_dead = torch.zeros(LATENTS, dtype=torch.bool)
    is_dead[torch.tensor(DEAD[dead], dtype=torch.int64)] = True
    expected = sae_step(alone, x, dead=is_dead.nonzero().flatten(), settings=L1)
    whole = make_sae(kind)

    def work(shard: ThreadWorker) -> tuple[SaeStep, SparseAutoencoder]:
        sae = shard_of(whole, shard)
        own = is_dead.chunk(WORLD_SIZE)[shard.rank].nonzero().flatten()
        step = sae_step(sae, x, dead=own, settings=L1, shards=shard)
        gradients = join_tensors(step.gradients, shard)
        return SaeStep(gradients, step.sums, join_tensors({"fired": step.fired}, shard)["fired"]), sae

    for step, sae in together(WORLD_SIZE, work):
        assert sae.num_latents == LATENTS // WORLD_SIZE
        assert_equal_steps(step, expected)
        assert_equal_buffers(sae, alone)


def assert_equal_buffers(actual: SparseAutoencoder, expected: SparseAutoencoder) -> None:
    buffers = dict(expected.named_buffers())
    for name, value in actual.named_buffers():
        assert torch.equal(value, buffers[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_training_on_shards_is_training(kind: str, x: Tensor) -> None:
    """Eight updates with clipping: weights, state of Adam and counts, joined, are those of one process."""

    def train(sae: SparseAutoencoder, shards: ThreadWorker | None) -> dict[str, Tensor]:
        optimizer, usage = build_adam(sae), LatentUsage(sae.num_latents)
        among = {} if shards is None else {"shards": shards}
        for position in range(8):
            dead = usage.dead(3 * VECTORS)
            step = sae_step(sae, x.roll(position, 0) + position / 10, dead=dead, settings=L1, **among)
            norm = project_gradients(sae, step.gradients, *among.values())
            apply_update(sae, step.gradients, norm, optimizer, lr=0.05, clip_norm=0.5)
            usage.update(step.fired, VECTORS)
        state = {f"{name}/{key}": v for name, p in sae.named_parameters() for key, v in optimizer.state[p].items()}
        found = {**sae.state_dict(), **state, **usage.state_dict()}
        return found if shards is None else join_tensors(found, shards)

    expected = train(make_sae(kind), None)
    whole = make_sae(kind)
    for found in together(WORLD_SIZE, lambda shard: train(shard_of(whole, shard), shard)):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-12, msg=name)


def test_shards_of_tensors_come_back_whole() -> None:
    tensors = {"encoder": torch.arange(12.0).view(6, 2), "step": torch.tensor(4.0), "idle": torch.arange(6)}

    def work(shard: ThreadWorker) -> dict[str, Tensor]:
        part = shard_tensors(tensors, shard)
        assert part["encoder"].tolist() == [
            [4.0 * shard.rank, 4.0 * shard.rank + 1],
            [4.0 * shard.rank + 2, 4.0 * shard.rank + 3],
        ]
        return join_tensors(part, shard)

    for joined in together(3, work):
        assert all(torch.equal(joined[name], value) for name, value in tensors.items())


def test_latents_that_do_not_divide() -> None:
    whole = make_sae("topk")
    with pytest.raises(ConfigError, match="18 latents do not divide into 4 equal shares"):
        together(4, lambda shard: shard_of(whole, shard))
