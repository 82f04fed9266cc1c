"""One training step of a sentence decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from raytrain_xai.captioning.decoder import SentenceDecoder
from raytrain_xai.captioning.words import PAD
from raytrain_xai.concepts.workers import ALONE, Workers


@dataclass(frozen=True)
class CaptionStep:
    """What a step computed, over all workers.

    Attributes:
        gradients: parameter name -> gradient of the mean loss of a word.
        sums: ``loss`` (over words), ``words`` and ``captions``, () each.
    """

    gradients: dict[str, Tensor]
    sums: dict[str, Tensor]


def blurred(vectors: Tensor, noise: Tensor) -> Tensor:
    """Unit vectors (B, D) moved by noise (B, D) and put back to length 1.

    Nukrai et al. 2022 (CapDec) add noise and do not normalise; the vectors that the decoder reads in use have length 1.
    """
    return functional.normalize(vectors + noise, dim=1)


def caption_step(decoder: SentenceDecoder, vectors: Tensor, tokens: Tensor, *, workers: Workers = ALONE) -> CaptionStep:
    """Gradients of the mean negative log-probability of a word, over the captions of all workers. A collective.

    Args:
        vectors: (B, D) of this worker's captions.
        tokens: (B, L + 1) int64; see :meth:`SentenceDecoder.log_probs`.
    """
    loss = -decoder.log_probs(vectors, tokens).sum()
    names, parameters = zip(*decoder.named_parameters(), strict=True)
    own = torch.autograd.grad(loss, parameters)
    counts = torch.stack([loss.detach(), (tokens[:, 1:] != PAD).sum(), loss.new_tensor(len(tokens))])
    flat = workers.sum(torch.cat([counts, *(gradient.flatten() for gradient in own)]))  # one reduction
    counts, flat = flat[:3], flat[3:] / flat[1]
    parts = flat.split([parameter.numel() for parameter in parameters])
    gradients = {name: part.view_as(p) for name, part, p in zip(names, parts, parameters, strict=True)}
    return CaptionStep(gradients, {"loss": counts[0], "words": counts[1], "captions": counts[2]})
