"""An encoder that sees colours and knows their names, its concepts, and a described run of them: all by hand."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from raytrain_xai.concept_runs.names import NAMES
from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.matryoshka import MatryoshkaSae
from raytrain_xai.concepts.relations import RelationRule, relations
from raytrain_xai.config import parse_insight_config
from raytrain_xai.insight.described import (
    PICTURE_SCHEMA,
    PICTURES,
    Described,
    DescribedSubject,
    description_of,
    write_described,
)
from raytrain_xai.insight.description import describe_images
from raytrain_xai.insight.model import InsightModel
from raytrain_xai.insight_config import InsightRunConfig
from raytrain_xai.language.encoder import to_patch_multiple
from raytrain_xai.run_folder import write_config, write_json
from raytrain_xai.storage import locate, write_bytes

SIDE, PATCH = 32, 8  # 4 x 4 patches
RED, GREEN, BLUE, NEVER = range(4)
FINGERPRINT = "c" * 64
WORDS = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1), "yellow": (1, 1, 0), "grey": (1, 1, 1)}


@dataclass(frozen=True)
class ColourEncoder:
    """The vector of a patch is its mean colour, D = 3, and that of a text the colour it names; grey for other texts."""

    name: str = "colours"
    fingerprint: str = "0" * 64
    dim: int = 3
    multiple: int = PATCH
    image_size: int = SIDE
    logit_scale: float = 100.0
    text_mean: Tensor = field(default_factory=lambda: torch.zeros(3))
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def patches(self, images: Tensor) -> Tensor:
        return functional.avg_pool2d(to_patch_multiple(images, PATCH, self.device).float() / 255, PATCH)

    def text(self, texts: Sequence[str]) -> Tensor:
        found = [next((WORDS[word] for word in text.split() if word in WORDS), (1, 1, 1)) for text in texts]
        return functional.normalize(torch.tensor(found, dtype=torch.float32).view(-1, 3), dim=1)


def colour_config(storage: str) -> InsightRunConfig:
    return parse_insight_config({
        "job": "concepts", "name": "colours", "storage": storage, "encoder": "embedded", "image_size": SIDE,
        "sae": {"latents": 4, "k": 2, "group_fractions": [0.25, 0.75]},
    })  # fmt: skip


def colour_model(names: dict[int, str] | None = None) -> InsightModel:
    """Concepts are red, green and blue where they are above 0.1, and one that is never active; nothing has a bias."""
    sae = MatryoshkaSae(3, 4, 2, (1, 3)).eval().requires_grad_(False)
    rows = torch.cat([torch.eye(3), torch.tensor([[0.0, 0.0, -1.0]])])
    sae.encoder.copy_(rows)
    sae.dictionary.copy_(rows)
    sae.threshold.fill_(0.1)
    config = colour_config("runs")
    return InsightModel(ColourEncoder(), sae, names or {}, None, config, "colours", FINGERPRINT)


def two_colours(left: tuple[int, int, int], right: tuple[int, int, int], side: int = SIDE) -> Tensor:
    """(3, side, side) uint8: the left half in one colour, the right one in another."""
    halves = torch.tensor([left, right], dtype=torch.uint8).repeat_interleave(side // 2, dim=0)
    return halves.T[:, None].expand(3, side, side).contiguous()


def png_of(image: Tensor) -> bytes:
    return _encoded(image, "PNG")


def write_colour_run(storage: Path) -> str:
    """A described run of six images of two patches; its folder has no weights.

    Concept 0 is at five of twelve patches, 1 at two of these, 2 at two of these and at another one.
    """
    at = locate(str(storage)).child("colours")
    write_config(at, colour_config(str(storage)))
    write_json(at.child(NAMES), {"names": {}, "proposed": {"0": "red"}, "history": []})
    patches: list[dict[int, float]] = [
        {0: 4, 1: 2}, {0: 1},  # image 0
        {0: 3, 1: 1}, {},
        {}, {0: 2, 2: 5},
        {0: 1, 2: 1}, {},
        {2: 1}, {},
        {}, {},
    ]  # fmt: skip
    values, indices = torch.zeros(12, 2), torch.tensor([[0, 1]]).repeat(12, 1)
    for row, patch in enumerate(patches):
        for place, (concept, value) in enumerate(patch.items()):
            values[row, place], indices[row, place] = value, concept
    labels = torch.tensor([[0, 1], [1, 1], [255, 1], [0, 0], [255, 0], [0, 0]], dtype=torch.uint8)
    sums = describe_images(SparseCode(values.view(6, 2, 2), indices.view(6, 2, 2), 4), 0, labels, 2)
    subject = DescribedSubject(
        at.uri, FINGERPRINT, 4, ("data",), "train", ("f" * 64,), SIDE, None, (1, 2), num_images=6
    )  # fmt: skip
    found = relations(sums.seen, torch.tensor([0, 1, 1, 1]), RelationRule(min_positions=2, max_frequency=0.5))
    write_described(Described(description_of(at), subject, ("sky", "sea"), (1, 3), sums, found))
    shown = [0, 1, 2, 3, 4]
    pictures = [_encoded(two_colours((60 * row, 0, 0), (0, 0, 255)), "JPEG") for row in shown]
    columns = {"row": shown, "data": ["data"] * 5, "id": [str(row) for row in shown], "jpeg": pictures}
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=PICTURE_SCHEMA), buffer, row_group_size=2)
    write_bytes(description_of(at).child(PICTURES), buffer.getvalue())
    return at.uri


def _encoded(image: Tensor, form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, format=form)
    return buffer.getvalue()
