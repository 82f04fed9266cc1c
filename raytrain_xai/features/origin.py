"""Where exported features come from: taps of a network, or the patches of an encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.concept_runs.network import adopt_network, check_layer
from raytrain_xai.data.feature_store import FeaturePlan
from raytrain_xai.features.extraction import VectorExtraction, open_extraction
from raytrain_xai.features.patches import PATCHES, open_patch_extraction, plan_patches
from raytrain_xai.features.plan import plan_features
from raytrain_xai.insight_config import InsightRunConfig
from raytrain_xai.language.encoder import load_encoder


@dataclass(frozen=True)
class Origin:
    """A frozen model, loaded.

    Attributes:
        plans: tap -> what a store of its features holds.
        extract: opens the images and what runs them through the model.
    """

    plans: Mapping[str, FeaturePlan]
    extract: Callable[[], VectorExtraction]


def open_origin(
    config: ConceptRunConfig | InsightRunConfig, taps: Sequence[str], *, device: torch.device | str = "cpu"
) -> Origin:
    """Load the model of a concept run.

    Args:
        taps: of its network; of an encoder there is one, ``patches``.
    Raises:
        ConfigError: no such model or tap.
        CheckpointError: its weights cannot be used.
        DataError: a data set cannot be read.
    """
    if isinstance(config, InsightRunConfig):
        assert list(taps) == [PATCHES]
        encoder = load_encoder(config.encoder, device=device)
        return Origin({PATCHES: plan_patches(config, encoder)}, lambda: open_patch_extraction(config, encoder))
    adopted = adopt_network(config, device=device)
    for tap in taps:
        check_layer(adopted.network, tap)
    plans = {tap: plan_features(config, adopted, tap) for tap in taps}
    return Origin(plans, lambda: open_extraction(config, adopted))
