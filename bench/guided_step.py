"""Training steps that the guidance benches time: forward, losses and gradients of all parameters, no optimiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from bench.peer import PeerNetwork, peer_network
from bench.peer_loops import loop_step_loss
from bench.scenario import random_batch
from bench.timing import Options, Timings, interleave, relative_error
from raytrain_xai.config import GuidanceConfig
from raytrain_xai.guidance.objective import GuidanceObjective, draw_target
from raytrain_xai.models.network import Network
from raytrain_xai.models.zoo import build_network
from raytrain_xai.types import Batch

SEED, STEP = 0, 1
SIZE, NUM_CLASSES = 224, 20
PARITY = 1e-9  # of float64 gradients
Step = Callable[[], list[Tensor]]


def compare_at_input(options: Options, *, num_images: int, num_pairs: int, num_annotated: int) -> tuple[Timings, float]:
    """Energy at the input of a B-cos ResNet-50, 224 pixels: ``ours``, ``own plain`` and ``peer``.

    Returns:
        Timings, and the relative difference of float64 gradients on a small network and batch.
    """
    guidance = GuidanceConfig(loss="energy", weight=0.1, layer="Input")
    small = build_network("bcos_resnet18", NUM_CLASSES, norm_statistics="batch").to(options.device).train()
    error = parity(small, guidance, "bcos", num_annotated=min(num_annotated, 3))
    network = build_network("bcos_resnet50", NUM_CLASSES, norm_statistics="batch").to(options.device).train()
    batch = random_batch(
        num_images, SIZE, NUM_CLASSES, num_pairs=num_pairs, num_annotated=num_annotated, device=options.device
    )
    peer = peer_network(network)
    network.to(memory_format=torch.channels_last)
    variants = {
        "ours": our_step(network, batch, guidance),
        "own plain": our_step(network, batch, without_guidance(guidance)),
        "peer": peer_step(peer, batch, guidance, "bcos"),
    }
    return interleave(variants, options), error


def our_step(network: Network, batch: Batch, guidance: GuidanceConfig) -> Step:
    """Gradients by the objective that training uses."""
    objective = GuidanceObjective(network, guidance, SEED)

    def step() -> list[Tensor]:
        network.zero_grad(set_to_none=True)
        objective(batch, STEP, 1).loss.backward()
        return _gradients(network.net)

    return step


def peer_step(peer: PeerNetwork, batch: Batch, guidance: GuidanceConfig, method: str) -> Step:
    """Gradients by the plain formulation, one image at a time in the localisation loss."""
    target = draw_target(batch.labels, batch.index, seed=SEED, step=STEP)

    def step() -> list[Tensor]:
        peer.zero_grad(set_to_none=True)
        loss = loop_step_loss(
            peer, batch, target, loss=guidance.loss, weight=guidance.weight, method=method, layer=guidance.layer
        )
        loss.backward()
        return _gradients(peer)

    return step


def without_guidance(guidance: GuidanceConfig) -> GuidanceConfig:
    """The same step with classification only."""
    return guidance.model_copy(update={"weight": 0.0})


def parity(network: Network, guidance: GuidanceConfig, method: str, *, num_annotated: int) -> float:
    """Relative difference of all parameter gradients between ours and the peer, in float64 on a small batch."""
    double = network.double()
    batch = random_batch(
        3, 64, network.num_classes, num_pairs=5, num_annotated=num_annotated,
        device=next(network.parameters()).device,
    )  # fmt: skip
    batch = replace(batch, labels=batch.labels.double())
    peer = peer_network(double).double()
    ours = torch.cat([g.flatten() for g in our_step(double, batch, guidance)()])
    theirs = torch.cat([g.flatten() for g in peer_step(peer, batch, guidance, method)()])
    network.float()
    return relative_error(ours, theirs)


def _gradients(module: nn.Module) -> list[Tensor]:
    return [p.grad for p in module.parameters() if p.grad is not None]
