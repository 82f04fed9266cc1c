"""Stop on non-finite numbers before they reach the weights, and keep what is needed to find their cause."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.errors import RunError
from raytrain_xai.run_folder import FAILURE, Attempt, write_json
from raytrain_xai.runners.collective import all_true, gather_json
from raytrain_xai.runners.history import Position
from raytrain_xai.runners.session import Session


@dataclass(frozen=True)
class StepResult:
    """What one optimiser step computed on this worker, before the update.

    Attributes:
        sums: name -> () sums over the local samples of all parts; ``loss`` is the scaled loss.
        gradients: name -> gradient, averaged over workers.
        norm: () total L2 norm of the gradients.
        index: (N,) int64, samples this worker saw.
    """

    sums: dict[str, Tensor]
    gradients: dict[str, Tensor]
    norm: Tensor
    index: Tensor


def is_finite(result: StepResult) -> bool:
    """Whether loss and gradients are finite on every worker. A collective; every worker gets the same answer."""
    return all_true(torch.isfinite(result.sums["loss"]) & torch.isfinite(result.norm))


def first_bad(candidates: Iterable[tuple[str, Tensor]]) -> str | None:
    """Name of the first tensor with a NaN or an infinity."""
    return next((name for name, value in candidates if not bool(torch.isfinite(value).all())), None)


def stop_non_finite(session: Session, result: StepResult, position: Position, attempt: Attempt | None) -> NoReturn:
    """Write ``failure/step-<step>.json`` and stop. A collective: all workers call it.

    The bundle names the first bad tensor in the order parameters, loss parts, gradients; a bad gradient with good
    loss parts points at the backward pass, a bad parameter at an earlier update.

    Args:
        attempt: of worker 0, which writes; None on the others.

    Raises:
        RunError: always.
    """
    config, step, epoch = session.config, position.step, position.epoch
    candidates = [
        *((f"parameter {name}", value) for name, value in session.parameters.items()),
        *((f"loss part {name}", value) for name, value in result.sums.items()),
        *((f"gradient of {name}", value) for name, value in result.gradients.items()),
    ]
    local = {
        "first_bad": first_bad(candidates),
        "index": result.index.tolist(),
        "sums": {name: repr(float(value)) for name, value in result.sums.items()},  # repr: JSON has no NaN
    }
    workers = gather_json(local, session.worker.device)
    bad = next((worker["first_bad"] for worker in workers if worker["first_bad"]), "total gradient norm")
    name = f"step-{step:08d}.json"
    if attempt is not None:
        indices = [index for worker in workers for index in worker["index"]]
        ids = StoredSplit(config.data.path, "train").annotations.ids.take(indices).to_pylist()
        bundle = {
            "step": step, "epoch": epoch, "first_bad": bad, "gradient_norm": repr(float(result.norm)),
            "sample_ids": ids, "workers": workers, "config": config.model_dump(mode="json"),
        }  # fmt: skip
        attempt.check()
        write_json(attempt.run.child(FAILURE, name), bundle)
    raise RunError(
        f"non-finite {bad} at step {step} (epoch {epoch}); weights were not updated, details in {FAILURE}/{name}; "
        "lower optim.lr or guidance.weight, or set optim.clip_norm, and train under a new name"
    )
