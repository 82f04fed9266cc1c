"""Two processes joined by gloo that train an autoencoder together, in both ways of sharing the work out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from torch import Tensor

from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.concepts.sharded import join_tensors
from raytrain_xai.concepts.update import apply_update, build_adam, project_gradients
from raytrain_xai.config import parse_concept_config
from raytrain_xai.runners.concept_loop import take_step, train_concepts
from raytrain_xai.runners.concept_session import ConceptSession, build_concept_session
from raytrain_xai.runners.worker import Worker

WORLD_SIZE = 2
STEPS = 6


def worker(rank: int, world_size: int) -> Worker:
    def ignore(_: dict[str, Any]) -> None:
        """Nobody watches."""

    return Worker(rank, world_size, torch.device("cpu"), ignore, ignore)


def first_steps(config: ConceptRunConfig, rank: int, world_size: int) -> dict[str, Tensor]:
    """Parameters, moments, counts and sums after a few optimiser steps in float64, of all latents."""
    session = build_concept_session(worker(rank, world_size), config)
    session = replace(session, optimizer=build_adam(session.sae.double()))
    sums: dict[str, Tensor] = {}
    for step, x in zip(range(STEPS), session.source.epoch(0), strict=False):
        result = take_step(session, x.double())
        norm = project_gradients(session.sae, result.gradients, session.shards)
        apply_update(session.sae, result.gradients, norm, session.optimizer, lr=1e-2, clip_norm=0.1)
        session.usage.update(result.fired, config.batch_size)
        sums |= {f"sum {name} {step}": value for name, value in result.sums.items()}
        sums[f"sum norm {step}"] = norm
    return {**state_of(session), **sums}


def state_of(session: ConceptSession) -> dict[str, Tensor]:
    moments = {
        f"{name} {key}": value
        for name, parameter in session.sae.named_parameters()
        for key, value in session.optimizer.state[parameter].items()
    }
    counts = {f"usage {name}": value for name, value in session.usage.state_dict().items()}
    return join_tensors({**session.sae.state_dict(), **moments, **counts}, session.shards)


def main(rank: int, port: int, folder: str) -> None:
    """Everything the tests ask of two processes, in one start of them."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD_SIZE)
    at = Path(folder)
    asked = json.loads((at / "asked.json").read_text())
    for name, raw in asked["steps"].items():
        tensors = first_steps(parse_concept_config(raw), rank, WORLD_SIZE)
        safetensors.torch.save_file({k: v.contiguous() for k, v in tensors.items()}, at / f"{name}-{rank}.safetensors")
    for raw in asked["runs"]:
        train_concepts(worker(rank, WORLD_SIZE), parse_concept_config(raw))
    dist.destroy_process_group()
