"""A run that goes on from a checkpoint of another one, under other training settings.

Population-based training (Jaderberg et al., 2017, arXiv 1711.09846) copies weights and optimiser state of a better run
("exploit") and goes on with changed values ("explore"). Here the copy is an ordinary run folder, which holds all it
needs: the source may go on, or be deleted.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import replace

from raytrain_xai.checkpoint import Checkpoint, checkpoint_name, complete_steps, read_checkpoint, write_checkpoint
from raytrain_xai.config import RunConfig, parse_config
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.run_folder import (
    ATTEMPTS,
    CHECKPOINTS,
    CONFIG,
    LOG,
    PARETO,
    Attempt,
    RunLog,
    claim_attempt,
    free_location,
    read_config,
    write_config,
    write_json,
)
from raytrain_xai.runners.changes import RESUMABLE, RESUMABLE_OF, changed_keys, is_among
from raytrain_xai.runners.history import Evaluated, Position, front_record, protected_steps
from raytrain_xai.runners.preflight import resolve_paths
from raytrain_xai.storage import Location, delete_tree, exists, list_names, read_bytes, write_bytes

BRANCHABLE = (
    "optim", "loss", "mixing", "guidance.weight", "guidance.reduction", "guidance.box_dilation", "data.crop_area",
    "data.magnitude", "data.erase", "distill.kd_weight", "distill.temperature", "distill.explanation_weight",
    "distill.explain_every", "distill.truth_weight", "distill.baseline_weight",
)  # fmt: skip
"""Keys (and sections) that a branch may change besides those of a resumed run: what is trained and measured stays."""
_FIXED = ("optim.name",)  # the state of one optimiser means nothing to another


def branch_run(source: Location, step: int, config: RunConfig) -> Location:
    """Make a run that starts at a checkpoint of another one; ``resume_run`` then trains it to its end.

    Weights, average, optimiser state, position and the history of evaluations are those of the checkpoint. Whatever is
    drawn is a function of seed, epoch and step, so that a branch with an equal configuration ends as its source does,
    bit by bit. Log and attempts are copied up to ``step``; TensorBoard and MLflow entries begin at ``step``.

    The checkpoints on the front and the best and selected ones come along. An evaluation whose checkpoint the source
    would have to keep at ``step`` but deleted later, when a better one came, cannot be selected any more: it is left
    out of the branch's history.

    Args:
        source: a classifier's run, finished or not; it may be training.
        step: of one of its checkpoints.
        config: of the new run, which differs in ``name`` or ``storage`` and only in keys of ``BRANCHABLE`` or of a
            resumed run. Learning rate schedules follow the new configuration as if it had been there from the start.
    Returns:
        The new run folder. It is a run once everything is in it; a call that was interrupted may be repeated.
    Raises:
        ConfigError: the name is taken, another key differs, or fewer epochs than the checkpoint has.
        CheckpointError: no such checkpoint, or a damaged one.
        RunError: another call makes the same branch at the same time.
        DataError: the storage cannot be read or written.
    """
    config = resolve_paths(config)
    run = free_location(config)
    before = parse_config(read_config(source), source=source.child(CONFIG).uri)
    changes = _check_changes(source, before, config)
    start = _read(source, step)
    if not start.optimizer:
        raise CheckpointError(
            f"{source.uri} has no optimiser state to go on from (it was published); start a new run with "
            f"model.weights={source.uri}"
        )
    position = Position.from_json(start.state)
    if config.epochs < position.epoch:
        raise ConfigError(
            f"epochs is {config.epochs}, but step {step} of {source.uri} lies after {position.epoch} epochs; set more"
        )
    history = _selectable(position.history, config, complete_steps(source.child(CHECKPOINTS)))
    older = sorted(protected_steps(history, config.evaluation) - {step})
    attempt = _claim(source, run, step)
    delete_tree(run.child(CHECKPOINTS))  # of a call that was interrupted
    for kept in [*older, step]:
        checkpoint = start if kept == step else _read(source, kept)
        write_checkpoint(run.child(CHECKPOINTS), _as_own(checkpoint, config, history), attempt.check)
    _copy_log(source, attempt, position, f"from step {step} of {source.uri}{changes}")
    write_json(run.child(PARETO), front_record(history))
    attempt.check()
    write_config(run, config)
    return run


def _check_changes(source: Location, before: RunConfig, after: RunConfig) -> str:
    """The changes in words, for the log."""
    free = (*BRANCHABLE, *RESUMABLE, *RESUMABLE_OF["classify"])
    changed = changed_keys(before, after, ("name", "storage"))
    for key, (old, new) in changed.items():
        if not is_among(key, free) or key in _FIXED:
            raise ConfigError(
                f"{key} cannot change in a branch of {source.uri} (it was {old!r}, got {new!r}); what can: "
                f"{', '.join(free)}, but not {', '.join(_FIXED)}. Start a new run instead"
            )
    return "".join(f"; {key} {old!r} -> {new!r}" for key, (old, new) in changed.items())


def _read(source: Location, step: int) -> Checkpoint:
    folder, steps = source.child(CHECKPOINTS), complete_steps(source.child(CHECKPOINTS))
    if step not in steps:
        known = ", ".join(map(str, steps)) or "none"
        raise CheckpointError(
            f"{source.uri} has no checkpoint of step {step} (any more), it has: {known}; branch from one of these, or "
            "raise checkpoint.keep of that run"
        )
    return read_checkpoint(folder.child(checkpoint_name(step)))


def _selectable(history: Sequence[Evaluated], config: RunConfig, available: Collection[int]) -> tuple[Evaluated, ...]:
    """The history without evaluations that would be selected, or on the front, and whose checkpoints are gone."""
    kept = tuple(history)
    while missing := protected_steps(kept, config.evaluation) - set(available):
        kept = tuple(entry for entry in kept if entry.step not in missing)
    return kept


def _as_own(checkpoint: Checkpoint, config: RunConfig, history: Sequence[Evaluated]) -> Checkpoint:
    """A checkpoint as if the new run had made it; its entry in MLflow will be another one."""
    kept = {entry.step for entry in history}
    own = {
        "history": [entry for entry in checkpoint.state["history"] if entry["step"] in kept],
        "mlflow_id": None,
        "config": config.model_dump(mode="json"),
    }
    return replace(checkpoint, state=checkpoint.state | own)


def _claim(source: Location, run: Location, step: int) -> Attempt:
    """The first attempt of the new run, numbered after those of its source, so that times in the log stay apart."""
    for name in list_names(source.child(ATTEMPTS)):
        write_bytes(run.child(ATTEMPTS, name), read_bytes(source.child(ATTEMPTS, name)))
    return claim_attempt(run, branched_from=source.uri, step=step)


def _copy_log(source: Location, attempt: Attempt, position: Position, message: str) -> None:
    lines = read_bytes(source.child(LOG)).decode().splitlines() if exists(source.child(LOG)) else []
    log = RunLog(attempt, [line for line in lines if json.loads(line)["step"] <= position.step])
    place = {"step": position.step, "epoch": position.epoch}
    log.add({"kind": "event", **place, "event": "branched", "message": message})
    log.flush()
