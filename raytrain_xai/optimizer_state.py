"""The state of an optimiser as named tensors, to be stored without pickle and put back bit by bit."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from raytrain_xai.errors import CheckpointError


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State of an optimiser as flat tensors ``<parameter>/<quantity>``, without pickle.

    Hyper-parameters are not part of it: they come from the configuration and the step.

    Args:
        optimizer: any optimiser whose state per parameter consists of tensors (Adam, AdamW, SGD).
        names: ``dict(net.named_parameters())`` of the optimised network.
    """
    return {
        f"{name}/{quantity}": value.detach()
        for name, parameter in names.items()
        for quantity, value in optimizer.state.get(parameter, {}).items()
        if value is not None  # SGD without momentum keeps an empty slot
    }


def load_optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what :func:`optimizer_tensors` returned; the next step is then bitwise the same.

    Raises:
        CheckpointError: a tensor belongs to no parameter or has another shape.
    """
    for key, value in tensors.items():
        name, _, quantity = key.rpartition("/")
        parameter = names.get(name)
        if parameter is None or value.shape not in (parameter.shape, torch.Size([])):
            raise CheckpointError(
                f"optimiser state {key} {tuple(value.shape)} fits no parameter of this model; resume with the model "
                "that wrote the checkpoint"
            )
        if value.shape == parameter.shape:
            # Keeps the memory format of the parameter (channels last), which the fused updates rely on.
            value = torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)
        optimizer.state[parameter][quantity] = value
