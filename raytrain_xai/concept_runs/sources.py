"""Sets of concepts at one tap of a network, all looked at in one way: those of a concept layer, and baselines.

- ``ours``: activation S_k and positive pixel attribution of S_k, see :mod:`raytrain_xai.concepts.trace`;
- ``channels``: every channel of the map is a concept, u := F; activation = sum over positions (may be negative, then
  the channel counts as absent), attribution as for ours (arXiv 2510.25512, section 4.3);
- ``nmf``, ``pca``: the map as coefficients times few directions that were fitted to other images; attribution = map of
  the coefficients, brought to the image bilinearly (as for CRAFT, Fel et al., CVPR 2023).

Non-negative factors need a non-negative map: its positive part is taken. A principal direction has no sign: its
positive and its negative side are two concepts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate, one_hot

from raytrain_xai.attribution.tapped import contract_channels
from raytrain_xai.concepts.layer import ConceptLayer, to_map, to_vectors
from raytrain_xai.concepts.trace import activations, places_of
from raytrain_xai.errors import ConfigError
from raytrain_xai.models.linearise import Pullback, linearise_chain, take_rows
from raytrain_xai.models.network import Network

Baseline = Literal["channels", "nmf", "pca"]
BASELINES: tuple[Baseline, ...] = ("channels", "nmf", "pca")
_NMF_ITERATIONS = 200  # over all vectors at most; a few dozen are enough for all digits that count


@dataclass(frozen=True)
class TapView:
    """A batch at a tap.

    Attributes:
        encoded: (B, 6, H, W) network input.
        features: (B, D, h, w).
        walk: from a gradient at the features back to the network input.
    """

    encoded: Tensor
    features: Tensor
    walk: Pullback


@dataclass(frozen=True)
class Seen:
    """Concepts in a batch.

    Attributes:
        activation: (B, K) float, S of each concept; not positive: absent.
        maps: (concept (R,), rows (R,)) int64 -> (R, H, W) float, >= 0, where each comes from.
    """

    activation: Tensor
    maps: Callable[[Tensor, Tensor], Tensor]


class ConceptSource(Protocol):
    """A set of concepts.

    Attributes:
        num_concepts: K.
    """

    @property
    def num_concepts(self) -> int: ...

    def __call__(self, view: TapView) -> Seen:
        """Look for the concepts in a batch."""
        ...


def view_at(network: Network, tap: str, images: Tensor) -> TapView:
    """Run a network up to a tap.

    Args:
        network: B-cos, in evaluation mode.
        tap: see :meth:`Network.depth`.
        images: (B, 3, H, W) uint8 on its device.
    """
    encoded = network.encode(images)
    features, walk = linearise_chain(network.stages[: network.depth(tap)], encoded)
    return TapView(encoded, features, walk)


@dataclass(frozen=True)
class LayerConcepts:
    """Those of a concept layer."""

    layer: ConceptLayer

    @property
    def num_concepts(self) -> int:
        """K."""
        return self.layer.sae.num_latents

    def __call__(self, view: TapView) -> Seen:
        """See :class:`ConceptSource`."""
        size = (view.features.shape[2], view.features.shape[3])
        code = self.layer.encode(view.features)

        def maps(concept: Tensor, rows: Tensor) -> Tensor:
            own = code.rows(rows)
            return _pixels(view, self.layer.features_gradient(places_of(own, concept), own, size), rows)

        return Seen(activations(code), maps)


@dataclass(frozen=True)
class Channels:
    """Every channel of the map."""

    num_concepts: int

    def __call__(self, view: TapView) -> Seen:
        """See :class:`ConceptSource`."""

        def maps(concept: Tensor, rows: Tensor) -> Tensor:
            seed = one_hot(concept, self.num_concepts).to(view.features.dtype)[:, :, None, None]
            return _pixels(view, seed.expand(-1, -1, *view.features.shape[2:]).contiguous(), rows)

        return Seen(view.features.sum(dim=(2, 3)), maps)


@dataclass(frozen=True)
class Factors:
    """Directions fitted to feature vectors; picklable.

    Attributes:
        kind: nmf or pca.
        directions: (r, D) float32; nmf: >= 0; pca: of length 1.
        mean: (D,) float32, taken off before the projection; zeros for nmf.
    """

    kind: Literal["nmf", "pca"]
    directions: Tensor
    mean: Tensor

    @property
    def num_concepts(self) -> int:
        """r for nmf, 2 r for pca."""
        return len(self.directions) * (2 if self.kind == "pca" else 1)

    def coefficients(self, vectors: Tensor) -> Tensor:
        """(N, D) -> (N, K) float, >= 0."""
        if self.kind == "pca":
            projected = (vectors - self.mean.to(vectors)) @ self.directions.to(vectors).T
            return torch.cat([projected.clamp(min=0), (-projected).clamp(min=0)], dim=1)
        positive = vectors.clamp(min=0).float().cpu().numpy()
        with _sklearn() as sklearn:
            found, _, _ = sklearn.non_negative_factorization(
                positive, H=self.directions.numpy(), n_components=len(self.directions), init="custom", update_H=False,
                max_iter=_NMF_ITERATIONS,
            )  # fmt: skip
        return torch.from_numpy(found).to(vectors)

    def __call__(self, view: TapView) -> Seen:
        """See :class:`ConceptSource`."""
        size = (view.features.shape[2], view.features.shape[3])
        vectors = to_vectors(view.features)
        code = self.coefficients(vectors.flatten(0, 1)).unflatten(0, vectors.shape[:2])
        grid = to_map(code, size)

        def maps(concept: Tensor, rows: Tensor) -> Tensor:
            chosen = grid[rows, concept][:, None]
            return interpolate(chosen, size=view.encoded.shape[2:], mode="bilinear", align_corners=False)[:, 0]

        return Seen(grid.sum(dim=(2, 3)), maps)


def fit_factors(kind: Literal["nmf", "pca"], vectors: Tensor, num_components: int, *, seed: int = 0) -> Factors:
    """Fit directions to feature vectors.

    Args:
        kind: ``pca``: directions of largest variance; ``nmf``: scikit-learn's mini-batch factorisation of the positive
            part, from a random start.
        vectors: (N, D) float.
        num_components: r, at most min(N, D).
        seed: of the random start.
    Raises:
        ConfigError: too many components, no positive value for nmf, or scikit-learn is not installed.
    """
    most = min(vectors.shape)
    if not 1 <= num_components <= most:
        raise ConfigError(f"{kind} of {tuple(vectors.shape)} vectors has 1 to {most} components, got {num_components}")
    if kind == "pca":
        mean = vectors.double().mean(dim=0)
        centred = vectors.double() - mean
        _, axes = torch.linalg.eigh(centred.T @ centred)  # by rising variance
        return Factors(kind, axes.T.flip(0)[:num_components].float().cpu(), mean.float().cpu())
    positive = vectors.clamp(min=0).float().cpu()
    if not bool(positive.any()):
        raise ConfigError("nmf needs positive features, this map has none; take pca or channels")
    with _sklearn() as sklearn:
        model = sklearn.MiniBatchNMF(
            n_components=num_components, init="random", batch_size=min(1024, len(positive)), random_state=seed,
            max_iter=_NMF_ITERATIONS,
        )  # fmt: skip
        model.fit(positive.numpy())
    directions = torch.from_numpy(np.asarray(model.components_, dtype=np.float32))
    return Factors(kind, directions, torch.zeros(vectors.shape[1]))


def _pixels(view: TapView, g: Tensor, rows: Tensor) -> Tensor:
    """Positive contribution of every pixel to what ``g`` (R, D, h, w) weights at the tap."""
    return contract_channels(take_rows(view.encoded, rows), view.walk(g, rows)).clamp(min=0)


@contextmanager
def _sklearn() -> Generator[Any]:
    """Its matrix factorisations, without the warning that the last digits could still change."""
    try:
        from sklearn import decomposition
        from sklearn.exceptions import ConvergenceWarning
    except ModuleNotFoundError as error:
        raise ConfigError("the nmf baseline needs scikit-learn; pip install 'raytrain-xai[benchmark]'") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield decomposition
