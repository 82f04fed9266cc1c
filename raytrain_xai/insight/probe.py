"""Sparse linear probes: classes as weighted sums of the concepts of an image, without a bias, along a path of sparsity.

An image is z, the largest value of each concept over its patches; the logit of class c is Σ_k w_ck z_k, so what concept
k adds is w_ck z_k and nothing is left over (Insight / CFM, 2026). Weights minimise

    mean over images of the loss + λ Σ_ck s_k |w_ck|,   s_k the root mean square of z_k over the images,

the loss being cross-entropy for one class per image, and the sum over classes of binary cross-entropies for several.
The factor s_k makes the penalty one on contributions: it does not depend on the unit a concept is measured in.

Deviation: the published probe adds λ|w| to the loss and follows its gradient with AdamW, which leaves small weights
where zeros are due. Here the problem, which is convex, is solved: accelerated proximal steps (Beck and Teboulle 2009,
with the restarts of O'Donoghue and Candès 2015) from the strongest penalty, at which all weights are zero, to weaker
ones, each from the solution before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from raytrain_xai.concepts.code import SparseCode, combine
from raytrain_xai.concepts.sae import above
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.insight.contributions import strongest_code

Task = Literal["multilabel", "multiclass"]

_CURVATURE = {"multilabel": 0.25, "multiclass": 0.5}  # largest second derivative of the loss by the logits
_POWER_STEPS = 20
_CHECK_EVERY = 10  # steps between two looks at the optimality, each a host sync


@dataclass(frozen=True)
class PathPlan:
    """How the path is walked.

    Attributes:
        penalties: solutions, from the weakest penalty that leaves nothing downwards; >= 2.
        smallest: last penalty as a share of the first, in (0, 1).
        tolerance: of the optimality conditions, as a share of the first penalty.
        max_steps: proximal steps for a solution, >= 1; what is not solved by then says so.
    """

    penalties: int = 20
    smallest: float = 1e-2
    tolerance: float = 1e-3
    max_steps: int = 2000

    def __post_init__(self) -> None:
        if self.penalties < 2 or not 0 < self.smallest < 1 or self.tolerance <= 0 or self.max_steps < 1:
            raise ConfigError(
                f"a path needs 2 or more penalties, a smallest share in (0, 1), a tolerance above 0 and a step, got "
                f"{self.penalties}, {self.smallest}, {self.tolerance}, {self.max_steps}"
            )


@dataclass(frozen=True)
class PathPoint:
    """One solution.

    Attributes:
        penalty: λ.
        weights: (K, C) float32.
        steps: proximal steps taken.
        violation: largest violation of the optimality conditions as a share of the first penalty.
    """

    penalty: float
    weights: Tensor
    steps: int
    violation: float

    @property
    def concepts_per_class(self) -> Tensor:
        """(C,) int64: weights that are not zero."""
        return self.weights.count_nonzero(dim=0)


@dataclass(frozen=True)
class _Problem:
    """Concepts scaled to a mean square of 1, labels, and a step that is short enough."""

    code: SparseCode
    labels: Tensor
    task: Task
    step: float

    def gradient(self, weights: Tensor) -> Tensor:
        """(K, C) of the mean loss."""
        with torch.enable_grad():
            leaf = weights.detach().requires_grad_()
            logits = combine(self.code.values, self.code.indices, leaf)
            if self.task == "multiclass":
                loss = -(logits.log_softmax(dim=1) * self.labels).sum()
            else:
                loss = functional.binary_cross_entropy_with_logits(logits, self.labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss / len(self.labels), leaf)
        return gradient


def pool_images(code: SparseCode) -> SparseCode:
    """Largest value of each concept over the patches: code (B, P, k) -> (B, k'), concepts of an image once each."""
    peak, _ = strongest_code(code)
    return above(peak, peak.new_zeros(()))


def walk_path(code: SparseCode, labels: Tensor, task: Task, plan: PathPlan) -> Iterator[PathPoint]:
    """Solutions from the sparsest to the densest.

    Args:
        code: (N, k) of :func:`pool_images`; nothing of the size N x K is made.
        labels: (N, C) float in {0, 1}; one 1 in each row for ``multiclass``.
        task: of the labels.
    Raises:
        DataError: no images, labels of another number, a row that is not of one class, or no active concept.
    """
    _check(code, labels, task)
    scale = _root_mean_square(code)
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    scaled = SparseCode(code.values * inverse[code.indices], code.indices, code.num_latents)
    step = 1 / (_CURVATURE[task] * _largest_eigenvalue(scaled))
    problem = _Problem(scaled, labels.to(code.values), task, step)
    weights = code.values.new_zeros(code.num_latents, labels.shape[1])
    first = float(problem.gradient(weights).abs().max())
    if first == 0:
        raise DataError("the labels do not depend on any concept: every image has the same classes")
    for number in range(plan.penalties):
        penalty = first * plan.smallest ** (number / (plan.penalties - 1))
        weights, steps, violation = _solve(problem, weights, penalty, plan.tolerance * first, plan.max_steps)
        yield PathPoint(penalty, weights * inverse[:, None], steps, violation / first)


def coverage(weights: Tensor, code: SparseCode) -> Tensor:
    """How much each concept speaks for each class over some images: Σ_images max(w_kc z_k, 0), (K, C) >= 0."""
    total = code.values.new_zeros(code.num_latents)
    total.scatter_add_(0, code.indices.flatten(), code.values.flatten())
    return weights.clamp(min=0) * total[:, None]


def contributions(weights: Tensor, code: SparseCode, target: Tensor) -> Tensor:
    """What the concepts of each image add to the logit of one class.

    Args:
        weights: (K, C).
        code: (B, k).
        target: (B,) int64.
    Returns:
        (B, k) signed, in the places of ``code``; their sum is the logit.
    """
    return code.values * weights.T[target[:, None], code.indices]


def _solve(
    problem: _Problem, weights: Tensor, penalty: float, tolerance: float, max_steps: int
) -> tuple[Tensor, int, float]:
    ahead, momentum, violation = weights, weights.new_ones(()), float("inf")
    for step in range(max_steps):
        if step % _CHECK_EVERY == 0:
            violation = float(_violation(problem.gradient(weights), weights, penalty))
            if violation <= tolerance:
                return weights, step, violation
        moved = functional.softshrink(ahead - problem.step * problem.gradient(ahead), problem.step * penalty)
        is_uphill = ((ahead - moved) * (moved - weights)).sum() > 0  # then start again without momentum
        grown = (1 + (1 + 4 * momentum.square()).sqrt()) / 2
        ahead = moved + torch.where(is_uphill, 0.0, (momentum - 1) / grown) * (moved - weights)
        momentum, weights = torch.where(is_uphill, 1.0, grown), moved
    return weights, max_steps, float(_violation(problem.gradient(weights), weights, penalty))


def _violation(gradient: Tensor, weights: Tensor, penalty: float) -> Tensor:
    """() distance of the gradient from what the penalty allows: -λ sign(w) where w is not 0, else [-λ, λ]."""
    active = (gradient + penalty * weights.sign()).abs()
    return torch.where(weights != 0, active, (gradient.abs() - penalty).clamp(min=0)).max()


def _root_mean_square(code: SparseCode) -> Tensor:
    """(K,) over the N rows."""
    total = code.values.new_zeros(code.num_latents)
    total.scatter_add_(0, code.indices.flatten(), code.values.square().flatten())
    return (total / len(code.values)).sqrt()


def _largest_eigenvalue(code: SparseCode) -> float:
    """An upper bound, close to it, of the largest eigenvalue of XᵀX / N for the N rows X >= 0 of a code.

    For a matrix G without negative entries and any v > 0, max_k (G v)_k / v_k is such a bound (Collatz and Wielandt);
    power steps from the ones make it tight.
    """
    occurs = torch.zeros(code.num_latents, dtype=torch.bool, device=code.values.device)
    occurs[code.indices[code.values > 0]] = True
    v = occurs.to(code.values.dtype)
    bound = v.sum()
    for _ in range(_POWER_STEPS):
        product = combine(code.values, code.indices, v[:, None])
        moved = torch.zeros_like(v).scatter_add_(0, code.indices.flatten(), (code.values * product).flatten())
        moved /= len(code.values)
        bound = torch.minimum(bound, torch.where(occurs, moved / v, 0.0).max())
        v = moved / moved.max()
    return float(bound)


def _check(code: SparseCode, labels: Tensor, task: Task) -> None:
    if labels.dim() != 2 or len(labels) != len(code.values) or not len(labels):
        raise DataError(f"labels of shape {tuple(labels.shape)} for {len(code.values)} images; expected (N, C), N > 0")
    if task == "multiclass" and not bool((labels.sum(dim=1) == 1).all()):
        raise DataError("multiclass labels need exactly one class in each image")
    if not bool((code.values > 0).any()):
        raise DataError("no concept is active in any image; the threshold of the concepts is too high for these data")
