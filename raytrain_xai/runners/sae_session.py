"""What a worker holds that trains a sparse autoencoder on whatever vectors, how it is restored and saved.

Checkpoints hold all latents whatever the number of workers, so a run may be resumed with another number.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raytrain_xai.checkpoint import Checkpoint, checkpoint_name, read_checkpoint
from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.concepts.sae import SparseAutoencoder
from raytrain_xai.concepts.sharded import join_tensors, shard_tensors
from raytrain_xai.concepts.usage import LatentUsage
from raytrain_xai.concepts.workers import Workers
from raytrain_xai.features.source import VectorSource
from raytrain_xai.insight_config import InsightRunConfig
from raytrain_xai.optimizer_state import load_optimizer_tensors, optimizer_tensors
from raytrain_xai.run_folder import CHECKPOINTS, run_location
from raytrain_xai.runners.attempt import claim, commit, prune, track
from raytrain_xai.runners.history import Position
from raytrain_xai.runners.tracking import Tracker
from raytrain_xai.runners.worker import Worker

_USAGE = "usage/"  # prefix of the firing counts among the optimiser tensors of a checkpoint


@dataclass(frozen=True)
class SaeSession:
    """Everything that training changes or reads, on one worker.

    Attributes:
        sae: the autoencoder, or with ``parallel: dictionary`` this worker's slice of it.
        optimizer: over all parameters of ``sae``.
        usage: firing counts of its latents.
        source: training vectors.
        workers: those that share out the vectors of a step.
        shards: those that share out the latents; of the two, one at least is ``ALONE``.
    """

    worker: Worker
    config: ConceptRunConfig | InsightRunConfig
    sae: SparseAutoencoder
    optimizer: torch.optim.Optimizer
    usage: LatentUsage
    source: VectorSource
    workers: Workers
    shards: Workers

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch; a last incomplete batch is dropped."""
        return self.source.num_vectors // self.config.batch_size

    def dead(self) -> Tensor:
        """(M,) int64, latents of ``sae`` that count as dead; see ``sae.dead_after_epochs``."""
        return self.usage.dead(max(1, round(self.config.sae.dead_after_epochs * self.source.num_vectors)))


def restore_session(session: SaeSession) -> tuple[Position, Tracker | None, Mapping[str, Any]]:
    """Claim the run and load its newest usable checkpoint, if there is one. A collective.

    Returns:
        Position to continue from; on worker 0 the tracker; and the state of the checkpoint, empty at the start.
    Raises:
        RunError: another attempt claimed the run at the same time.
        CheckpointError: complete checkpoints exist but none is usable.
    """
    claimed = claim(session.config, session.worker)
    checkpoint, position, state = claimed.checkpoint, Position(), dict[str, Any]()
    if checkpoint is not None:
        tensors = shard_tensors(checkpoint.optimizer, session.shards)
        counts = {name: value for name, value in tensors.items() if name.startswith(_USAGE)}
        session.usage.load_state_dict({name.removeprefix(_USAGE): value for name, value in counts.items()})
        moments = {name: value for name, value in tensors.items() if name not in counts}
        load_optimizer_tensors(session.optimizer, dict(session.sae.named_parameters()), moments)
        _load_weights(session, checkpoint)
        position, state = Position.from_json(checkpoint.state), checkpoint.state
    return position, track(claimed, session.config, session.worker, position), state


def save_session(
    session: SaeSession,
    tracker: Tracker | None,
    position: Position,
    state: Mapping[str, Any],
    protected: Collection[int],
) -> None:
    """Write a checkpoint and delete those it supersedes. A collective; worker 0 writes.

    Args:
        state: JSON values beside the position.
        protected: steps of older checkpoints that are kept.
    Raises:
        RunError: a newer attempt owns the run.
    """
    model = join_tensors(session.sae.state_dict(), session.shards)
    counts = {f"{_USAGE}{name}": value for name, value in session.usage.state_dict().items()}
    moments = optimizer_tensors(session.optimizer, dict(session.sae.named_parameters()))
    optimizer = join_tensors({**moments, **counts}, session.shards)
    if tracker is None:
        return
    stated = {**position.to_json(), **state, "mlflow_id": tracker.mlflow_id}
    commit(tracker, Checkpoint(position.step, model, optimizer, stated))
    prune(tracker, position.step, session.config.checkpoint.keep, protected)


def load_step(session: SaeSession, step: int) -> Mapping[str, Any]:
    """Load the weights of one checkpoint of this run; returns its state."""
    folder = run_location(session.config).child(CHECKPOINTS, checkpoint_name(step))
    checkpoint = read_checkpoint(folder, with_optimizer=False)
    _load_weights(session, checkpoint)
    return checkpoint.state


def _load_weights(session: SaeSession, checkpoint: Checkpoint) -> None:
    session.sae.load_state_dict(shard_tensors(checkpoint.model, session.shards))
