"""Checkpoints: weights, optimiser state and position of a run, complete or absent.

A checkpoint is a folder ``step-00000120`` with ``model.safetensors``, ``optimizer.safetensors``, ``state.json``, where
weights are averaged ``ema.safetensors`` and, written last, ``manifest.json`` with the size and SHA-256 of the
others. It exists only once its manifest does, and it is used only if every file matches its manifest. Nothing in it is
executable: safetensors and JSON throughout.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from raytrain_xai.config import RunConfig, parse_config
from raytrain_xai.errors import CheckpointError
from raytrain_xai.models.network import Network
from raytrain_xai.run_folder import CHECKPOINTS, METRICS, open_run, read_config, read_json
from raytrain_xai.storage import Location, delete_tree, exists, list_names, read_bytes, write_bytes

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"
EMA = "ema.safetensors"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What one folder holds.

    Attributes:
        step: optimiser steps done since the start of the run.
        model: state dict of ``Network.net``, on the CPU.
        optimizer: :func:`raytrain_xai.optimizer_state.optimizer_tensors`, on the CPU; empty when it was not asked for.
        state: JSON values: position in the run, history of evaluations, class names, configuration.
        ema: state dict of the averaged network, on the CPU; empty for a run without average.
    """

    step: int
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]
    ema: dict[str, Tensor] = field(default_factory=dict)

    @property
    def measured(self) -> dict[str, Tensor]:
        """State dict of the network that evaluation measures and everybody uses: the average where there is one."""
        return self.ema or self.model


def checkpoint_name(step: int) -> str:
    """Folder of the checkpoint after ``step`` optimiser steps; sorts in the order of steps."""
    return f"step-{step:08d}"


def write_checkpoint(parent: Location, content: Checkpoint, before_commit: Callable[[], None]) -> Location:
    """Write a checkpoint below ``parent``; it exists when this returns and not before.

    Args:
        parent: folder of all checkpoints of the run.
        content: equal contents give equal files, whatever the device and memory format.
        before_commit: called when only the manifest is missing; raises to leave the checkpoint uncommitted.

    Raises:
        DataError: the storage cannot be written.
    """
    folder = parent.child(checkpoint_name(content.step))
    delete_tree(folder)  # a manifest left there must never vouch for the files written below
    payloads = {
        MODEL: _serialise(content.model),
        OPTIMIZER: _serialise(content.optimizer),
        STATE: json.dumps(content.state, indent=1, sort_keys=True).encode(),
    }
    if content.ema:
        payloads[EMA] = _serialise(content.ema)
    for name, data in payloads.items():
        write_bytes(folder.child(name), data)
    manifest = {
        "format_version": FORMAT_VERSION,
        "step": content.step,
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in payloads.items()
        },
    }
    before_commit()
    write_bytes(folder.child(MANIFEST), json.dumps(manifest, indent=1).encode())
    return folder


def read_checkpoint(folder: Location, *, with_optimizer: bool = True) -> Checkpoint:
    """Read a checkpoint and verify every file against the manifest.

    Raises:
        CheckpointError: no manifest (never completed), another format version, or a file that is missing or differs
            from its manifest.
        DataError: the storage cannot be read.
    """
    manifest = _read_manifest(folder)
    model = _deserialise(folder, MODEL, _verified(folder, MODEL, manifest))
    state = _parse(folder, STATE, _verified(folder, STATE, manifest))
    optimizer = _deserialise(folder, OPTIMIZER, _verified(folder, OPTIMIZER, manifest)) if with_optimizer else {}
    ema = _deserialise(folder, EMA, _verified(folder, EMA, manifest)) if EMA in manifest["files"] else {}
    return Checkpoint(step=manifest["step"], model=model, optimizer=optimizer, state=state, ema=ema)


def complete_steps(parent: Location) -> list[int]:
    """Steps of the checkpoints that have a manifest, ascending. Their files are not verified."""
    found = (re.fullmatch(r"step-(\d{8,})", name) for name in list_names(parent))
    steps = sorted(int(match[1]) for match in found if match)
    return [step for step in steps if exists(parent.child(checkpoint_name(step), MANIFEST))]


