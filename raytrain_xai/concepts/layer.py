"""The concept layer: the map at a tap replaced by its sparse reconstruction."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from raytrain_xai.concepts.code import SparseCode, combine, project
from raytrain_xai.concepts.sae import SparseAutoencoder
from raytrain_xai.models.chain import DynamicLinear
from raytrain_xai.models.linearise import Pullback, linearise
from raytrain_xai.models.network import Network


class ConceptLayer(DynamicLinear):
    """F (B, D, h, w) -> V·select(W F) at every position; what the code does not hold is lost, there is no error term.

    For fixed selection the layer is linear without a constant, so whatever follows is explained by its code alone.
    """

    def __init__(self, sae: SparseAutoencoder) -> None:
        super().__init__()
        self.sae = sae

    def encode(self, features: Tensor) -> SparseCode:
        """(B, D, h, w) -> code of the P = h·w positions, row by row: (B, P, k)."""
        return self.sae.encode(to_vectors(features))

    def decode(self, code: SparseCode, size: tuple[int, int]) -> Tensor:
        """Code (B, P, k) of a map of ``size`` -> (B, D, h, w)."""
        return to_map(self.sae.decode(code), size)

    def code_gradient(self, g: Tensor, code: SparseCode) -> Tensor:
        """Gradient with respect to the values of a code: g at the reconstruction (R, D, h, w), code of the same rows.

        Returns:
            (R, P, k).
        """
        return project(to_vectors(g), code.indices, self.sae.dictionary)

    def features_gradient(self, places: Tensor, code: SparseCode, size: tuple[int, int]) -> Tensor:
        """Gradient at the features for a gradient at the values: places (R, P, k) -> (R, D, h, w).

        Only places with a positive value pass it on: the others lie outside of the selection.
        """
        active = places * (code.values > 0)
        return to_map(combine(active, code.indices, self.sae.encoder), size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, D, h, w)."""
        return self.decode(self.encode(x), (x.shape[2], x.shape[3]))


def with_concepts(network: Network, layers: Mapping[str, ConceptLayer]) -> Network:
    """The same network, its parameters shared, with a concept layer behind each of the given taps.

    Taps keep their values: that of a replaced tap is what its concept layer receives.

    Raises:
        ConfigError: no such tap; the message lists them.
    """
    at = {network.depth(layer): layers[layer] for layer in layers}
    stages: list = []
    taps: dict[str, int] = {}
    for depth in range(len(network.stages) + 1):
        taps |= {name: len(stages) for name, below in network.taps.items() if below == depth}
        if depth in at:
            stages.append(at[depth])
        stages += network.stages[depth : depth + 1]
    plugged = Network(
        network.net, encode=network.encoder, stages=stages, taps=taps, name=network.name,
        num_classes=network.num_classes, is_bcos=network.is_bcos, head=network.head, frozen_norms=network.frozen_norms,
    )  # fmt: skip
    return plugged.train(network.training)


def to_vectors(features: Tensor) -> Tensor:
    """(B, D, h, w) -> (B, h·w, D), positions row by row."""
    return features.flatten(2).transpose(1, 2)


def to_map(vectors: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, h·w, D) -> (B, D, h, w)."""
    return vectors.transpose(1, 2).reshape(vectors.shape[0], vectors.shape[2], *size)


@linearise.register(ConceptLayer)
def _(module: ConceptLayer, x: Tensor) -> tuple[Tensor, Pullback]:
    size = (x.shape[2], x.shape[3])
    code = module.encode(x)

    def pullback(g: Tensor, rows: Tensor | None) -> Tensor:
        explained = code.rows(rows)
        return module.features_gradient(module.code_gradient(g, explained), explained, size)

    return module.decode(code, size), pullback
