"""A small transformer that turns a vector of a text space into a sentence.

The vector becomes a few prefix positions before the words, as in ClipCap (Mokady et al. 2021, arXiv 2111.09734); the
decoder is trained on texts alone, whose vectors are blurred by noise, as in CapDec (Nukrai et al. 2022, arXiv
2211.00575), so that it also reads vectors of images that lie near those of texts. In use, a vector is first replaced by
a mean of vectors of sentences that are like it, as in DeCap (Li et al. 2023, arXiv 2303.03032): what a sentence can say
of an image stays, what no sentence is about goes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from raytrain_xai.captioning.words import END, PAD, START
from raytrain_xai.errors import ConfigError


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a decoder.

    Attributes:
        dim: D of the vectors it reads.
        num_words: numbers of its :class:`~raytrain_xai.captioning.words.WordTable`.
        width: of its hidden vectors, a multiple of ``heads``.
        layers: transformer blocks.
        heads: of their attention.
        prefix: positions that the vector becomes.
        max_words: longest caption, its end included.
        memory: M, vectors of sentences that are kept.
        temperature: of the softmax over their cosines; the smaller, the fewer of them matter.
    """

    dim: int
    num_words: int
    width: int
    layers: int
    heads: int
    prefix: int
    max_words: int
    memory: int
    temperature: float


class SentenceDecoder(nn.Module):
    """Probabilities of the next word, given a vector and the words so far.

    Attributes:
        memory: (M, D) of unit length; not trained.
    """

    memory: Tensor

    def __init__(self, shape: DecoderShape) -> None:
        """
        Raises:
            ConfigError: ``width`` is no multiple of ``heads``.
        """
        super().__init__()
        if shape.width % shape.heads:
            raise ConfigError(f"decoder.width {shape.width} is no multiple of decoder.heads {shape.heads}")
        self.shape = shape
        self.read = nn.Linear(shape.dim, shape.prefix * shape.width)
        self.words = nn.Embedding(shape.num_words, shape.width)
        self.places = nn.Parameter(torch.zeros(shape.prefix + shape.max_words, shape.width))
        self.blocks = nn.ModuleList(_Block(shape.width, shape.heads) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.register_buffer("memory", torch.zeros(shape.memory, shape.dim))
        nn.init.normal_(self.words.weight, std=shape.width**-0.5)  # also the output: logits of order 1
        nn.init.normal_(self.places, std=0.02)

    def forward(self, vectors: Tensor, tokens: Tensor) -> Tensor:
        """Logits of the word that follows each of some words.

        Args:
            vectors: (B, D) float of unit length.
            tokens: (B, L) int64 that begin with START, L <= ``max_words``.
        Returns:
            (B, L, V) float.
        """
        prefix = self.read(vectors).unflatten(1, (self.shape.prefix, self.shape.width))
        x = torch.cat([prefix, self.words(tokens)], dim=1)
        x = x + self.places[: x.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, self.shape.prefix :]) @ self.words.weight.T

    def recall(self, vectors: Tensor) -> Tensor:
        """unit(Σ_m softmax_m(v·t_m / temperature) t_m): (B, D) of unit length -> (B, D), differentiable."""
        weights = (vectors @ self.memory.T / self.shape.temperature).softmax(dim=1)
        return functional.normalize(weights @ self.memory, dim=1)

    def log_probs(self, vectors: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities of the words of captions; differentiable in the vectors.

        Args:
            vectors: (B, D) float of unit length.
            tokens: (B, L + 1) int64, start, words, end, padding.
        Returns:
            (B, L) float, <= 0, natural logarithm; of every word and of the end, 0 at padding.
        """
        target = tokens[:, 1:]
        logits = self(vectors, tokens[:, :-1])
        loss = functional.cross_entropy(logits.transpose(1, 2), target, ignore_index=PAD, reduction="none")
        return -loss

    @torch.no_grad()
    def greedy(self, vectors: Tensor) -> Tensor:
        """The likeliest word at every step: (B, D) -> (B, max_words + 1) int64, start, words, end, padding.

        Every step reads all words so far again: captions have some ten words, and a cache of keys and values would
        save less than it costs to explain. The number of steps is fixed, so the host never waits for the device.
        """
        tokens = torch.full((len(vectors), 1), START, dtype=torch.int64, device=vectors.device)
        is_over = torch.zeros(len(vectors), dtype=torch.bool, device=vectors.device)
        for _ in range(self.shape.max_words - 1):
            logits = self(vectors, tokens)[:, -1]
            logits[:, [PAD, START]] = -torch.inf
            word = logits.argmax(dim=1).masked_fill(is_over, PAD)
            is_over = is_over | (word == END)
            tokens = torch.cat([tokens, word[:, None]], dim=1)
        last = torch.where(is_over, PAD, END)  # a caption that is cut off ends as well
        return torch.cat([tokens, last[:, None]], dim=1)


class _Block(nn.Module):
    """Pre-norm transformer block with causal attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, W) -> (B, T, W)."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)  # (B, heads, T, W / heads)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))
