"""Running sums of the training of an autoencoder, kept on the device and read once per log interval."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from raytrain_xai.runners.pace import Pace
from raytrain_xai.runners.sae_session import SaeSession

SUMS = ("loss", "squared_error", "aux", "sparsity", "active", "variance", "vectors")
"""What a step adds up; see :class:`raytrain_xai.concepts.step.SaeStep`."""


class ConceptMeter:
    """Means since the last reading.

    Args:
        session: its firing counts are read as well.
        first_step: where this attempt starts.
        num_steps: where the run ends.
    """

    def __init__(self, session: SaeSession, first_step: int, num_steps: int) -> None:
        self.num_steps = num_steps
        self.pace = Pace(first_step, num_steps)
        self._session = session
        self._totals = torch.zeros(len(SUMS), dtype=torch.float64, device=session.worker.device)

    def add(self, sums: Mapping[str, Tensor]) -> None:
        """Add one optimiser step; no host sync."""
        self._totals += torch.stack([sums[name].double() for name in SUMS])

    def read(self, step: int) -> dict[str, float]:
        """Means over the vectors since the last reading, at optimiser step ``step``. A collective.

        Returns:
            loss and its parts squared_error, aux and sparsity (without their weights) per vector; variance_explained;
            l0 (active latents at a vector); dead and always_on (latents; the latter in this epoch so far);
            vectors_per_s over all workers; input_wait and seconds_left, see :class:`~raytrain_xai.runners.pace.Lap`.
        """
        session, usage = self._session, self._session.usage
        counts = torch.stack([session.dead().new_tensor(len(session.dead())), usage.always_on().sum()])
        dead, always_on = session.shards.sum(counts).tolist()
        totals = dict(zip(SUMS, self._totals.tolist(), strict=True))
        self._totals = torch.zeros_like(self._totals)
        vectors, lap = totals["vectors"], self.pace.lap(step)
        values = {name: totals[name] / vectors for name in ("loss", "squared_error", "aux", "sparsity")}
        explained = 1 - totals["squared_error"] / totals["variance"] if totals["variance"] > 0 else 0.0
        return {
            **values, "variance_explained": explained, "l0": totals["active"] / vectors, "dead": dead,
            "always_on": always_on, "vectors_per_s": vectors / lap.elapsed_s, "input_wait": lap.input_wait,
            "seconds_left": lap.seconds_left,
        }  # fmt: skip
