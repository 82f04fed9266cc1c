"""How often latents fire, which are dead, which always on; and how long reconstructions are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

ALWAYS_ON = 0.6  # share of vectors above which a latent counts as always on
_KEPT = 0.99  # of the lengths, per step


class LatentUsage(nn.Module):
    """Running counts, kept as buffers so that a checkpoint holds them.

    A latent fires at a vector where its value is positive. A place of a TopK code that is 0, as there are fewer than k
    positive products, does not fire; the published training code counts it (deviation).

    Attributes:
        idle: (K,) int64, vectors seen since the latent last fired.
        fired: (K,) int64, vectors at which it fired since the last :meth:`restart`.
        vectors: () int64, vectors seen since then.
        length, rebuilt: () float64, squared lengths of vectors and of reconstructions, over about the last 100 steps.
    """

    idle: Tensor
    fired: Tensor
    vectors: Tensor
    length: Tensor
    rebuilt: Tensor

    def __init__(self, num_latents: int) -> None:
        super().__init__()
        for name in ("idle", "fired"):
            self.register_buffer(name, torch.zeros(num_latents, dtype=torch.int64))
        self.register_buffer("vectors", torch.zeros((), dtype=torch.int64))
        for name in ("length", "rebuilt"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    def update(self, fired: Tensor, num_vectors: int) -> None:
        """Count a step: ``fired`` (K,) int64 of ``num_vectors`` vectors over all workers."""
        self.idle.add_(num_vectors).masked_fill_(fired > 0, 0)
        self.fired.add_(fired)
        self.vectors.add_(num_vectors)

    def follow(self, length: Tensor, rebuilt: Tensor) -> None:
        """Take in a step's sums of squared lengths, () each."""
        self.length.mul_(_KEPT).add_(length)
        self.rebuilt.mul_(_KEPT).add_(rebuilt)

    @property
    def gain(self) -> Tensor:
        """() float64, factor that makes reconstructions as long as the vectors (root mean square); 1 before a step.

        The least squared error shortens them: of parts that are not found, nothing is put in. The logits of B-cos
        networks grow with the length of the features, so without this factor all classes lose evidence.
        """
        return torch.where(self.rebuilt > 0, (self.length / self.rebuilt).sqrt(), torch.ones_like(self.length))

    def dead(self, after: int) -> Tensor:
        """(M,) int64, latents that did not fire at the last ``after`` vectors. A device sync: call it now and then."""
        return (self.idle >= after).nonzero().flatten()

    def always_on(self, share: float = ALWAYS_ON) -> Tensor:
        """(K,) bool: fired at more than ``share`` of the vectors since the last restart."""
        return self.fired > share * self.vectors

    def restart(self) -> None:
        """Begin to count anew; what is dead stays dead."""
        self.fired.zero_()
        self.vectors.zero_()
