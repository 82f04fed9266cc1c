"""What a worker of an alignment run holds, how it is built, restored, measured and saved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from raytrain_xai.align.bridge import bridge
from raytrain_xai.align.draws import drawn_rows
from raytrain_xai.align.head import AlignHead
from raytrain_xai.align.pooling import similarity_pool
from raytrain_xai.align.step import AlignWeights, LabelledPatches
from raytrain_xai.align_config import AlignRunConfig, AlignSource
from raytrain_xai.checkpoint import Checkpoint, checkpoint_name, read_checkpoint
from raytrain_xai.data.dataset import open_dataset
from raytrain_xai.features.patch_store import CHUNK, PatchShare, own_patches, patch_chunks
from raytrain_xai.insight.image_scores import image_scores, mean_average_precision
from raytrain_xai.language.aligned import ENCODER, describe
from raytrain_xai.language.backbone import Backbone, load_backbone
from raytrain_xai.language.minilm import MiniLm, load_minilm
from raytrain_xai.language.prompts import embed_terms, find_family
from raytrain_xai.language.terms import read_terms, terms_of
from raytrain_xai.language.text_cache import TextCache
from raytrain_xai.optimizer_state import load_optimizer_tensors, optimizer_tensors
from raytrain_xai.run_folder import CHECKPOINTS, run_location
from raytrain_xai.runners.attempt import claim, commit, prune, track
from raytrain_xai.runners.collective import gather_tensors, joined_workers
from raytrain_xai.runners.history import Evaluated, Position, best
from raytrain_xai.runners.tracking import Tracker
from raytrain_xai.runners.worker import Worker
from raytrain_xai.storage import locate

_IMAGENET = "imagenet"  # terms of the classes that every backbone knows
_TEXTS = "texts"  # folder of text vectors beside the stored features


@dataclass(frozen=True)
class AlignSet:
    """A source as a worker holds it.

    Attributes:
        share: images that it owns.
        targets: (n, D, h, w) float16, what the bridge says of them, on the CPU.
        texts: (M, D) of unit length, terms of the classes.
        images: drawn in a step, over all workers.
        learns: from which labels.
    """

    share: PatchShare
    targets: Tensor
    texts: Tensor
    images: int
    learns: Literal["multilabel", "multiclass", "none"]


@dataclass(frozen=True)
class AlignSession:
    """Everything that training changes or reads, on one worker.

    Attributes:
        head: what is trained, with the text mean.
        about: description of the encoder for its checkpoints.
        sets: training images, one for each source.
        measured: split -> images of the evaluated data set.
        measured_texts: (M, D) of unit length, its classes.
    """

    worker: Worker
    config: AlignRunConfig
    backbone: Backbone
    head: AlignHead
    optimizer: torch.optim.Optimizer
    about: dict[str, Any]
    sets: tuple[AlignSet, ...]
    measured: dict[str, PatchShare]
    measured_texts: Tensor

    @property
    def weights(self) -> AlignWeights:
        """Of the parts of the loss."""
        loss = self.config.loss
        return AlignWeights(loss.distil_weight, loss.multilabel_weight, loss.multiclass_weight, loss.scale)

    def parts(self, step: int) -> list[LabelledPatches]:
        """This worker's images of a step."""
        return [self._part(number, own, step) for number, own in enumerate(self.sets)]

    def _part(self, number: int, own: AlignSet, step: int) -> LabelledPatches:
        share, device = own.share, self.worker.device
        rows = drawn_rows(len(share.place), own.images, step=step, key=(self.config.seed, number))
        places = share.place[torch.from_numpy(rows)]
        places = places[places >= 0]
        features, targets = share.features[places].to(device).float(), own.targets[places].to(device).float()
        return LabelledPatches(features, targets, share.labels[places].to(device), own.texts, own.images, own.learns)


def build_align_session(worker: Worker, config: AlignRunConfig) -> AlignSession:
    """Build everything at the start of training, the same on every worker but for the images that it owns.

    Raises:
        ConfigError, DataError, CheckpointError: a package, a data set or a stored feature file cannot be used.
    """
    device = worker.device
    backbone, text = load_backbone(config.backbone, device=device), load_minilm(device)
    named = _embed(text, tuple(read_terms(_IMAGENET).values()), config)
    mean = named.mean(dim=0)
    torch.manual_seed(config.seed)
    head = AlignHead(backbone.dim, config.hidden, text.dim)
    head.text_mean.copy_(mean)
    head.to(device)
    sets = tuple(_open_set(source, config, backbone, text, named) for source in config.sources)
    evaluation = config.evaluation
    splits = [split for split in ("val", "test") if open_dataset(evaluation.path).splits.get(split)]
    measured = {split: _share(config, backbone, evaluation.path, split) for split in splits}
    return AlignSession(
        worker, config, backbone, head, _optimizer(head, config), describe(config, backbone, text), sets, measured,
        _class_texts(text, evaluation.path, evaluation.terms, mean, config),
    )  # fmt: skip


