"""Sentences as numbers, word by word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from raytrain_xai.errors import ConfigError

PAD, START, END = 0, 1, 2
_SPECIAL = ("<pad>", "<start>", "<end>")
_WORD = re.compile(r"[^\W_]+(?:['’.&-][^\W_]+)*|,")  # noqa: RUF001 - typographic apostrophes are in use


def split_words(sentence: str) -> tuple[str, ...]:
    """Lower-case words of a sentence; a comma is a word, other punctuation is left out."""
    return tuple(_WORD.findall(sentence.lower()))


def join_words(words: Sequence[str]) -> str:
    """Inverse of :func:`split_words`, up to case and punctuation."""
    return " ".join(words).replace(" ,", ",")


@dataclass(frozen=True)
class WordTable:
    """All words that a decoder can say.

    Attributes:
        words: different ones; word i has number i + 3, after padding, start and end.
    """

    words: tuple[str, ...]

    @classmethod
    def of(cls, sentences: Iterable[str]) -> WordTable:
        """The words of some sentences, in alphabetical order."""
        return cls(tuple(sorted({word for sentence in sentences for word in split_words(sentence)})))

    @property
    def size(self) -> int:
        """Numbers in use, the special ones among them."""
        return len(_SPECIAL) + len(self.words)

    @cached_property
    def _number(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words, start=len(_SPECIAL))}

    def encode(self, captions: Sequence[Sequence[str]]) -> Tensor:
        """Words of B captions -> (B, L) int64 on the CPU: start, words, end, then padding.

        Raises:
            ConfigError: a word that is not in the table.
        """
        unknown = sorted({word for words in captions for word in words} - self._number.keys())
        if unknown:
            raise ConfigError(
                f"{', '.join(unknown[:5])}: not among the {len(self.words)} words that this decoder learned"
            )
        rows = [[START, *(self._number[word] for word in words), END] for words in captions]
        width = max(map(len, rows))
        return torch.tensor([row + [PAD] * (width - len(row)) for row in rows], dtype=torch.int64)

    def decode(self, tokens: Tensor) -> list[tuple[str, ...]]:
        """(B, L) int64 -> words up to the end of each caption, without special ones."""
        names = (*_SPECIAL, *self.words)
        captions: list[tuple[str, ...]] = []
        for row in tokens.tolist():
            own = row[: row.index(END)] if END in row else row
            captions.append(tuple(names[token] for token in own if token >= len(_SPECIAL)))
        return captions
