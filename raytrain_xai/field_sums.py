"""Sums whose parts merge field by field, as every worker and every batch makes one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class FieldSums:
    """Base of frozen dataclasses of tensors: the sum of two of them is the sum of each field."""

    def merge(self, *others: Self) -> Self:
        """This part and ``others`` together."""
        parts = [state.to_tensors() for state in (self, *others)]
        return type(self)(**{name: torch.stack([part[name] for part in parts]).sum(dim=0) for name in parts[0]})

    def to_tensors(self) -> dict[str, Tensor]:
        """The fields by name, to be sent to another worker."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Self:
        """Inverse of :meth:`to_tensors`."""
        return cls(**tensors)
