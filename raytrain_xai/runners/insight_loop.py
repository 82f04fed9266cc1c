"""Training of the concepts of an encoder on one worker: plain PyTorch, the same in this process and in a Ray worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from raytrain_xai.concepts.fidelity import frequency_histogram
from raytrain_xai.concepts.layer import to_vectors
from raytrain_xai.concepts.matryoshka import MatryoshkaSae
from raytrain_xai.concepts.matryoshka_step import geometric_median, matryoshka_step
from raytrain_xai.concepts.reconstruction import ReconstructionSums, reconstruction_sums, summarise_reconstruction
from raytrain_xai.concepts.step import SaeStep, StepSettings
from raytrain_xai.concepts.update import build_adam
from raytrain_xai.concepts.usage import LatentUsage
from raytrain_xai.concepts.workers import ALONE
from raytrain_xai.data.sampling import evaluation_plan
from raytrain_xai.errors import DataError
from raytrain_xai.features.patches import open_patch_extraction, open_patches, opened_data
from raytrain_xai.insight.model import build_matryoshka, encoder_state
from raytrain_xai.insight_config import InsightRunConfig
from raytrain_xai.language.encoder import LanguageEncoder, load_encoder
from raytrain_xai.runners.collective import broadcast_json, gather_tensors, joined_workers
from raytrain_xai.runners.concept_meter import ConceptMeter
from raytrain_xai.runners.epochs import conclude, tracked, train_epochs
from raytrain_xai.runners.history import Position
from raytrain_xai.runners.sae_learner import SaeLearner
from raytrain_xai.runners.sae_session import SaeSession, load_step, restore_session, save_session
from raytrain_xai.runners.tracking import Tracker
from raytrain_xai.runners.worker import Worker


@dataclass(frozen=True)
class InsightSession(SaeSession):
    """That of the concepts of an encoder; the autoencoder sees its patches, as long as they are or of length 1.

    Attributes:
        config: of the run.
        sae: all latents.
        encoder: on the device.
    """

    config: InsightRunConfig
    sae: MatryoshkaSae
    encoder: LanguageEncoder


def train_insight(fingerprint: str, worker: Worker, config: InsightRunConfig) -> dict[str, Any]:
    """Train from the newest checkpoint (or from the start) to the end, and measure the last one.

    A collective: all workers call it with equal arguments.

    Args:
        fingerprint: of the encoder with which the run was started.
    Returns:
        Content of ``metrics.json``: ``val`` and ``test`` (where the data has them) of
        :func:`~raytrain_xai.concepts.reconstruction.summarise_reconstruction`, ``selected`` and ``dictionary``, how
        often the latents fire on a split.
    Raises:
        RunError: a non-finite loss or gradient, or a newer attempt took over the run.
        DataError, CheckpointError: the storage holds something unusable, or the encoder is another one here.
    """
    session = build_insight_session(worker, config)
    if session.encoder.fingerprint != fingerprint:
        raise DataError(f"the encoder {config.encoder} is another one on this node than where the run was started")
    position, tracker, _ = restore_session(session)
    num_steps = config.epochs * session.steps_per_epoch
    if tracker is not None:
        tracker.started(position, num_steps, worker.world_size)
    with tracked(tracker):
        learner = SaeLearner(
            session, ConceptMeter(session, position.step, num_steps),
            take=partial(take_insight_step, session),
            evaluate=lambda: summarise_reconstruction(measure_patches(session, "val")),
            commit=partial(_save, session),
        )  # fmt: skip
        position = train_epochs(learner, tracker, position)
        return conclude(tracker, _final_metrics(session, position))


def build_insight_session(worker: Worker, config: InsightRunConfig) -> InsightSession:
    """Build everything at the start of training, the same on every worker.

    Raises:
        ConfigError, CheckpointError: the encoder cannot be had.
        DataError: the data sets or the patches cannot be used.
    """
    encoder = load_encoder(config.encoder, device=worker.device)
    workers = joined_workers()
    source = open_patches(
        config, encoder, rank=workers.rank, world_size=workers.world_size, device=worker.device
    )  # fmt: skip
    torch.manual_seed(config.seed)
    sae = build_matryoshka(config, source.dim).to(worker.device)
    return InsightSession(
        worker=worker, config=config, sae=sae, optimizer=build_adam(sae),
        usage=LatentUsage(sae.num_latents).to(worker.device), source=source, workers=workers, shards=ALONE,
        encoder=encoder,
    )  # fmt: skip


def take_insight_step(session: InsightSession, x: Tensor, position: Position) -> SaeStep:
    """Loss and gradients of this worker's vectors (n, D) and those of the others. A collective.

    The first batch of a run gives the decoder bias its start.
    """
    vectors = session.sae.inputs(x * session.source.scale)  # as the encoder gives them
    if position.step == 0:
        with torch.no_grad():
            session.sae.decoder_bias.copy_(geometric_median(vectors, session.workers))
    own = session.config.sae
    return matryoshka_step(
        session.sae, vectors, dead=session.dead(), settings=StepSettings(own.aux_weight, own.aux_latents),
        workers=session.workers,
    )  # fmt: skip


def measure_patches(session: InsightSession, split: str) -> ReconstructionSums:
    """What the concepts keep of all patches of a split, every worker taking its share of the images. A collective."""
    worker, config = session.worker, session.config
    extraction = open_patch_extraction(config, session.encoder, split)
    sums = ReconstructionSums.empty(session.sae)
    first = 0
    for part in extraction.parts:
        plans = evaluation_plan(
            len(part.stored), config.evaluation.batch_size, rank=worker.rank, world_size=worker.world_size,
            max_images=config.evaluation.max_images if split == "val" else None,
        )  # fmt: skip
        for plan in plans:
            patches = session.encoder.patches(extraction.images(first + np.asarray(plan.indices)))
            sums = sums.merge(reconstruction_sums(session.sae, to_vectors(patches)))
        first += len(part.stored)
    parts = [ReconstructionSums.from_tensors(part) for part in gather_tensors(sums.to_tensors(), worker.device)]
    return parts[0].merge(*parts[1:])


def _save(session: InsightSession, tracker: Tracker | None, position: Position) -> None:
    save_session(session, tracker, position, encoder_state(session.config, session.encoder), protected=())


def _final_metrics(session: InsightSession, position: Position) -> dict[str, Any]:
    """Measure the last evaluated checkpoint on the test splits. A collective."""
    choice = position.history[-1]
    broadcast_json(choice.step, session.worker.device)  # worker 0 arrives here when the checkpoint is written
    load_step(session, choice.step)
    split = "test" if _has(session.config, "test") else "val"
    sums = measure_patches(session, split)
    measured: Mapping[str, Any] = {split: summarise_reconstruction(sums)}
    return {
        "val": choice.val, "selected": {"step": choice.step, "epoch": choice.epoch}, **measured,
        "dictionary": {"split": split, **frequency_histogram(sums.fired, int(sums.positions))},
    }  # fmt: skip


def _has(config: InsightRunConfig, split: str) -> bool:
    return any(info.splits.get(split) for info in opened_data(config).values())
