"""One concept layer over one data set: what a worker measures, and what becomes of all parts together.

No files: :mod:`.catalogue_files` stores what is made here, :mod:`raytrain_xai.runners.catalogue` shares it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from raytrain_xai.concept_runs.model import ConceptModel
from raytrain_xai.concepts.catalogue import CatalogueState, observe
from raytrain_xai.concepts.statistics import spatial_size
from raytrain_xai.concepts.trace import ConceptPass, concept_maps, concept_pass, contributions
from raytrain_xai.data.batches import PlannedBatches
from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.data.sampling import full_plan
from raytrain_xai.errors import CheckpointError
from raytrain_xai.types import Batch

BATCH = 32  # images of one forward pass
MAP_PX = 28  # side of a stored map: 14 x 14 tokens or 7 x 7 features say no more
_PAIRS_AT_ONCE = 64  # (image, concept) pairs of one walk to the pixels


@dataclass(frozen=True)
class Examples:
    """E examples, each an image that shows a concept.

    Attributes:
        row: (E,) int64, image in its split.
        concept: (E,) int64.
        contribution: (E,) float32, signed, to the strongest class of the image.
        answer: (E,) int64, that class.
        place: (E, 2) float32 in (0, 1), y and x of the position where the concept is most active.
        size: (E,) float32 in [0, 1], share of the pixels that hold 80 % of the positive part of its map.
        maps: (E, MAP_PX, MAP_PX) uint8, positive part of the contributions of pixels to S, 255 its largest.
    """

    row: Tensor
    concept: Tensor
    contribution: Tensor
    answer: Tensor
    place: Tensor
    size: Tensor
    maps: Tensor


class CatalogueSource:
    """A concept layer and the images it is shown, in one process.

    Args:
        model: with one concept layer or several; the others stay out of the network.
        tap: of the layer.
        stored: split of a data set with the classes of the network.
    """

    def __init__(self, model: ConceptModel, tap: str, stored: StoredSplit) -> None:
        self.model = model
        self.tap = tap
        self.stored = stored
        explainer = model.explainer
        self._images = PlannedBatches(stored, explainer.image_size, shorter=explainer.shorter)
        self._several = stored.info.task == "multilabel"

    @torch.no_grad()
    def observe(self, start: int, stop: int, examples: int) -> CatalogueState:
        """The catalogue of rows ``start`` to ``stop`` of the split, not empty; on the CPU.

        Raises:
            DataError: a stored image is damaged.
            CheckpointError: the network answers with non-finite logits.
        """
        parts: list[CatalogueState] = []
        for first in range(start, stop, BATCH):
            rows = np.arange(first, min(first + BATCH, stop))
            batch, passed = self._forward(rows)
            labels, index = batch.labels, batch.index
            parts.append(observe(passed, self.tap, labels, index, several=self._several, examples=examples))
        return CatalogueState.from_tensors(parts[0].merge(*parts[1:]).to_tensors())

    @torch.no_grad()
    def show(self, row: Sequence[int], concept: Sequence[int]) -> Examples:
        """Trace chosen (image, concept) pairs to the pixels; images in ascending order, repeated for each concept."""
        rows, image = torch.unique(torch.tensor(row), return_inverse=True)
        chosen = torch.tensor(concept)
        parts: list[Examples] = []
        for first in range(0, len(rows), BATCH):
            own = (image >= first) & (image < first + BATCH)
            _, passed = self._forward(rows[first : first + BATCH].numpy())
            pairs = zip((image[own] - first).split(_PAIRS_AT_ONCE), chosen[own].split(_PAIRS_AT_ONCE), strict=True)
            parts += [self._trace(passed, rows[first + at], at, concepts) for at, concepts in pairs]
        names = ("row", "concept", "contribution", "answer", "place", "size", "maps")
        return Examples(*(torch.cat([getattr(part, name) for part in parts]) for name in names))

    def images(self, rows: Sequence[int]) -> Tensor:
        """(B, 3, S, S) uint8, as the network sees them."""
        return self._images[full_plan(np.array(rows, dtype=np.int64))].images

    def _forward(self, rows: np.ndarray) -> tuple[Batch, ConceptPass]:
        batch = self._images[full_plan(rows)].to(self.model.explainer.device)
        passed = concept_pass(self.model.network, {self.tap: self.model.layers[self.tap]}, batch.images)
        if not bool(passed.logits.isfinite().all()):
            raise CheckpointError(
                f"{self.model.origins[self.tap]} answers with non-finite logits; its weights are broken"
            )
        return batch, passed

    def _trace(self, passed: ConceptPass, shown: Tensor, pairs: Tensor, concepts: Tensor) -> Examples:
        device = passed.logits.device
        image, concept = pairs.to(device), concepts.to(device)
        maps = concept_maps(passed, self.tap, concept, image)
        answer = passed.logits.argmax(dim=1)
        contribution = contributions(passed, self.tap, answer)[image, concept]
        size = spatial_size(maps).double() / maps[0].numel()
        return Examples(
            shown, concepts, contribution.float().cpu(), answer[image].cpu(),
            strongest_place(passed, self.tap, image, concept).cpu(), size.float().cpu(), small_maps(maps).cpu(),
        )  # fmt: skip


def strongest_place(passed: ConceptPass, tap: str, image: Tensor, concept: Tensor) -> Tensor:
    """Centre of the position where a concept is most active: (R, 2) float32, y and x as shares of the image.

    Args:
        image, concept: (R,) int64 pairs; the concept is active in the image.
    """
    at = passed.at(tap)
    code, (height, width) = at.code.rows(image), at.size
    own = torch.where(code.indices == concept[:, None, None], code.values, 0).amax(dim=2)
    position = own.argmax(dim=1)
    return torch.stack([(position // width + 0.5) / height, (position % width + 0.5) / width], dim=1).float()


def small_maps(maps: Tensor) -> Tensor:
    """Positive part of maps (R, H, W), averaged down to MAP_PX and scaled to their largest value: uint8."""
    positive = functional.adaptive_avg_pool2d(maps.clamp(min=0)[:, None].float(), MAP_PX)[:, 0]
    most = positive.amax(dim=(1, 2), keepdim=True)
    return torch.where(most > 0, positive / most * 255, 0.0).round().to(torch.uint8)
