"""Baselines in two processes joined by gloo under DDP, on the features of networks, and CRD on fixed ones."""

from __future__ import annotations

import baseline_cases as cases
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raytrain_xai.distill.baselines import build_baseline
from raytrain_xai.distill.baselines.crd import ContrastiveDistillation
from raytrain_xai.distill.objective import DistillObjective
from raytrain_xai.distill.teacher import LiveTeacher
from raytrain_xai.types import Batch

ROWS = [0, 4, 7, 9, 10, 13, 20, 21]
NAMES = ("attention_transfer", "review_kd", "cat_kd", "crd")
STEPS = [[0, 4, 21, 9], [13, 9, 0, 20], [7, 21, 10, 4]]
Inputs = tuple[dict[str, Tensor], dict[str, Tensor], Batch]


def baseline_of(seed: int = 0) -> ContrastiveDistillation:
    network = cases.network_of("bcos_resnet_tiny")
    torch.manual_seed(seed)
    return ContrastiveDistillation(network, network, cases.SIZE, torch.tensor(ROWS), seed=0).double()


def inputs(index: list[int]) -> Inputs:
    """Features of student and teacher, functions of the image's number."""
    own, other = (
        torch.stack([cases.random_maps(256, 3, 3, seed=100 * part + number) for number in index]) for part in (1, 2)
    )
    return {"Final": own.requires_grad_()}, {"Final": other}, cases.batch_of(index)


def run(name: str, rank: int, world_size: int) -> dict[str, Tensor]:
    """Three steps of this worker's share: gradients of the last one, joint losses and the state of the baseline."""
    student, teacher = cases.network_of("bcos_resnet_tiny"), cases.network_of("bcos_resnet_tiny", seed=1)
    config = cases.config_of(name, distill={"kd_weight": 0.0})
    torch.manual_seed(0)
    baseline = build_baseline(config, student, teacher, torch.tensor(ROWS), cases.SIZE).double()
    objective = DistillObjective(student, LiveTeacher(teacher, "weights"), config, baseline).train()
    wrapped: nn.Module = DistributedDataParallel(objective) if world_size > 1 else objective
    losses: list[Tensor] = []
    for step, index in enumerate(STEPS):
        objective.zero_grad()
        output = wrapped(cases.batch_of(index[rank::world_size], len(index)), step, world_size)
        output.loss.backward()
        losses.append(output.loss.detach() / world_size)
    joint = torch.stack(losses)
    if world_size > 1:
        dist.all_reduce(joint)
    gradients = {
        f"gradient {key}": p.grad.contiguous() for key, p in objective.named_parameters() if p.grad is not None
    }
    return {"losses": joint, **gradients, **{key: value.contiguous() for key, value in baseline.state_dict().items()}}
