"""Decoders in use: what writes captions from vectors, and where it comes from.

``embedded`` is the decoder that comes with the package, for the space of the embedded encoder; otherwise the address of
a run of ``job: caption``. Any other object with the methods of :class:`CaptionDecoder` does as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Protocol

import safetensors.torch
import torch
from torch import Tensor

from raytrain_xai.captioning.corpus import text_vectors
from raytrain_xai.captioning.decoder import DecoderShape, SentenceDecoder
from raytrain_xai.captioning.words import WordTable, join_words
from raytrain_xai.checkpoint import read_checkpoint_of
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.language.encoder import LanguageEncoder
from raytrain_xai.run_folder import CONFIG, open_run, read_config
from raytrain_xai.storage import Location, exists, locate, write_bytes

EMBEDDED = "embedded"
WEIGHTS, ABOUT = "caption_decoder.safetensors", "caption_decoder.json"
_SAME = 0.999  # cosine of the vectors of a probe; half precision alone costs less than 1e-6


class CaptionDecoder(Protocol):
    """Writes a caption from a vector of a text space."""

    @property
    def dim(self) -> int:
        """D of the vectors it reads."""
        ...

    def write(self, vectors: Tensor) -> list[tuple[str, ...]]:
        """(B, D) float of unit length -> words of B captions."""
        ...

    def log_probs(self, vectors: Tensor, captions: Sequence[Sequence[str]]) -> Tensor:
        """Log-probabilities of the words of captions, differentiable in the vectors.

        Args:
            vectors: (B, D) float of unit length.
            captions: words of B captions.
        Returns:
            (B, L) float, <= 0, natural logarithm, L words of the longest caption; 0 beyond the end of a shorter one.
        """
        ...

    def text(self, words: Sequence[str]) -> str:
        """Words as one line."""
        ...


@dataclass(frozen=True)
class TrainedDecoder:
    """A :class:`CaptionDecoder` that a caption run trained.

    Attributes:
        network: in eval mode, without gradients of its weights.
        words: what it can say.
        about: JSON values, that of its :class:`~raytrain_xai.captioning.corpus.Corpus`.
        origin: where it was read from.
    """

    network: SentenceDecoder
    words: WordTable
    about: Mapping[str, Any]
    origin: str

    @property
    def dim(self) -> int:
        """See :class:`CaptionDecoder`."""
        return self.network.shape.dim

    def write(self, vectors: Tensor) -> list[tuple[str, ...]]:
        """See :class:`CaptionDecoder`; the likeliest word at every step."""
        return self.words.decode(self.network.greedy(self.network.recall(vectors)))

    def log_probs(self, vectors: Tensor, captions: Sequence[Sequence[str]]) -> Tensor:
        """See :class:`CaptionDecoder`.

        Raises:
            ConfigError: a word that it did not learn, or a caption longer than it can write.
        """
        tokens = self.words.encode(captions).to(vectors.device)
        longest = self.network.shape.max_words
        if tokens.shape[1] - 1 > longest:
            raise ConfigError(f"a caption has {tokens.shape[1] - 2} words; this decoder writes {longest - 1} at most")
        num_words = max(map(len, captions))
        lengths = torch.tensor([len(words) for words in captions], device=vectors.device)
        is_word = torch.arange(num_words, device=vectors.device) < lengths[:, None]
        log_probs = self.network.log_probs(self.network.recall(vectors), tokens)
        return log_probs[:, :num_words] * is_word  # the end is no word

    def text(self, words: Sequence[str]) -> str:
        """See :class:`CaptionDecoder`."""
        return join_words(words)


def decoder_state(shape: DecoderShape, about: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of a decoder beside its weights; ``about`` is that of its corpus."""
    return {"shape": asdict(shape), "about": dict(about)}


def load_decoder(text: str, encoder: LanguageEncoder) -> TrainedDecoder:
    """The decoder that a text names, on the device of the encoder whose vectors it is to read.

    A decoder was trained on texts, so it fits every encoder with the same text side, whatever its images.

    Raises:
        ConfigError: nothing of this name, or the decoder of another space.
        CheckpointError: its files are damaged, or there is no checkpoint yet.
    """
    if text == EMBEDDED:
        folder = files("raytrain_xai.captioning") / "assets"
        weights = safetensors.torch.load((folder / WEIGHTS).read_bytes())
        state = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    else:
        weights, state = _read_run(text)
    decoder = restore_decoder(weights, state, text)
    _check_space(decoder, encoder)
    decoder.network.to(encoder.device)
    return decoder


def pack_decoder(run: str, dest: Location) -> None:
    """Write the decoder of a run as the package holds it: float16 weights and their description.

    Raises:
        ConfigError, CheckpointError: not a caption run, or it has no checkpoint.
    """
    weights, state = _read_run(run)
    halves = {name: value.half().contiguous() for name, value in weights.items()}
    write_bytes(dest.child(WEIGHTS), safetensors.torch.save(halves))
    write_bytes(dest.child(ABOUT), json.dumps(state, sort_keys=True).encode() + b"\n")


def _read_run(run: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and :func:`decoder_state` of the selected checkpoint."""
    if not run.strip() or not exists(locate(run).child(CONFIG)):
        raise ConfigError(f"no caption decoder {run!r}; give {EMBEDDED} or the folder of a run of `job: caption`")
    at = open_run(run)
    if (job := read_config(at).get("job", "classify")) != "caption":
        raise ConfigError(f"{run} is a run of job {job}, a caption decoder is one of job caption")
    checkpoint = read_checkpoint_of(at)
    return checkpoint.model, checkpoint.state["decoder"]


def restore_decoder(weights: Mapping[str, Tensor], state: Mapping[str, Any], origin: str) -> TrainedDecoder:
    """A decoder from its weights, of any precision, and :func:`decoder_state`.

    Raises:
        CheckpointError: they do not fit.
    """
    try:
        network = SentenceDecoder(DecoderShape(**state["shape"]))
        network.load_state_dict({name: value.float() for name, value in weights.items()})
        words = WordTable(tuple(state["about"]["words"]))
    except (KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(f"the caption decoder {origin} is damaged: {' '.join(str(error).split())}") from error
    network.eval().requires_grad_(False)
    return TrainedDecoder(network, words, state["about"], origin)


def _check_space(decoder: TrainedDecoder, encoder: LanguageEncoder) -> None:
    trained_on, probes = decoder.about["encoder"]["name"], decoder.about["probes"]
    if decoder.dim != encoder.dim:
        raise ConfigError(
            f"the caption decoder {decoder.origin} reads vectors of {decoder.dim} dimensions (encoder {trained_on}), "
            f"{encoder.name} has {encoder.dim}; train one with `job: caption` and encoder: {encoder.name}"
        )
    cosines = (text_vectors(encoder, list(probes)).cpu() * torch.tensor(list(probes.values()))).sum(dim=1)
    if float(cosines.min()) < _SAME:
        raise ConfigError(
            f"the caption decoder {decoder.origin} learned the space of {trained_on}, where the vectors of texts are "
            f"not those of {encoder.name} (cosine {float(cosines.min()):.3f}); train one with `job: caption` and "
            f"encoder: {encoder.name}"
        )