def restore_align(session: AlignSession) -> tuple[Position, Tracker | None]:
    """Claim the run and continue from its newest usable checkpoint. A collective."""
    claimed = claim(session.config, session.worker)
    checkpoint, position = claimed.checkpoint, Position()
    if checkpoint is not None:
        load_optimizer_tensors(session.optimizer, dict(session.head.named_parameters()), checkpoint.optimizer)
        session.head.load_state_dict(checkpoint.model)
        position = Position.from_json(checkpoint.state)
    return position, track(claimed, session.config, session.worker, position)


def save_align(session: AlignSession, tracker: Tracker | None, position: Position) -> None:
    """Write a checkpoint and delete those it supersedes; worker 0 writes.

    Raises:
        RunError: a newer attempt owns the run.
    """
    if tracker is None:
        return
    optimizer = optimizer_tensors(session.optimizer, dict(session.head.named_parameters()))
    state = {**position.to_json(), ENCODER: session.about, "mlflow_id": tracker.mlflow_id}
    commit(tracker, Checkpoint(position.step, session.head.state_dict(), optimizer, state))
    protected = {choose(session.config, position.history).step} if position.history else set[int]()
    prune(tracker, position.step, session.config.checkpoint.keep, protected)


def load_step(session: AlignSession, step: int) -> None:
    """Load the weights of one checkpoint of this run."""
    folder = run_location(session.config).child(CHECKPOINTS, checkpoint_name(step))
    session.head.load_state_dict(read_checkpoint(folder, with_optimizer=False).model)


def choose(config: AlignRunConfig, history: Sequence[Evaluated]) -> Evaluated:
    """The evaluation whose checkpoint is used, of one or more."""
    top = history[-1] if config.evaluation.select == "last" else best(history, "map")
    assert top is not None
    return top


@torch.no_grad()
def measure_align(session: AlignSession, split: str) -> dict[str, float]:
    """How well image scores rank the images of a split, every worker taking the images that it owns. A collective.

    Returns:
        map: mean average precision of the patches as they are; map_pooled: after similarity pooling, which is what the
        encoder gives; both over the classes with ``evaluation.min_images`` images.
    """
    config, device, found = session.config.evaluation, session.worker.device, list[dict[str, Tensor]]()
    for features, labels in patch_chunks(session.measured[split], config.batch_size):
        looks = features.to(device).float()
        patches = session.head(looks)
        plain = image_scores(patches, session.measured_texts)
        pooled = image_scores(similarity_pool(patches, looks), session.measured_texts)
        found.append({"plain": plain.cpu(), "pooled": pooled.cpu(), "labels": labels})
    own = {name: torch.cat([part[name] for part in found]) for name in found[0]} if found else {}
    shares = [part for part in gather_tensors(own, device) if part]
    whole = {name: torch.cat([part[name] for part in shares]) for name in shares[0]}
    return {
        name: mean_average_precision(whole[scores], whole["labels"], config.min_images)
        for name, scores in (("map", "plain"), ("map_pooled", "pooled"))
    }


def _open_set(source: AlignSource, config: AlignRunConfig, backbone: Backbone, text: MiniLm, named: Tensor) -> AlignSet:
    """A source with the targets of its patches, which are the same in every pass; ``named``: (1000, D) of ImageNet."""
    share, mean = _share(config, backbone, source.path, "train"), named.mean(dim=0)
    texts = _class_texts(text, source.path, source.terms, mean, config)
    learns = open_dataset(source.path).task if source.labels else "none"
    targets = [
        bridge(features.to(backbone.device).float(), backbone.weight, backbone.bias, named - mean).half().cpu()
        for features, _ in patch_chunks(share, CHUNK)
    ]
    joined = torch.cat(targets) if targets else torch.zeros(0, text.dim, 0, 0, dtype=torch.float16)
    return AlignSet(share, joined, texts, source.images, cast("Literal['multilabel', 'multiclass', 'none']", learns))


def _share(config: AlignRunConfig, backbone: Backbone, path: str, split: str) -> PatchShare:
    workers = joined_workers()
    store = None if config.features is None else locate(config.features)
    return own_patches(
        backbone, path, split, config.image_size, store=store, rank=workers.rank, world_size=workers.world_size
    )


def _class_texts(text: MiniLm, path: str, table: str | None, mean: Tensor, config: AlignRunConfig) -> Tensor:
    return F.normalize(_embed(text, terms_of(open_dataset(path).classes, table), config) - mean, dim=1)


def _embed(text: MiniLm, terms: Sequence[str], config: AlignRunConfig) -> Tensor:
    cache = None if config.features is None else TextCache(locate(config.features).child(_TEXTS))
    return embed_terms(text, terms, find_family(config.templates), cache=cache)


def _optimizer(head: AlignHead, config: AlignRunConfig) -> torch.optim.Optimizer:
    """AdamW; the largest rate of a group is kept in it, see :mod:`raytrain_xai.align.schedule`."""
    optim, line = config.optim, [head.log_scale, head.shift]
    layers = [*head.expand.parameters(), *head.project.parameters()]
    groups = [{"params": layers, "peak": optim.lr}, {"params": line, "peak": optim.scale_lr}]
    return torch.optim.AdamW(groups, lr=optim.lr, weight_decay=optim.weight_decay)
