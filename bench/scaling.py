"""Weak scaling from one process to two, each pinned to a core: a guided step and a step of an autoencoder.

``value`` is time alone / time together, each process with its own batch, of the size that the shipped recipes give a
process. Of every round the fastest step counts: on a machine that others use, the slower ones measure them. In between
stands the time of both at once without an exchange: what two cores take from each other (caches, memory, clock), which
no program changes. Beside it stands what ``raytrain-xai scale`` foresees from the time alone and the rate of one
all-reduce. Processes exchange gradients over loopback with gloo, which computes on the same two cores, so nothing of it
is hidden behind the step.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing.queues import Queue
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from bench.scenario import random_batch, settle_norms
from bench.timing import Options, Result, relative_error
from raytrain_xai.concepts.sae import TopKSae
from raytrain_xai.concepts.step import StepSettings, sae_step
from raytrain_xai.concepts.workers import ALONE
from raytrain_xai.config import GuidanceConfig
from raytrain_xai.guidance.objective import GuidanceObjective
from raytrain_xai.models.zoo import build_network
from raytrain_xai.runners.collective import joined_workers
from raytrain_xai.scaling.forecast import forecast
from raytrain_xai.scaling_config import ScalingValues

PROCESSES, STEPS, TARGET = 2, 2, 0.9
SIZE, NUM_IMAGES, NUM_CLASSES = 112, 16, 20
DIM, LATENTS, K, VECTORS = 512, 4096, 32, 4096
_MESSAGE = 16 << 20  # floats, to measure the rate of an all-reduce
_WAIT_S = 1800
Step = Callable[[bool], Tensor]  # together or alone -> gradients, flat


@dataclass(frozen=True)
class Measured:
    """Of one process: fastest step of each round alone, beside the other and together with it; the rate of an
    all-reduce, and parity."""

    alone_s: list[float]
    beside_s: list[float]
    together_s: list[float]
    reduced_bytes: int
    bytes_per_s: float
    error: float


def run(options: Options) -> list[Result]:
    """One line per kind of step; on the CPU only."""
    if options.device.type != "cpu" or len(os.sched_getaffinity(0)) < PROCESSES:
        return []
    return [_result(name, _measure(name, options.rounds)) for name in ("guidance", "sae")]


def _result(name: str, ranks: list[Measured]) -> Result:
    rounds = range(len(ranks[0].alone_s))
    alone = [max(rank.alone_s[at] for rank in ranks) for at in rounds]
    beside = [max(rank.beside_s[at] for rank in ranks) for at in rounds]
    together = [max(rank.together_s[at] for rank in ranks) for at in rounds]
    foreseen = forecast(_values(ranks[0], median(alone)), PROCESSES).efficiency
    sizes = {"guidance": f"R18@{SIZE}, {NUM_IMAGES} images each", "sae": f"K {LATENTS}, {VECTORS} vectors each"}
    value = median(a / b for a, b in zip(alone, together, strict=True))
    times = ", ".join(
        f"{what} {1e3 * median(seconds):.0f} ms"
        for what, seconds in (("alone", alone), ("without exchange", beside), ("together", together))
    )
    return Result(
        bench="scaling", case=f"{name}, {sizes[name]}", value=value, measure="of one alone", target=TARGET,
        is_minimum=True, error=max(rank.error for rank in ranks), tolerance=1e-5,
        detail=f"{times}, foreseen {foreseen:.2f}x",
    )  # fmt: skip


def _values(measured: Measured, alone_s: float) -> ScalingValues:
    """What the model is told: the time alone and one all-reduce. Data and checkpoints are not measured here."""
    rate = measured.bytes_per_s
    return ScalingValues.model_validate({
        "step": {"batch": 1, "batch_is": "per_device", "samples_per_s": 1 / alone_s},
        "reduce": {"bytes": measured.reduced_bytes, "overlap": 0.0},
        "input": {"bytes_per_sample": 1, "decoded_per_core": 1e9, "cores_per_device": 1},
        "hardware": {
            "devices_per_node": PROCESSES, "node_bytes_per_s": rate, "network_bytes_per_s": rate,
            "storage_bytes_per_s": 1e12, "mtbf_hours": 1e9, "restart_s": 0,
        },
        "checkpoint": {"bytes": measured.reduced_bytes, "bytes_per_s": 1e12},
    })  # fmt: skip


def _measure(name: str, rounds: int) -> list[Measured]:
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    with TemporaryDirectory(prefix="sc-") as folder:
        arguments = [(rank, name, rounds, str(Path(folder, "store")), results) for rank in range(PROCESSES)]
        workers = [context.Process(target=_process, args=arguments[rank], daemon=True) for rank in range(PROCESSES)]
        for worker in workers:
            worker.start()
        found = dict(results.get(timeout=_WAIT_S) for _ in workers)
        for worker in workers:
            worker.join()
    return [found[rank] for rank in range(PROCESSES)]


def _process(rank: int, name: str, rounds: int, store: str, results: Queue[tuple[int, Measured]]) -> None:
    os.sched_setaffinity(0, {sorted(os.sched_getaffinity(0))[rank]})
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=PROCESSES)
    step = {"guidance": _guided, "sae": _sae}[name](rank)
    own, joined = step(False), step(True)
    expected = own.clone()
    dist.all_reduce(expected)
    error = relative_error(joined, expected / PROCESSES)
    alone, beside, together = [], [], []
    for _ in range(rounds):
        for turn in range(PROCESSES):  # the core of the other one is free meanwhile
            dist.barrier()
            if turn == rank:
                alone.append(_fastest(step, False))
        dist.barrier()
        beside.append(_fastest(step, False))
        dist.barrier()
        together.append(_fastest(step, True))
    results.put((rank, Measured(alone, beside, together, 4 * own.numel(), _reduce_rate(), error)))
    dist.destroy_process_group()


def _fastest(step: Step, is_together: bool) -> float:
    seconds = []
    for _ in range(STEPS):
        started = time.perf_counter()
        step(is_together)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _reduce_rate() -> float:
    """Bytes per second that a process sends in a ring all-reduce."""
    message = torch.ones(_MESSAGE)

    def reduce(is_together: bool) -> Tensor:  # noqa: ARG001
        dist.all_reduce(message)
        return message

    fastest = _fastest(reduce, True)
    return 4 * _MESSAGE / fastest  # 2 (N - 1) / N = 1 for two


def _guided(rank: int) -> Step:
    network = build_network("bcos_resnet18", NUM_CLASSES, norm_statistics="batch")
    batch = random_batch(
        NUM_IMAGES, SIZE, NUM_CLASSES, num_pairs=24, num_annotated=NUM_IMAGES, device=torch.device("cpu")
    )
    images = (batch.images.int() + 37 * rank) % 256  # others on each rank
    batch = replace(batch, images=images.to(torch.uint8))
    settle_norms(network, batch.images)  # by both together; from here on stored statistics, so that one can step alone
    guidance = GuidanceConfig(loss="energy", weight=0.1, layer="Input", reduction="mean")
    objective = GuidanceObjective(network, guidance, 0)
    joined = DistributedDataParallel(objective, gradient_as_bucket_view=True)
    both = replace(batch, step_size=PROCESSES * NUM_IMAGES, step_annotated=PROCESSES * NUM_IMAGES)

    def step(is_together: bool) -> Tensor:
        network.zero_grad(set_to_none=True)
        output = joined(both, 1, PROCESSES) if is_together else objective(batch, 1, 1)
        output.loss.backward()
        return torch.cat([p.grad.flatten() for p in network.net.parameters() if p.grad is not None])

    return step


def _sae(rank: int) -> Step:
    sae = TopKSae(DIM, LATENTS, K)
    x = torch.randn(VECTORS, DIM, generator=torch.Generator().manual_seed(rank)) / DIM**0.5

    def step(is_together: bool) -> Tensor:
        workers = joined_workers() if is_together else ALONE
        gradients = sae_step(sae, x, dead=None, settings=StepSettings(), workers=workers).gradients
        return torch.cat([value.flatten() for value in gradients.values()])

    return step
