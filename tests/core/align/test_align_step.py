"""A step of the alignment: its losses by a plain formulation, and any division over workers gives one result."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from raytrain_xai.align.head import AlignHead
from raytrain_xai.align.step import AlignWeights, LabelledPatches, align_step
from raytrain_xai.concepts.workers import ALONE

WEIGHTS = AlignWeights(distil=0.7, multilabel=5.0, multiclass=0.2, scale=30.0)


class Together:
    """Threads that sum their tensors, in place of processes."""

    def __init__(self, rank: int, world_size: int, barrier: threading.Barrier, box: dict[int, Tensor]) -> None:
        self.rank, self.world_size, self._barrier, self._box = rank, world_size, barrier, box

    def sum(self, values: Tensor) -> Tensor:
        self._box[self.rank] = values.clone()
        self._barrier.wait()
        total = torch.stack([self._box[rank] for rank in range(self.world_size)]).sum(dim=0)
        self._barrier.wait()
        return total

    def gather(self, values: Tensor) -> Tensor:
        raise NotImplementedError


def make_parts(double: bool = True) -> list[LabelledPatches]:
    generator = torch.Generator().manual_seed(0)
    dtype = torch.float64 if double else torch.float32

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    def texts(count: int) -> Tensor:
        return F.normalize(random(count, 4), dim=1)

    one = F.one_hot(torch.tensor([2, 0, 1]), 5).to(dtype)
    return [
        LabelledPatches(random(3, 6, 2, 2), random(3, 4, 2, 2), one, texts(5), 3, "multiclass"),
        LabelledPatches(
            random(4, 6, 2, 2), random(4, 4, 2, 2), (random(4, 3) > 0).to(dtype), texts(3), 4, "multilabel"
        ),
        LabelledPatches(random(2, 6, 2, 2), random(2, 4, 2, 2), (random(2, 3) > 0).to(dtype), texts(3), 2, "none"),
    ]


def make_head() -> AlignHead:
    torch.manual_seed(3)
    return AlignHead(6, 5, 4).double()


def plain_loss(head: AlignHead, parts: list[LabelledPatches]) -> dict[str, Tensor]:
    """The formulas patch by patch and image by image."""
    distance, mass, bce, cross = [], [], [], []
    for part in parts:
        for features, target, labels in zip(part.features, part.target, part.labels, strict=True):
            hidden = F.gelu(head.expand.weight.flatten(1) @ features.flatten(1) + head.expand.bias[:, None])
            vectors = head.project.weight.flatten(1) @ hidden + head.project.bias[:, None]
            lengths = target.flatten(1).norm(dim=0)
            distance.append((lengths * (1 - F.cosine_similarity(vectors, target.flatten(1), dim=0))).sum())
            mass.append(lengths.sum())
            cosines = part.texts @ F.normalize(vectors, dim=0)
            scores = ((10 * cosines).softmax(dim=1) * cosines).sum(dim=1)
            if part.learns == "multilabel":
                logits = head.log_scale.exp() * scores + head.shift
                bce.append(F.binary_cross_entropy_with_logits(logits, labels))
            if part.learns == "multiclass":
                cross.append(F.cross_entropy(30 * scores[None], labels.argmax()[None]))
    means = {
        "distil": torch.stack(distance).sum() / torch.stack(mass).sum(),
        "multilabel": torch.stack(bce).mean(),
        "multiclass": torch.stack(cross).mean(),
    }
    return means | {"loss": sum(getattr(WEIGHTS, name) * value for name, value in means.items())}


def gradients(head: AlignHead) -> list[Tensor]:
    assert all(value.grad is not None for value in head.parameters())
    return [value.grad for value in head.parameters() if value.grad is not None]


def test_losses_and_gradients_are_those_of_the_formulas() -> None:
    head, parts = make_head(), make_parts()
    losses = align_step(head, parts, WEIGHTS, ALONE)
    found = [gradient.clone() for gradient in gradients(head)]
    expected = plain_loss(head, parts)
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value.detach())
    torch.testing.assert_close(found, list(torch.autograd.grad(expected["loss"], list(head.parameters()))))


@pytest.mark.parametrize("owner", [lambda place: place % 2, lambda _: 1], ids=["shared", "one owns all"])
def test_two_workers_take_the_step_of_one(owner: Callable[[int], int]) -> None:
    parts, head = make_parts(), make_head()
    losses = align_step(head, parts, WEIGHTS, ALONE)
    barrier, box = threading.Barrier(2, timeout=30), dict[int, Tensor]()
    found: dict[int, tuple[dict[str, Tensor], list[Tensor]]] = {}

    def work(rank: int) -> None:
        own_head, workers = copy.deepcopy(head), Together(rank, 2, barrier, box)
        own = [
            replace(part, **{
                name: getattr(part, name)[[i for i in range(len(part.features)) if owner(i) == rank]]
                for name in ("features", "target", "labels")
            })
            for part in parts
        ]  # fmt: skip

        found[rank] = align_step(own_head, own, WEIGHTS, workers), gradients(own_head)

    threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rank in range(2):
        torch.testing.assert_close(found[rank][0], losses)
        torch.testing.assert_close(found[rank][1], gradients(head))


def test_images_without_labels_are_only_looked_at() -> None:
    """Their labels change nothing, their targets do."""
    head, parts = make_head(), make_parts()
    before = align_step(head, parts, WEIGHTS, ALONE)
    other = [*parts[:2], replace(parts[2], labels=1 - parts[2].labels)]
    torch.testing.assert_close(align_step(head, other, WEIGHTS, ALONE), before)
    turned = [*parts[:2], replace(parts[2], target=-parts[2].target)]
    assert align_step(head, turned, WEIGHTS, ALONE)["distil"] != before["distil"]
