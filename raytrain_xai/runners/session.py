"""What a worker holds while it trains, how it is built, restored, measured and saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from raytrain_xai.checkpoint import Checkpoint, checkpoint_name, read_checkpoint, restore_model
from raytrain_xai.classify.ema import AveragedNetwork
from raytrain_xai.config import RunConfig
from raytrain_xai.data.dataset import DatasetInfo
from raytrain_xai.data.loader import evaluation_batches
from raytrain_xai.distill.objective import DistillObjective
from raytrain_xai.guidance.evaluate import EvaluationState, evaluate, summarise
from raytrain_xai.models.network import Network
from raytrain_xai.models.stochastic_depth import set_stochastic_depth
from raytrain_xai.models.weights import load_weights
from raytrain_xai.models.zoo import build_network
from raytrain_xai.optimizer_state import load_optimizer_tensors, optimizer_tensors
from raytrain_xai.run_folder import CHECKPOINTS, PARETO, run_location, write_json
from raytrain_xai.runners.attempt import claim, commit, prune, track
from raytrain_xai.runners.collective import broadcast_tensors, gather_tensors, is_distributed
from raytrain_xai.runners.history import Position, front_record, protected_steps
from raytrain_xai.runners.objective import build_objective
from raytrain_xai.runners.optimiser import build_optimiser, num_warmup_steps
from raytrain_xai.runners.tracking import Tracker
from raytrain_xai.runners.tutor import TEACHER, Tutor, build_tutor, check_same_teacher, measure_agreement
from raytrain_xai.runners.worker import Worker

_AUXILIARY = "aux."


@dataclass(frozen=True)
class Session:
    """Everything that training changes or reads, on one worker.

    Attributes:
        network: on the device.
        model: the objective around it; wrapped by DDP when there are several workers.
        parameters: trainable ones of ``network.net`` by name, and those of ``auxiliary`` by ``aux.`` and name.
        optimizer: over ``parameters``.
        average: moving average of ``network``, None where the configuration has none.
        tutor: the teacher of a distillation, None without.
        auxiliary: a part of the objective that learns along and is no part of the network, None without.
    """

    worker: Worker
    config: RunConfig
    info: DatasetInfo
    network: Network
    model: nn.Module
    parameters: dict[str, nn.Parameter]
    optimizer: torch.optim.Optimizer
    average: AveragedNetwork | None
    tutor: Tutor | None = None
    auxiliary: nn.Module | None = None

    @property
    def measured(self) -> Network:
        """The network that is evaluated: the average where there is one."""
        return self.network if self.average is None else self.average.network


def build_session(worker: Worker, config: RunConfig, info: DatasetInfo) -> Session:
    """Build network, objective and optimiser, the same on every worker; :func:`restore` brings the weights."""
    torch.manual_seed(config.seed)
    network = build_network(config.model.name, len(info.classes), norm_statistics=config.model.norm_statistics).to(
        worker.device
    )
    if config.channels_last:
        network.net.to(memory_format=torch.channels_last)
    if config.model.stochastic_depth > 0:
        set_stochastic_depth(network.net, config.model.stochastic_depth)
    tutor = build_tutor(network, config, info, worker.device)
    model: nn.Module = build_objective(network, config, info, tutor).to(worker.device)
    auxiliary = model.baseline if isinstance(model, DistillObjective) else None
    if is_distributed():
        if auxiliary is not None:  # a memory may be large, and its owner keeps it equal on all workers
            own = [f"baseline.{name}" for name, _ in auxiliary.named_buffers()]
            ignore = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model  # pyright: ignore[reportPrivateUsage]
            ignore(model, own)
        # The whole loss is inside the wrapped forward: one forward and one backward per part, so that second-order
        # terms are reduced too. Neither static_graph nor find_unused_parameters may be set with them.
        model = DistributedDataParallel(model, gradient_as_bucket_view=True)
    parameters = {name: p for name, p in network.net.named_parameters() if p.requires_grad}
    if auxiliary is not None:
        parameters |= {f"{_AUXILIARY}{name}": p for name, p in auxiliary.named_parameters() if p.requires_grad}
    optimizer = build_optimiser(parameters.values(), config.optim)
    average = _build_average(network, config, info)
    return Session(worker, config, info, network, model, parameters, optimizer, average, tutor, auxiliary)


def _build_average(network: Network, config: RunConfig, info: DatasetInfo) -> AveragedNetwork | None:
    ema, steps_per_epoch = config.ema, info.splits["train"] // config.batch_size
    if ema.decay is None:
        return None
    warmup = num_warmup_steps(config.optim, steps_per_epoch)
    return AveragedNetwork(network, decay=ema.decay, every_steps=ema.every_steps, first_step=warmup)


def restore(session: Session) -> tuple[Position, Tracker | None]:
    """Claim the run and load its newest usable checkpoint, or ``model.weights`` when it has none. A collective.

    Returns:
        Position to continue from, and on worker 0 the tracker.

    Raises:
        RunError: another attempt claimed the run at the same time.
        CheckpointError: complete checkpoints exist but none is usable.
    """
    claimed = claim(session.config, session.worker)
    checkpoint, position = claimed.checkpoint, Position()
    if checkpoint is not None:
        restore_model(session.network, checkpoint.model, checkpoint.step)
        if session.tutor is not None:
            check_same_teacher(checkpoint.state[TEACHER], session.tutor)
        _restore_training(session, checkpoint.optimizer)
        position = Position.from_json(checkpoint.state)
    elif session.config.model.weights is not None:
        load_weights(session.network, session.config.model.weights)
    if session.average is not None:
        session.average.follow(session.network)
        if checkpoint is not None:
            restore_model(session.average.network, checkpoint.ema, checkpoint.step)
    return position, track(claimed, session.config, session.worker, position)


def _training_tensors(session: Session) -> dict[str, Tensor]:
    """What only a resumed run needs: the state of the optimiser, and of what learned along, as ``aux.<key>``."""
    tensors = optimizer_tensors(session.optimizer, session.parameters)
    if session.auxiliary is not None:
        tensors |= {f"{_AUXILIARY}{key}": value for key, value in session.auxiliary.state_dict().items()}
    return tensors


def _restore_training(session: Session, tensors: Mapping[str, Tensor]) -> None:
    """Put back :func:`_training_tensors`; keys of the optimiser have a slash, those of a state dict have none."""
    state = {key: value for key, value in tensors.items() if "/" in key}
    load_optimizer_tensors(session.optimizer, session.parameters, state)
    if session.auxiliary is not None:
        own = {key.removeprefix(_AUXILIARY): value for key, value in tensors.items() if "/" not in key}
        session.auxiliary.load_state_dict(own)


def measure(session: Session, split: str, iou_threshold: float | None) -> dict[str, float]:
    """Metrics of the network on a whole split, every worker taking its share. A collective; equal on all workers.

    The average of the weights is measured where there is one. With a teacher its agreement with it is among them.
    """
    config, worker = session.config, session.worker
    if config.model.norm_statistics == "local":
        broadcast_tensors(session.measured.net.buffers())  # as a checkpoint holds them
    batches = evaluation_batches(
        config.data.evaluated,
        split,
        config.data.image_size,
        config.evaluation.batch_size,
        shorter=config.data.eval_resize,
        rank=worker.rank,
        world_size=worker.world_size,
    )
    state = evaluate(
        session.measured,
        batches,
        method=config.guidance.attribution or session.network.default_attribution,
        layer=config.guidance.layer,
        order=config.evaluation.order,
        loss=config.guidance.loss,
        intgrad_steps=config.guidance.intgrad_steps,
        device=worker.device,
    )
    first, *others = [EvaluationState.from_tensors(part) for part in gather_tensors(state.to_tensors(), worker.device)]
    metrics = summarise(first.merge(*others), session.info, iou_threshold)
    if session.tutor is None:
        return metrics
    return metrics | measure_agreement(
        session.measured, session.tutor, batches, task=session.info.task, device=worker.device
    )


def save(session: Session, tracker: Tracker | None, position: Position) -> None:
    """Write a checkpoint and delete those it supersedes. Worker 0 only; the others return at once.

    Raises:
        RunError: a newer attempt owns the run.
    """
    if tracker is None:
        return
    info = session.info
    state = {
        **position.to_json(),
        "data": {"classes": info.classes, "task": info.task, "groups": info.groups, "fingerprint": info.fingerprint},
        "mlflow_id": tracker.mlflow_id,
        "config": session.config.model_dump(mode="json"),
    }
    if session.tutor is not None:
        state[TEACHER] = session.tutor.fingerprint
    content = Checkpoint(
        position.step,
        session.network.net.state_dict(),
        _training_tensors(session),
        state,
        ema={} if session.average is None else session.average.network.net.state_dict(),
    )
    commit(tracker, content)
    write_json(tracker.attempt.run.child(PARETO), front_record(position.history))
    protected = protected_steps(position.history, session.config.evaluation)
    prune(tracker, position.step, session.config.checkpoint.keep, protected)


def load_step(session: Session, step: int) -> None:
    """Load the weights of one checkpoint of this run into the network that is measured."""
    folder = run_location(session.config).child(CHECKPOINTS, checkpoint_name(step))
    checkpoint = read_checkpoint(folder, with_optimizer=False)
    restore_model(session.measured, checkpoint.measured, checkpoint.step)
