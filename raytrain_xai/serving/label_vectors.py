"""Text vectors of labels that requests name, kept while they are asked for again."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from raytrain_xai.language.encoder import LanguageEncoder
from raytrain_xai.language.prompts import embed_terms, find_family

KEPT = 4096  # of 512 dimensions: 8 MB


class LabelVectors:
    """Vectors of texts; the one used longest ago leaves when there are too many. Safe for threads, one at a time.

    Args:
        encoder: of D dimensions.
        family: templates that every text is put into.
    """

    def __init__(self, encoder: LanguageEncoder, family: str = "plain") -> None:
        self._encoder = encoder
        self._templates = find_family(family)
        self._encoding = threading.Lock()
        self._known: OrderedDict[str, Tensor] = OrderedDict()

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """M texts -> (M, D) float32 of unit length on the device of the encoder; all new ones are encoded together.

        Raises:
            ConfigError: an empty text.
        """
        with self._encoding:
            return self._vectors(texts)

    def _vectors(self, texts: Sequence[str]) -> Tensor:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._known |= zip(new, embed_terms(self._encoder, new, self._templates), strict=True)
        for text in texts:
            self._known.move_to_end(text)
        if not texts:
            return torch.empty(0, self._encoder.dim, device=self._encoder.device)
        found = torch.stack([self._known[text] for text in texts])
        while len(self._known) > KEPT:
            self._known.popitem(last=False)
        return found
