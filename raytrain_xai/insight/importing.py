"""Published dictionaries of Insight / CFM as concept runs.

What is read of their folder: ``ae.pt`` (``W_enc`` (D, K), ``b_enc``, ``W_dec`` (K, D), ``b_dec``, ``k``, ``threshold``,
``group_sizes``), ``config.json`` (kept as it is), ``concept_names.txt`` (a line for each concept), ``C.pth`` and
``D.pth`` (K x K: at how many positions two concepts are active together, and with what sum of values of the first).
``C_normalized.pth``, ``feature_frequencies.pth`` and ``feature_sums.pth`` follow from these. What is in
``top30_patch_activations.pth``, 8 GB of codes without the images they are from, is not read: `insight describe` finds
strongest patches anew.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raytrain_xai.checkpoint import Checkpoint, write_checkpoint
from raytrain_xai.concept_runs.names import MAX_LENGTH, propose
from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.cooccurrence import CoOccurrence
from raytrain_xai.concepts.layer import to_vectors
from raytrain_xai.concepts.matryoshka import MatryoshkaSae
from raytrain_xai.concepts.reconstruction import reconstruction_sums, summarise_reconstruction
from raytrain_xai.concepts.relations import relations
from raytrain_xai.concepts.sparse_sums import SparseSums
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.features.patches import image_size, open_patch_extraction
from raytrain_xai.insight.described import (
    PICTURE_SCHEMA,
    PICTURES,
    Described,
    DescribedSubject,
    TopTokens,
    description_of,
    write_described,
    write_top_tokens,
)
from raytrain_xai.insight.description import NUM_IMAGES, NUM_TOKENS, Description
from raytrain_xai.insight.model import encoder_state, model_fingerprint
from raytrain_xai.insight.observing import write_table
from raytrain_xai.insight_config import InsightRunConfig, MatryoshkaSection
from raytrain_xai.language.encoder import LanguageEncoder, load_encoder
from raytrain_xai.models.weight_files import parse_torch
from raytrain_xai.run_folder import CHECKPOINTS, METRICS, create_run, free_location, write_json
from raytrain_xai.storage import Location, exists, locate, read_bytes

WEIGHTS, ABOUT, NAMES = "ae.pt", "config.json", "concept_names.txt"
TOGETHER, MASSES = "C.pth", "D.pth"
PROBED = 64  # validation images that show whether dictionary and encoder belong together

_SHAPES = {"W_enc": "DK", "b_enc": "K", "W_dec": "KD", "b_dec": "D"}


@dataclass(frozen=True)
class Imported:
    """What an import found.

    Attributes:
        run: address of the run that was written.
        concepts, named: number of concepts, and of those that have a name.
        is_related: whether relations were there.
        kept: of :func:`~raytrain_xai.concepts.reconstruction.summarise_reconstruction` on some validation images, when
            the configuration names data: a share of variance near or below 0 means another encoder.
    """

    run: Location
    concepts: int
    named: int
    is_related: bool
    kept: Mapping[str, float] | None


def import_cfm(source: str, config: InsightRunConfig) -> Imported:
    """Write the concept run ``config.storage``/``config.name`` around a published dictionary.

    Args:
        source: the folder, local or s3://.
        config: names the encoder; its ``sae`` is replaced by what the folder holds.
    Raises:
        CheckpointError: a file of the folder is missing or damaged, or does not fit the others.
        ConfigError: no such encoder, its vectors are of another length, or the name is taken.
        DataError: a data set cannot be read.
    """
    folder = locate(source)
    sae = read_cfm(folder)
    fractions = tuple(size / sae.num_latents for size in sae.group_sizes.tolist())
    section = MatryoshkaSection(latents=sae.num_latents, k=sae.k, group_fractions=fractions)
    config = config.model_copy(update={"sae": section})
    names = _read_names(folder, sae.num_latents)
    seen = _read_co_occurrence(folder, sae)
    free_location(config)
    encoder = load_encoder(config.encoder)
    if encoder.dim != sae.dim:
        raise ConfigError(
            f"{source} is for vectors of {sae.dim} values, those of {config.encoder} have {encoder.dim}; name the "
            "encoder it was trained on"
        )
    kept = _probe(config, encoder, sae) if config.data else None
    at = create_run(config)
    about = {"folder": source, "sha256": _digest(folder), "config": _read_about(folder)}
    state = {
        "step": 0, "epoch": 0, "step_in_epoch": 0, "history": [], "mlflow_id": None, "imported": about,
        **encoder_state(config, encoder),
    }  # fmt: skip
    write_checkpoint(at.child(CHECKPOINTS), Checkpoint(0, sae.state_dict(), {}, state), lambda: None)
    propose(at, names)
    if seen is not None:
        _describe(at, config, encoder, sae, seen)
    write_json(at.child(METRICS), {"selected": {"step": 0, "epoch": 0}, "imported": about})
    return Imported(at, sae.num_latents, len(names), seen is not None, kept)


def read_cfm(folder: Location) -> MatryoshkaSae:
    """The dictionary of a published folder.

    Raises:
        CheckpointError: ``ae.pt`` is missing, damaged, or no Matryoshka autoencoder.
    """
    at = folder.child(WEIGHTS)
    found = _read_tensors(at)
    missing = [name for name in (*_SHAPES, "k", "threshold", "group_sizes") if name not in found]
    if missing:
        raise CheckpointError(
            f"{at.uri} is no Matryoshka autoencoder of CFM: it has no {', '.join(missing)} (it has "
            f"{', '.join(map(str, found)) or 'nothing'})"
        )
    tensors = {name: torch.as_tensor(found[name]) for name in (*_SHAPES, "k", "threshold", "group_sizes")}
    sizes = {"D": len(tensors["b_dec"].flatten()), "K": len(tensors["b_enc"].flatten())}
    for name, letters in _SHAPES.items():
        expected = tuple(sizes[letter] for letter in letters)
        if tuple(tensors[name].shape) != expected:
            raise CheckpointError(f"{at.uri} has {name} of shape {tuple(tensors[name].shape)}, expected {expected}")
    try:
        sae = MatryoshkaSae(sizes["D"], sizes["K"], int(tensors["k"]), tensors["group_sizes"].flatten().tolist())
    except (ConfigError, RuntimeError) as error:
        raise CheckpointError(f"{at.uri} is damaged: {error}") from error
    with torch.no_grad():
        sae.encoder.copy_(tensors["W_enc"].T)
        sae.dictionary.copy_(tensors["W_dec"])
        sae.encoder_bias.copy_(tensors["b_enc"])
        sae.decoder_bias.copy_(tensors["b_dec"])
        sae.threshold.copy_(tensors["threshold"].reshape(()))
    if not all(bool(value.isfinite().all()) for value in sae.parameters()):
        raise CheckpointError(f"{at.uri} holds weights that are not finite")
    return sae


def co_occurrence_of(together: Tensor, masses: Tensor, k: int) -> CoOccurrence:
    """The published matrices as sums over the positions.

    Args:
        together: C (K, K), symmetric; its diagonal is the frequencies.
        masses: D (K, K).
        k: active concepts at a position on average. How many positions there were is not in the files: it is the sum of
            the frequencies over k.
    """
    low, high = together.triu(diagonal=1).nonzero().unbind(dim=1)
    sums = torch.stack([together[low, high], masses[low, high], masses[high, low]], dim=1).double()
    frequency = together.diagonal().round().to(torch.int64)
    positions = torch.tensor(round(int(frequency.sum()) / k))
    pairs = SparseSums(low * len(together) + high, sums)
    return CoOccurrence(positions, frequency, masses.diagonal().double(), pairs)


def _describe(
    at: Location, config: InsightRunConfig, encoder: LanguageEncoder, sae: MatryoshkaSae, seen: CoOccurrence
) -> None:
    """Write relations as `insight describe` does, without patches and pictures, which are not in the files."""
    count, side = sae.num_latents, image_size(config, encoder)
    cells = side // encoder.multiple
    subject = DescribedSubject(
        run=at.uri, fingerprint=model_fingerprint(encoder, sae), concepts=count, data=(), split=config.features.split,
        data_fingerprints=(), image_size=side, shorter=config.eval_resize, size=(cells, cells),
        num_images=math.ceil(int(seen.positions) / cells**2),
    )  # fmt: skip
    none = torch.zeros(count, NUM_TOKENS, dtype=torch.int64)
    sums = Description(
        seen, tokens=none, images=none[:, :NUM_IMAGES], class_positions=torch.zeros(1, dtype=torch.int64),
        on_class=SparseSums(torch.zeros(0, dtype=torch.int64), torch.zeros(0, 2, dtype=torch.float64)),
    )  # fmt: skip
    folder = description_of(at)
    empty = SparseCode(torch.zeros(count, NUM_TOKENS, 1), none[..., None], count)
    write_top_tokens(folder, TopTokens(torch.zeros(count, NUM_TOKENS), none - 1, none - 1, empty))
    write_table(folder.child(PICTURES), PICTURE_SCHEMA.empty_table())
    groups = sae.groups_of(torch.arange(count))
    write_described(Described(folder, subject, (), tuple(sae.group_sizes.tolist()), sums, relations(seen, groups)))


@torch.no_grad()
def _probe(config: InsightRunConfig, encoder: LanguageEncoder, sae: MatryoshkaSae) -> dict[str, float]:
    extraction = open_patch_extraction(config, encoder, "val")
    images = extraction.images(torch.arange(min(PROBED, sum(extraction.shard_rows))).numpy())
    batches = [encoder.patches(part) for part in images.split(extraction.batch_size)]
    first, *others = [reconstruction_sums(sae, to_vectors(patches)) for patches in batches]
    return summarise_reconstruction(first.merge(*others))


def _read_names(folder: Location, count: int) -> dict[int, str]:
    """Concept -> name; empty where there is no list."""
    at = folder.child(NAMES)
    if not exists(at):
        return {}
    try:
        lines = read_bytes(at).decode().splitlines()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{at.uri} is not UTF-8 text") from error
    if len(lines) != count:
        raise CheckpointError(f"{at.uri} has {len(lines)} lines for {count} concepts; expected a line for each")
    return {concept: line.strip()[:MAX_LENGTH] for concept, line in enumerate(lines) if line.strip()}


def _read_co_occurrence(folder: Location, sae: MatryoshkaSae) -> CoOccurrence | None:
    """None where the folder has neither of the two matrices."""
    files = [folder.child(TOGETHER), folder.child(MASSES)]
    if not any(exists(at) for at in files):
        return None
    found: list[Tensor] = []
    for at in files:
        matrix = _parsed(at)
        if not isinstance(matrix, Tensor) or tuple(matrix.shape) != (sae.num_latents, sae.num_latents):
            raise CheckpointError(f"{at.uri} is no matrix of {sae.num_latents} x {sae.num_latents} concepts")
        found.append(matrix)
    return co_occurrence_of(found[0], found[1], sae.k)


def _read_about(folder: Location) -> Any:
    """``config.json`` as it is; None without one."""
    at = folder.child(ABOUT)
    if not exists(at):
        return None
    try:
        return json.loads(read_bytes(at))
    except ValueError as error:
        raise CheckpointError(f"{at.uri} is damaged: not valid JSON") from error


def _read_tensors(at: Location) -> Mapping[str, Any]:
    found = _parsed(at)
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{at.uri} holds no state dict (found {type(found).__name__})")
    return found


def _parsed(at: Location) -> Any:
    if not exists(at):
        raise CheckpointError(f"{at.uri} is missing; give the folder that holds {WEIGHTS} and, with it, {NAMES} ...")
    return parse_torch(read_bytes(at), at.uri)


def _digest(folder: Location) -> str:
    return hashlib.sha256(read_bytes(folder.child(WEIGHTS))).hexdigest()
