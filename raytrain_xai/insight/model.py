"""A language-aligned encoder with its trained concepts: what tasks, descriptions, names and services start from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from raytrain_xai.checkpoint import read_checkpoint_of
from raytrain_xai.concept_runs.names import read_names
from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.groups import group_sizes
from raytrain_xai.concepts.layer import to_map, to_vectors
from raytrain_xai.concepts.matryoshka import MatryoshkaSae
from raytrain_xai.concepts.relations import Relations
from raytrain_xai.config import parse_insight_config
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.insight.described import read_relations
from raytrain_xai.insight_config import InsightRunConfig
from raytrain_xai.language.encoder import LanguageEncoder, load_encoder
from raytrain_xai.run_folder import open_run, read_config


@dataclass(frozen=True)
class InsightModel:
    """An encoder and the concepts of its patches. B images, P = h·w patches of an image, row by row.

    Attributes:
        encoder: patches and texts.
        sae: on the device of the encoder, in evaluation mode.
        names: concept -> name, of the concepts that have one.
        relations: parents and synonyms; None before the run was described.
        config: of the concept run.
        origin: address of the run.
        fingerprint: SHA-256 over the encoder and the weights of the autoencoder: what was computed by models of one
            fingerprint belongs together.
    """

    encoder: LanguageEncoder
    sae: MatryoshkaSae
    names: Mapping[int, str]
    relations: Relations | None
    config: InsightRunConfig
    origin: str
    fingerprint: str

    def name(self, concept: int) -> str:
        """Name of a concept, ``concept 12`` where it has none."""
        return self.names.get(concept, f"concept {concept}")

    @torch.no_grad()
    def codes(self, images: Tensor) -> tuple[SparseCode, tuple[int, int]]:
        """Concepts at the patches of images.

        Args:
            images: (B, 3, H, W) uint8 RGB.
        Returns:
            Code (B, P, k), k that of the fullest patch; and (h, w).
        Raises:
            DataError: no such images.
        """
        patches = self.encoder.patches(images)
        return self.sae.encode(to_vectors(patches)), (patches.shape[2], patches.shape[3])

    @torch.no_grad()
    def reconstruct(self, code: SparseCode, size: tuple[int, int]) -> Tensor:
        """What a code says: (B, P, k) of a map of ``size`` (h, w) -> (B, D, h, w), to be compared with texts."""
        return to_map(self.sae.decode(code), size)


def load_insight(run: str, *, which: str = "selected", device: torch.device | str = "cpu") -> InsightModel:
    """The model of a concept run of an encoder.

    Args:
        run: its folder, local or s3://.
        which: ``selected``, ``last`` or the name of a checkpoint.
        device: where encoder and concepts are put.
    Raises:
        ConfigError: not such a run, or its encoder is not there.
        CheckpointError: no such checkpoint, it is damaged, or it was trained on another encoder.
    """
    at = open_run(run)
    config = parse_insight_config(read_config(at), source=at.child("config.yaml").uri)
    checkpoint = read_checkpoint_of(at, which)
    sae = restore_matryoshka(config, checkpoint.model, run)
    encoder = load_encoder(config.encoder, device=device)
    check_encoder(checkpoint.state["encoder"], encoder, run)
    fingerprint = model_fingerprint(encoder, sae)
    return InsightModel(
        encoder=encoder, sae=sae.to(device).eval(), names=read_names(at), relations=read_relations(at, fingerprint),
        config=config, origin=run, fingerprint=fingerprint,
    )  # fmt: skip


def build_matryoshka(config: InsightRunConfig, dim: int) -> MatryoshkaSae:
    """The autoencoder of a configuration for vectors of length ``dim``, with random weights.

    Raises:
        ConfigError: a group of latents would be empty.
    """
    sae = config.sae
    sizes = group_sizes(sae.latents, sae.group_fractions)
    return MatryoshkaSae(dim, sae.latents, sae.k, sizes, unit_inputs=sae.unit_inputs)


def restore_matryoshka(config: InsightRunConfig, weights: Mapping[str, Tensor], run: str) -> MatryoshkaSae:
    """The autoencoder of a checkpoint; its groups are those it was trained with.

    Args:
        config: of its run.
        weights: of the checkpoint.
        run: its address, for messages.
    Raises:
        CheckpointError: the weights do not fit the configuration.
    """
    try:
        sizes = weights["group_sizes"].tolist()
        section, dim = config.sae, weights["encoder"].shape[1]
        sae = MatryoshkaSae(dim, section.latents, section.k, sizes, unit_inputs=section.unit_inputs)
        sae.load_state_dict(dict(weights))
    except (KeyError, RuntimeError, ConfigError) as error:
        raise CheckpointError(
            f"the weights of {run} do not fit its configuration: {' '.join(str(error).split())}"
        ) from error
    return sae


def encoder_state(config: InsightRunConfig, encoder: LanguageEncoder) -> dict[str, Any]:
    """What a checkpoint states beside its position: whose patches the concepts are of."""
    return {
        "dim": encoder.dim,
        "encoder": {"name": encoder.name, "fingerprint": encoder.fingerprint},
        "config": config.model_dump(mode="json"),
    }


def check_encoder(stated: Mapping[str, Any], encoder: LanguageEncoder, run: str) -> None:
    """Make sure that concepts and encoder belong together.

    Args:
        stated: of :func:`encoder_state`.
    Raises:
        CheckpointError: another encoder has this name by now.
    """
    if stated["fingerprint"] != encoder.fingerprint:
        raise CheckpointError(
            f"the concepts of {run} were trained on the encoder {stated['name']} with fingerprint "
            f"{stated['fingerprint'][:12]}, the one found now has {encoder.fingerprint[:12]}; bring the former back, "
            "or train concepts on this one"
        )


def model_fingerprint(encoder: LanguageEncoder, sae: MatryoshkaSae) -> str:
    """See :attr:`InsightModel.fingerprint`; independent of the device."""
    digest = hashlib.sha256(encoder.fingerprint.encode())
    for name, value in sorted(sae.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
