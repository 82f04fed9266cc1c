"""Steps of distillation, and of its baselines, in two processes joined by gloo under DDP."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import baseline_gloo
import safetensors.torch
import torch
import torch.distributed as dist
from distill_cases import bcos_resnet, distill_config, noise_batch, settled
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raytrain_xai.distill.explanation import default_kind
from raytrain_xai.distill.objective import DistillObjective
from raytrain_xai.distill.teacher import LiveTeacher
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network

WORLD_SIZE = 2
TERMS = {
    # statistics of the joint batch, and a step with explanations between steps without
    "weights": {"explanation_weight": 0.7, "truth_weight": 0.3, "temperature": 2.0, "explain_every": 2},
    "gradcam": {"kd_weight": 0.0, "explanation_weight": 1.0},  # nothing for the bias of the head
}
STEPS = (1, 2, 3)


def run(name: str, rank: int, world_size: int) -> dict[str, Tensor]:
    """Gradients of each step of this worker's share, and the sums of its terms."""
    if name == "weights":
        batch = noise_batch(4, 32)
        student, teacher = bcos_resnet().train(), settled(bcos_resnet(1), batch)
    else:
        batch = noise_batch(4, 64)
        student, teacher = (_plain(seed) for seed in (0, 1))
    rows = slice(rank, None, world_size)
    share = replace(batch, images=batch.images[rows], labels=batch.labels[rows], index=batch.index[rows])
    live = LiveTeacher(teacher, default_kind(student, teacher))
    objective = DistillObjective(student, live, distill_config(TERMS[name]))
    wrapped: nn.Module = objective
    if world_size > 1:
        wrapped = DistributedDataParallel(objective, gradient_as_bucket_view=True)
    found: dict[str, Tensor] = {}
    for step in STEPS:
        objective.zero_grad()
        output = wrapped(share, step, world_size)
        output.loss.backward()
        found |= {f"{step} {key}": p.grad.clone() for key, p in student.named_parameters() if p.grad is not None}
        found |= {f"{step} sum {key}": value.double() for key, value in output.sums.items()}
    return found


def _plain(seed: int) -> Network:
    torch.manual_seed(seed)
    return build_network("squeezenet1_1", 3).double().eval()


def main(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD_SIZE)
    for names, work in ((TERMS, run), (baseline_gloo.NAMES, baseline_gloo.run)):
        for name in names:
            safetensors.torch.save_file(work(name, rank, WORLD_SIZE), Path(folder) / f"{name}-{rank}.safetensors")
    dist.destroy_process_group()
