"""The four localisation losses, from boxes to the gradient at 16 maps of 224 x 224, against a loop over images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bench.peer_loops import LOOP_LOSSES, boxes_of_class
from bench.scenario import random_batch
from bench.timing import Options, Result, describe, interleave, relative_error
from raytrain_xai.data.boxes import rasterise
from raytrain_xai.guidance.losses import LOSSES

Work = Callable[[str], tuple[Tensor, Tensor]]  # loss name -> (summed loss, gradient at the maps)
TARGETS = {"energy": 3.0, "l1": 3.0, "ppce": 1.2, "rrr": 3.0}
SIZE = 224
TOLERANCE = 1e-5  # float32


def run(options: Options) -> list[Result]:
    """One result per loss."""
    batch = random_batch(16, SIZE, 20, num_pairs=16, num_annotated=16, device=options.device)
    generator = torch.Generator().manual_seed(1)
    maps = (torch.randn(16, SIZE, SIZE, generator=generator) * 1e-3).to(options.device)
    target = batch.labels.argmax(dim=1)
    boxes = [boxes_of_class(batch, row, int(label)) for row, label in enumerate(target)]

    def ours(name: str) -> tuple[Tensor, Tensor]:
        attr = maps.clone().requires_grad_()
        mask = rasterise(batch.boxes, batch.box_labels == target[:, None], (SIZE, SIZE))
        return _backward(LOSSES[name](attr, mask).sum(), attr)

    def peer(name: str) -> tuple[Tensor, Tensor]:
        attr = maps.clone().requires_grad_()
        losses = [LOOP_LOSSES[name](attr[row], boxes[row]) for row in range(len(boxes))]
        return _backward(torch.stack(losses).sum(), attr)

    return [_compare(name, ours, peer, options) for name in TARGETS]


def _compare(name: str, ours: Work, peer: Work, options: Options) -> Result:
    (our_loss, our_gradient), (peer_loss, peer_gradient) = ours(name), peer(name)
    error = max(relative_error(our_loss, peer_loss), relative_error(our_gradient, peer_gradient))
    timings = interleave({"ours": lambda: ours(name), "peer": lambda: peer(name)}, options, repeats=5)
    return Result(
        bench="loc_losses",
        case=f"{name}, 16 x {SIZE}²",
        value=timings.ratio("peer", "ours"),
        measure="speed-up",
        target=TARGETS[name],
        is_minimum=True,
        error=error,
        tolerance=TOLERANCE,
        detail=describe(timings, "peer", "ours"),
    )


def _backward(loss: Tensor, attr: Tensor) -> tuple[Tensor, Tensor]:
    loss.backward()
    assert attr.grad is not None
    return loss.detach(), attr.grad
