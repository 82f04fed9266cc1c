"""Two processes joined by gloo, without Ray: cheap enough to compare every way of computing a step."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

from raytrain_xai.config import RunConfig, parse_config
from raytrain_xai.data.dataset import open_dataset
from raytrain_xai.data.loader import TrainingData
from raytrain_xai.errors import RunError
from raytrain_xai.runners import loop
from raytrain_xai.runners.collective import broadcast_json, gather_json, gather_tensors
from raytrain_xai.runners.session import Session, Worker, build_session, load_weights, measure

WORLD_SIZE = 2
DTYPES = (torch.float32, torch.float64)


def worker(rank: int, world_size: int) -> Worker:
    def ignore(_: dict[str, Any]) -> None:
        """Nobody watches."""

    return Worker(rank, world_size, torch.device("cpu"), ignore, ignore)


def session_of(config: RunConfig, rank: int, world_size: int) -> Session:
    session = build_session(worker(rank, world_size), config, open_dataset(config.data.path))
    if config.model.weights is not None:
        load_weights(session.network, config.model.weights)
    for module in session.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # each worker draws its own, so a comparison has to do without
    return session


def first_step(config: RunConfig, rank: int, world_size: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Gradients, summed losses and normalisation statistics of the first optimiser step."""
    torch.set_default_dtype(dtype)
    try:
        session = session_of(config, rank, world_size)
    finally:
        torch.set_default_dtype(torch.float32)
    session.model.train()
    data = TrainingData(config, session.info, rank=rank, world_size=world_size)
    parts = [batch for _, batch in zip(range(config.accumulate), data.epoch(0), strict=False)]
    result = loop.forward_backward(session, parts, 0)
    statistics = {f"buffer {name}": value for name, value in session.network.net.named_buffers()}
    sums = {f"sum {name}": value for name, value in result.sums.items()}
    return {**result.gradients, **statistics, **sums, "index": result.index}


def validation(config: RunConfig, rank: int, world_size: int) -> dict[str, float]:
    """Metrics of the untrained network, IoU threshold chosen."""
    return measure(session_of(config, rank, world_size), "val", None)


def local_statistics(config: RunConfig, rank: int) -> dict[str, Any]:
    """One step with the statistics of each worker's share, then the validation."""
    session = session_of(config, rank, WORLD_SIZE)
    session.model.train()
    data = TrainingData(config, session.info, rank=rank, world_size=WORLD_SIZE)
    loop.forward_backward(session, [next(iter(data.epoch(0)))], 0)
    before = session.network.net.bn1.running_mean.tolist()
    metrics = measure(session, "val", None)
    return {"before": before, "metrics": metrics, "after": session.network.net.bn1.running_mean.tolist()}


def main(rank: int, port: int, folder: str) -> None:
    """Everything the tests ask of two processes, in one start of them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD_SIZE)
    at, device = Path(folder), torch.device("cpu")
    asked = json.loads((at / "asked.json").read_text())
    for name, raw in asked["steps"].items():
        for dtype in DTYPES:
            tensors = first_step(parse_config(raw), rank, WORLD_SIZE, dtype)
            file = at / f"{name}-{dtype}-{rank}.safetensors"
            safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, file)
    answers: dict[str, Any] = {
        "validation": validation(parse_config(asked["validation"]), rank, WORLD_SIZE),
        "local": local_statistics(parse_config(asked["local"]), rank),
        "broadcast": broadcast_json({"from": rank, "long": "x" * 1000 * (rank + 1)}, device)["from"],
        "gathered_json": gather_json([rank] * (rank + 1), device),
        "gathered_tensors": [
            [part["a"].tolist(), part["b"].item()]
            for part in gather_tensors(
                {"a": torch.arange(3 * rank), "b": torch.tensor(0.1, dtype=torch.float64)}, device
            )
        ],
        "non_finite": error_of(parse_config(asked["non_finite"]), rank),
    }
    config = parse_config(asked["run"])
    loop.train(worker(rank, WORLD_SIZE), config, open_dataset(config.data.path))
    (at / f"answers-{rank}.json").write_text(json.dumps(answers))
    dist.destroy_process_group()


def error_of(config: RunConfig, rank: int) -> str:
    """Message of a run in which worker 1 alone meets a NaN, in its second step."""
    real, calls = loop.forward_backward, 0

    def broken(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        result = real(*args)
        if rank == 1 and calls == 2:
            result.sums["cls_sum"].fill_(float("nan"))
            result.sums["loss"].fill_(float("nan"))
        return result

    loop.forward_backward = broken
    try:
        loop.train(worker(rank, WORLD_SIZE), config, open_dataset(config.data.path))
    except RunError as error:
        return str(error)
    finally:
        loop.forward_backward = real
    return "no error"
