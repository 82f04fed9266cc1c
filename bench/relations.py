"""Relations of concepts: pairs of active latents against the dense products, and memory as positions come by."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.timing import Options, Result, describe, interleave, relative_error
from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.cooccurrence import ACTIVE, CoOccurrence, co_occurrence
from raytrain_xai.concepts.merging import merge_parts

LATENTS, ACTIVE_LATENTS, POSITIONS = 8192, 12, 2048  # dictionary and sparsity as published, an eighth of its batch
DENSE_BLOCK = 512  # of latents whose products with all others the peer makes at a time
TOLERANCE = 1e-6  # float32 products of the peer
BLOCKS, MORE_BLOCKS = 8, 64


def run(options: Options) -> list[Result]:
    """Time of a block of positions, and what is held after eight times as many of them."""
    return [_time(options), _memory(options)]


def _time(options: Options) -> Result:
    code = _codes(0, options.device)
    timings = interleave({"ours": lambda: co_occurrence(code), "peer": lambda: _dense(code)}, options)
    together, mass = _dense(code)
    low, high, counts, sums = co_occurrence(code).directed()
    error = max(relative_error(counts.float(), together[low, high]), relative_error(sums.float(), mass[low, high]))
    others = together.sum(dtype=torch.float64) - together.diagonal().sum() - counts.sum()
    assert not bool(others), "the peer has pairs that ours lacks"
    return Result(
        bench="relations",
        case=f"{POSITIONS} positions, K = {LATENTS}, k = {ACTIVE_LATENTS}",
        value=timings.ratio("peer", "ours"),
        measure="speed-up",
        target=10,
        is_minimum=True,
        error=error,
        tolerance=TOLERANCE,
        detail=describe(timings, "peer", "ours"),
    )


def _memory(options: Options) -> Result:
    """Bytes of the sums after the same positions came by eight times as often: the same cells, larger numbers."""
    few, more = (_passed(blocks, options.device) for blocks in (BLOCKS, MORE_BLOCKS))
    ratio = _bytes(more) / _bytes(few)
    grown = relative_error(more.mass / (MORE_BLOCKS // BLOCKS), few.mass)
    return Result(
        bench="relations",
        case=f"sums of {MORE_BLOCKS * POSITIONS} positions",
        value=ratio,
        measure="bytes of an eighth of them",
        target=1,
        is_minimum=False,
        error=grown,
        tolerance=1e-12,
        detail=f"{_bytes(more) / 2**20:.0f} MiB, dense tables {2 * 8 * LATENTS**2 / 2**20:.0f} MiB",
    )


def _passed(blocks: int, device: torch.device) -> CoOccurrence:
    return merge_parts(co_occurrence(_codes(number % BLOCKS, device)) for number in range(blocks))


def _bytes(seen: CoOccurrence) -> int:
    return sum(value.nbytes for value in seen.to_tensors().values())


def _dense(code: SparseCode) -> tuple[Tensor, Tensor]:
    """C and D as products of tables of all latents, some rows at a time."""
    z = code.dense()
    active = (z > ACTIVE).float()
    rows = range(0, code.num_latents, DENSE_BLOCK)
    together = torch.cat([active[:, first : first + DENSE_BLOCK].T @ active for first in rows])
    mass = torch.cat([z[:, first : first + DENSE_BLOCK].T @ active for first in rows])
    return together, mass


def _codes(seed: int, device: torch.device) -> SparseCode:
    """Latents as frequent as their rank lets them be, as in trained dictionaries."""
    generator = torch.Generator().manual_seed(seed)
    weight = 1 / torch.arange(1, LATENTS + 1)
    indices = weight.expand(POSITIONS, -1).multinomial(ACTIVE_LATENTS, generator=generator)
    values = torch.rand(POSITIONS, ACTIVE_LATENTS, generator=generator) + 0.01
    return SparseCode(values.to(device), indices.to(device), LATENTS)
