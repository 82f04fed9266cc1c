"""Random networks and batches that the benches share; fixed seeds."""

from __future__ import annotations

import torch
from torch import Tensor

from raytrain_xai.models.bcos_norms import BatchNormUncentered2d
from raytrain_xai.models.network import Network
from raytrain_xai.types import Batch


def random_batch(
    num_images: int, size: int, num_classes: int, *, num_pairs: int, num_annotated: int, device: torch.device
) -> Batch:
    """Noise images with ``num_pairs`` positive labels in all, spread evenly, and one or two boxes for each label.

    The first ``num_annotated`` images are annotated.
    """
    generator = torch.Generator().manual_seed(0)
    labels = torch.zeros(num_images, num_classes)
    boxes, box_labels = [[] for _ in range(num_images)], [[] for _ in range(num_images)]
    for pair in range(num_pairs):
        row = pair % num_images
        free = (labels[row] == 0).nonzero().flatten()
        label = int(free[int(torch.randint(len(free), (), generator=generator))])
        labels[row, label] = 1
        for _ in range(1 + pair % 2):
            boxes[row].append(_random_box(size, generator))
            box_labels[row].append(label)
    most = max(len(labels_of_image) for labels_of_image in box_labels)
    batch = Batch(
        images=torch.randint(0, 256, (num_images, 3, size, size), dtype=torch.uint8, generator=generator),
        labels=labels,
        boxes=torch.stack([torch.tensor(b + [[0.0] * 4] * (most - len(b))) for b in boxes]),
        box_labels=torch.stack([torch.tensor(b + [-1] * (most - len(b))) for b in box_labels]),
        masks=None,
        has_mask=torch.zeros(num_images, dtype=torch.bool),
        annotated_rows=torch.arange(num_annotated),
        groups=torch.full((num_images,), -1),
        index=torch.arange(num_images),
        step_size=num_images,
        step_annotated=num_annotated,
    )
    return batch.to(device)


@torch.no_grad()
def settle_norms(network: Network, images: Tensor) -> None:
    """Give the norms of a random B-cos network the statistics of ``images``, or its evaluation maps would vanish.

    ``network`` must have been built with ``norm_statistics="batch"``; it is left in evaluation mode.
    """
    norms = [module for module in network.modules() if isinstance(module, BatchNormUncentered2d)]
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    network.train()
    network(images)
    for norm, value in zip(norms, momentum, strict=True):
        norm.momentum = value
    network.eval()


def _random_box(size: int, generator: torch.Generator) -> list[float]:
    width, height = (int(torch.randint(size // 5, size // 2, (), generator=generator)) for _ in range(2))
    x0 = int(torch.randint(0, size - width, (), generator=generator))
    y0 = int(torch.randint(0, size - height, (), generator=generator))
    return [float(x0), float(y0), float(x0 + width), float(y0 + height)]
