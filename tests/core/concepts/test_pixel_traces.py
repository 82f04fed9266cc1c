"""Walks to the pixels in parts: the same as all at once, and those of the single maps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from raytrain_xai.attribution.explanation_image import explanation_image
from raytrain_xai.concepts.layer import ConceptLayer
from raytrain_xai.concepts.pixels import RGBA_SMOOTH, pixel_traces, trace_maps
from raytrain_xai.concepts.sae import TopKSae
from raytrain_xai.concepts.trace import ConceptPass, concept_maps, concept_pass, places_of
from raytrain_xai.models.zoo import build_network

TAP = "Mid2"


@pytest.fixture(scope="module")
def passed() -> ConceptPass:
    torch.manual_seed(0)
    network = build_network("bcos_resnet_tiny", 3, weights=None, norm_statistics="frozen").double().eval()
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        vectors = network.features(images, TAP).movedim(1, -1).flatten(0, 2)
        rows = nn.functional.normalize(vectors[torch.randperm(len(vectors))[:12]], dim=1)
        sae = TopKSae(rows.shape[1], 12, 3).double()
        sae.load_state_dict({"encoder": rows, "dictionary": rows})
        return concept_pass(network, {TAP: ConceptLayer(sae)}, images)


@pytest.mark.parametrize("num_at_once", [1, 3, 100])
@torch.no_grad()
def test_parts_are_the_whole_in_order(passed: ConceptPass, num_at_once: int) -> None:
    code = passed.at(TAP).code
    rows, concept = torch.tensor([1, 0, 1, 0, 1]), code.indices[0, 0, 0].repeat(5)
    concept[1:3] = code.indices[1, 5, 0]

    def places(part: slice) -> Tensor:
        return places_of(code.rows(rows[part]), concept[part])

    parts = list(pixel_traces(passed, TAP, rows, places, pixels_at_once=num_at_once * 32 * 32 + 1))
    assert [len(part.maps) for part in parts] == (
        [5] if num_at_once == 100 else [1] * 5 if num_at_once == 1 else [3, 2]
    )
    torch.testing.assert_close(torch.cat([part.maps for part in parts]), concept_maps(passed, TAP, concept, rows))
    weights = passed.input_weights(TAP, places(slice(None)), rows)
    colours = explanation_image(passed.encoded[rows], weights, smooth=RGBA_SMOOTH)
    rgba = torch.cat([part.rgba for part in parts])
    assert rgba.dtype == torch.uint8
    torch.testing.assert_close(rgba.double() / 255, colours, atol=0.5 / 255 + 1e-9, rtol=0)


@pytest.mark.parametrize("num_at_once", [1, 4, 100])
@torch.no_grad()
def test_maps_of_several_concepts_of_every_image(passed: ConceptPass, num_at_once: int) -> None:
    concept = passed.at(TAP).code.indices[:, 3]
    maps = trace_maps(passed, TAP, concept, pixels_at_once=num_at_once * 32 * 32)
    assert maps.shape == (2, 3, 32, 32)
    for place in range(3):
        torch.testing.assert_close(maps[:, place], concept_maps(passed, TAP, concept[:, place]))
