"""What a worker that trains concepts of a network holds, how it is built, measured and saved.

With ``parallel: dictionary`` a worker holds a slice of the latents; checkpoints hold all of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.concept_runs.model import NETWORK, build_sae, concept_state, restore_sae
from raytrain_xai.concept_runs.network import AdoptedNetwork, stored_network
from raytrain_xai.concepts.fidelity import FidelitySums, fidelity_sums, summarise_fidelity
from raytrain_xai.concepts.layer import ConceptLayer, with_concepts
from raytrain_xai.concepts.sae import SparseAutoencoder
from raytrain_xai.concepts.sharded import join_tensors, shard_of
from raytrain_xai.concepts.update import build_adam
from raytrain_xai.concepts.usage import LatentUsage
from raytrain_xai.concepts.workers import ALONE
from raytrain_xai.data.dataset import DatasetInfo, open_dataset
from raytrain_xai.data.loader import evaluation_batches
from raytrain_xai.features.source import open_vectors
from raytrain_xai.guidance.evaluate import EvaluationState, evaluate, summarise
from raytrain_xai.run_folder import run_location
from raytrain_xai.runners.collective import gather_tensors, joined_workers
from raytrain_xai.runners.history import Evaluated, Position, best
from raytrain_xai.runners.sae_session import SaeSession, save_session
from raytrain_xai.runners.tracking import Tracker
from raytrain_xai.runners.worker import Worker
from raytrain_xai.types import Batch


@dataclass(frozen=True)
class ConceptSession(SaeSession):
    """That of the concepts of a network.

    Attributes:
        config: of the run.
        info: of the data set that is evaluated.
        adopted: the network, on the device; the autoencoder sees its features divided by their scale.
    """

    config: ConceptRunConfig
    info: DatasetInfo
    adopted: AdoptedNetwork


def build_concept_session(worker: Worker, config: ConceptRunConfig) -> ConceptSession:
    """Build everything at the start of training, the same on every worker; :func:`restore_concepts` goes on from there.

    Raises:
        CheckpointError: the network in the run folder is damaged.
        DataError: the data set or the vectors cannot be used.
    """
    adopted = stored_network(run_location(config).child(NETWORK), device=worker.device)
    joined = joined_workers()
    workers, shards = (joined, ALONE) if config.parallel == "data" else (ALONE, joined)
    source = open_vectors(config, adopted, rank=workers.rank, world_size=workers.world_size, device=worker.device)
    torch.manual_seed(config.seed)
    sae = shard_of(build_sae(config, source.dim), shards).to(worker.device)
    for name, buffer in sae.named_buffers():
        if name == "scale":  # of the variants whose thresholds are relative to it
            buffer.fill_(source.scale)
    usage = LatentUsage(sae.num_latents).to(worker.device)
    info = open_dataset(evaluated_data(config, adopted))
    return ConceptSession(
        worker=worker, config=config, sae=sae, optimizer=build_adam(sae), usage=usage, source=source, workers=workers,
        shards=shards, info=info, adopted=adopted,
    )  # fmt: skip


def evaluated_data(config: ConceptRunConfig, adopted: AdoptedNetwork) -> str:
    """Address of the data set of a concept run: its own, or that of the run of its network."""
    return config.data or adopted.config.data.path


def save_concepts(
    session: ConceptSession, before: Mapping[str, float], tracker: Tracker | None, position: Position
) -> None:
    """Write a checkpoint and delete those it supersedes. A collective; worker 0 writes.

    Args:
        before: what the validation of the network without concepts gave.
    Raises:
        RunError: a newer attempt owns the run.
    """
    state = concept_state(session.config, session.adopted.network, session.sae.dim, gain=current_gain(session))
    protected = {choose(session, position.history).step} if position.history else set[int]()
    save_session(session, tracker, position, {**state, "before": dict(before)}, protected)


def choose(session: ConceptSession, history: tuple[Evaluated, ...]) -> Evaluated:
    """The evaluation whose checkpoint is used, of one or more; see ``evaluation.select``."""
    if session.config.evaluation.select == "last":
        return history[-1]
    top = best(history, "f1" if session.info.task == "multilabel" else "accuracy")
    assert top is not None
    return top


def current_gain(session: ConceptSession) -> float:
    """What reconstructions are multiplied by in use; see ``sae.keep_length``."""
    return float(session.usage.gain) if session.config.sae.keep_length else 1.0


def whole_sae(session: ConceptSession, gain: float) -> SparseAutoencoder:
    """A copy of the autoencoder with all latents, for use. A collective where they are shared out.

    It takes half of the weights and moments of a training in one process, so a dictionary that is sharded for its
    optimiser still fits here.
    """
    weights = join_tensors(session.sae.state_dict(), session.shards)
    run = run_location(session.config).uri
    return restore_sae(session.config, weights, run, gain=gain).to(session.worker.device)


def measure_network(session: ConceptSession, split: str, iou_threshold: float | None) -> dict[str, float]:
    """Metrics of the network without concepts; see :func:`measure_concepts`."""
    return _measure(session, session.adopted.network, split, iou_threshold, None)[0]


def measure_concepts(
    session: ConceptSession, split: str, iou_threshold: float | None, gain: float
) -> tuple[dict[str, float], FidelitySums]:
    """Metrics with the concepts plugged into the network, every worker taking its share of a split. A collective.

    Args:
        gain: of the weights that are loaded.
    Returns:
        What :func:`raytrain_xai.guidance.evaluate.summarise` and
        :func:`raytrain_xai.concepts.fidelity.summarise_fidelity` tell, equal on all workers, and the latter's sums.
    """
    layer = ConceptLayer(whole_sae(session, gain)).eval()
    network = with_concepts(session.adopted.network, {session.config.layer: layer})
    metrics, sums = _measure(session, network, split, iou_threshold, layer)
    assert sums is not None
    return metrics | summarise_fidelity(sums), sums


def _measure(
    session: ConceptSession, network: Any, split: str, iou_threshold: float | None, layer: ConceptLayer | None
) -> tuple[dict[str, float], FidelitySums | None]:
    config, own, worker = session.config, session.adopted.config, session.worker
    batches = evaluation_batches(
        evaluated_data(config, session.adopted), split, own.data.image_size, config.evaluation.batch_size,
        shorter=own.data.eval_resize, rank=worker.rank, world_size=worker.world_size,
        max_images=config.evaluation.max_images if split == "val" else None,
    )  # fmt: skip
    observer = None if layer is None else _Observer(session, layer)
    state = evaluate(
        network, batches if observer is None else observer.watch(batches),
        method=own.guidance.attribution or network.default_attribution, layer=own.guidance.layer,
        order=own.evaluation.order, loss=own.guidance.loss, intgrad_steps=own.guidance.intgrad_steps,
        device=worker.device,
    )  # fmt: skip
    first, *others = [EvaluationState.from_tensors(part) for part in gather_tensors(state.to_tensors(), worker.device)]
    metrics = summarise(first.merge(*others), session.info, iou_threshold)
    if observer is None:
        return metrics, None
    parts = gather_tensors(observer.sums.to_tensors(), worker.device)
    head, *tail = [FidelitySums.from_tensors(part) for part in parts]
    return metrics, head.merge(*tail)


class _Observer:
    """Takes the fidelity of a layer on batches on their way to the evaluation: images are decoded once for both."""

    def __init__(self, session: ConceptSession, layer: ConceptLayer) -> None:
        self._session = session
        self._layer = layer
        self.sums = FidelitySums.empty(layer.sae.dim, layer.sae.num_latents, session.worker.device)

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        network, tap = self._session.adopted.network, self._session.config.layer
        for batch in batches:
            images = batch.images.to(self._session.worker.device)
            self.sums = self.sums.merge(fidelity_sums(network, self._layer, tap, images))
            yield batch