def read_newest(parent: Location) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies, and what was wrong with the newer ones.

    Returns:
        The checkpoint (None when no complete one exists) and one line per rejected checkpoint.

    Raises:
        CheckpointError: complete checkpoints exist and none of them verifies; starting over silently would throw
            the run away.
        DataError: the storage cannot be read.
    """
    problems: list[str] = []
    for step in reversed(complete_steps(parent)):
        try:
            return read_checkpoint(parent.child(checkpoint_name(step))), problems
        except CheckpointError as error:
            problems.append(str(error))
    if problems:
        raise CheckpointError(f"no usable checkpoint: {'; '.join(problems)}; delete {parent.uri} to start over")
    return None, problems


def sweep(parent: Location, newest: int | None) -> list[str]:
    """Delete folders that a resumed run cannot use: incomplete ones and those newer than the step it resumes at.

    Args:
        parent: folder of all checkpoints of the run.
        newest: step of the checkpoint the run resumes at, None when it starts from the beginning.

    Returns:
        Names of the deleted folders.
    """
    usable = {checkpoint_name(step) for step in complete_steps(parent) if newest is not None and step <= newest}
    orphans = [name for name in list_names(parent) if name not in usable]
    for name in orphans:
        delete_checkpoint(parent.child(name))
    return orphans


def delete_checkpoint(folder: Location) -> None:
    """Delete a checkpoint, manifest first, so that an interrupted deletion leaves an incomplete folder to sweep."""
    delete_tree(folder.child(MANIFEST))
    delete_tree(folder)


def superseded(steps: Sequence[int], keep: int, protected: Collection[int]) -> list[int]:
    """Steps whose checkpoints may go: all but the newest ``keep`` and the ``protected`` ones (front, best)."""
    newest = sorted(steps)[-keep:]
    return [step for step in sorted(steps) if step not in newest and step not in protected]


def load_network(
    run: str, *, which: str = "selected", device: torch.device | str = "cpu"
) -> tuple[Network, RunConfig, dict[str, Any], dict[str, Any]]:
    """The trained network of a run, ready to use, without its data set.

    Args:
        run: run folder or s3:// address.
        which: ``selected`` (the checkpoint measured on the test split; the newest while the run is unfinished),
            ``last``, or a folder name such as ``step-00000120``.
        device: where the network is put; it is in eval mode.

    Returns:
        Network, configuration of the run, ``{"classes", "task", "groups", "step", "epoch"}`` and the content of
        ``metrics.json`` (empty while the run is unfinished).

    Raises:
        CheckpointError: no such checkpoint, or it is damaged or of another model.
        ConfigError: not a run folder.
    """
    from raytrain_xai.models.zoo import build_network  # imports torchvision

    at = open_run(run)
    config = parse_config(read_config(at), source=at.child("config.yaml").uri)
    metrics = read_json(at.child(METRICS)) if exists(at.child(METRICS)) else {}
    checkpoint = _choose(at.child(CHECKPOINTS), which, metrics)
    data = checkpoint.state["data"]
    network = build_network(
        config.model.name, len(data["classes"]), weights=None, norm_statistics=config.model.norm_statistics
    )
    restore_model(network, checkpoint.measured, checkpoint.step)
    network.to(device).eval()
    info = {**data, "step": checkpoint.step, "epoch": checkpoint.state["epoch"]}
    return network, config, info, metrics


def read_checkpoint_of(run: Location, which: str = "selected") -> Checkpoint:
    """A checkpoint of a run without optimiser state; see :func:`load_network` for ``which`` and what is raised."""
    metrics = read_json(run.child(METRICS)) if exists(run.child(METRICS)) else {}
    return _choose(run.child(CHECKPOINTS), which, metrics)


def restore_model(network: Network, weights: Mapping[str, Tensor], step: int) -> None:
    """Load weights of a checkpoint: its ``model``, or what is ``measured``.

    Raises:
        CheckpointError: keys or shapes differ; names the step.
    """
    try:
        network.net.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"checkpoint at step {step} does not fit model {network.name}: {' '.join(str(error).split())}"
        ) from error


def _choose(parent: Location, which: str, metrics: Mapping[str, Any]) -> Checkpoint:
    if which == "selected" and metrics:
        which = checkpoint_name(int(metrics["selected"]["step"]))
    if which not in ("selected", "last"):
        if which not in list_names(parent):
            known = ", ".join(checkpoint_name(step) for step in complete_steps(parent)) or "none"
            raise CheckpointError(f"no checkpoint {which} in {parent.uri}; there are: {known}")
        return read_checkpoint(parent.child(which), with_optimizer=False)
    checkpoint, problems = read_newest(parent)
    for problem in problems:
        logger.warning("%s; using an older checkpoint", problem)
    if checkpoint is None:
        raise CheckpointError(f"{parent.uri} holds no complete checkpoint yet; train the run first")
    return checkpoint


def _serialise(tensors: Mapping[str, Tensor]) -> bytes:
    # safetensors stores plain row-major memory; clones separate tensors that share storage.
    return safetensors.torch.save({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()})


def _deserialise(folder: Location, name: str, data: bytes) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load(data)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{folder.uri}/{name} is not a safetensors file: {error}") from error


def _parse(folder: Location, name: str, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except ValueError as error:
        raise CheckpointError(f"{folder.uri}/{name} is damaged: not valid JSON") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{folder.uri}/{name} is damaged: not a JSON object")
    return value


def _read_manifest(folder: Location) -> dict[str, Any]:
    """The manifest, checked to be one of this format and for this folder."""
    if not exists(folder.child(MANIFEST)):
        raise CheckpointError(f"{folder.uri} was never completed (no {MANIFEST}); use another checkpoint")
    manifest = _parse(folder, MANIFEST, read_bytes(folder.child(MANIFEST)))
    if manifest.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{folder.uri} has format version {manifest.get('format_version')}, this release reads {FORMAT_VERSION}"
        )
    step, listed = manifest.get("step"), manifest.get("files")
    is_whole = isinstance(listed, dict) and all(
        isinstance(listed.get(name), dict) and {"bytes", "sha256"} <= listed[name].keys()
        for name in (MODEL, OPTIMIZER, STATE)
    )
    if not is_whole or not isinstance(step, int) or not folder.path.endswith(checkpoint_name(step)):
        raise CheckpointError(f"{folder.uri}/{MANIFEST} is damaged: entries are missing or of another checkpoint")
    return manifest


def _verified(folder: Location, name: str, manifest: Mapping[str, Any]) -> bytes:
    """Content of a file that has the size and hash of the manifest."""
    file = folder.child(name)
    if not exists(file):
        raise CheckpointError(f"{folder.uri} is damaged: {name} is missing")
    data, expected = read_bytes(file), manifest["files"][name]
    if len(data) != expected["bytes"]:
        raise CheckpointError(
            f"{folder.uri} is damaged: {name} has {len(data)} bytes, its manifest says {expected['bytes']}"
        )
    if hashlib.sha256(data).hexdigest() != expected["sha256"]:
        raise CheckpointError(f"{folder.uri} is damaged: the content of {name} differs from its manifest")
    return data
