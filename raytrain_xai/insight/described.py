"""What ``insight describe`` leaves in the folder of a run, ``<run>/insight/``.

- ``relations.safetensors``: sums over all images (:class:`~raytrain_xai.insight.description.Description`) and the
  relations made of them (:class:`~raytrain_xai.concepts.relations.Relations`);
- ``tokens.safetensors``: the strongest positions of every concept with their codes (:class:`TopTokens`);
- ``pictures.parquet``: each image that shows a concept once, small, with where it comes from;
- ``relations.json``: what they are of (:class:`DescribedSubject`), rule and totals; written last;
- ``hierarchy.json``, ``hierarchy.graphml``, ``tree.html``: made from these, with the names of now.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.relations import RelationRule, Relations
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.insight.description import Description
from raytrain_xai.storage import Location, exists, open_file, read_bytes, write_bytes

FORMAT_VERSION = 1
FOLDER = "insight"  # in the folder of a run
INDEX, SUMS, TOKENS, PICTURES = "relations.json", "relations.safetensors", "tokens.safetensors", "pictures.parquet"
PICTURE_SCHEMA = pa.schema([
    ("row", pa.int64()),  # number of the image, data set by data set
    ("data", pa.string()),
    ("id", pa.string()),
    ("jpeg", pa.binary()),
])  # fmt: skip


@dataclass(frozen=True)
class DescribedSubject:
    """What a description is of.

    Attributes:
        run: address of the concept run.
        fingerprint: of encoder and autoencoder, :attr:`raytrain_xai.insight.model.InsightModel.fingerprint`.
        concepts: size of the dictionary (K).
        data, split: the images.
        data_fingerprints: of the data sets.
        image_size, shorter: how they were prepared, pixels.
        size: (h, w), positions of an image.
        num_images: of all data sets together.
    """

    run: str
    fingerprint: str
    concepts: int
    data: tuple[str, ...]
    split: str
    data_fingerprints: tuple[str, ...]
    image_size: int
    shorter: int | None
    size: tuple[int, int]
    num_images: int

    @property
    def content(self) -> dict[str, Any]:
        """What decides the numbers, wherever run and data lie."""
        return {name: value for name, value in asdict(self).items() if name not in ("run", "data")}

    @property
    def parts(self) -> str:
        """Folder of the unfinished parts of this very description."""
        return f"parts-{hashlib.sha256(json.dumps(self.content).encode()).hexdigest()[:12]}"


@dataclass(frozen=True)
class TopTokens:
    """The n strongest positions of each of K concepts, strongest first.

    Attributes:
        values: (K, n) float32, 0 where a concept is active at fewer positions.
        image: (K, n) int64, row of the image over all data sets, -1 for none.
        position: (K, n) int64, patch of the image, row by row; -1 for none.
        code: (K, n, k), everything that is active there; values of 0 where there is no position.
    """

    values: Tensor
    image: Tensor
    position: Tensor
    code: SparseCode


@dataclass(frozen=True)
class Described:
    """A complete description of the concepts of a run.

    Attributes:
        at: its folder.
        subject: what it is of.
        classes: names of the classes of masks.
        group_sizes: latents of each Matryoshka group, their sum is K.
        sums: over all images.
        relations: parents and synonyms.
    """

    at: Location
    subject: DescribedSubject
    classes: tuple[str, ...]
    group_sizes: tuple[int, ...]
    sums: Description
    relations: Relations

    @property
    def groups(self) -> Tensor:
        """(K,) int64, Matryoshka group of each concept."""
        sizes = torch.tensor(self.group_sizes)
        return torch.arange(len(sizes)).repeat_interleave(sizes)

    def pictures(self) -> pa.Table:
        """Rows of ``pictures.parquet``."""
        with open_file(self.at.child(PICTURES)) as source:
            try:
                return pq.read_table(source, schema=PICTURE_SCHEMA, page_checksum_verification=True)
            except (pa.ArrowException, OSError) as error:
                raise _damaged(self.at.child(PICTURES)) from error


def description_of(run: Location) -> Location:
    """Where the description of a run is, or comes to be."""
    return run.child(FOLDER)


def is_described(run: Location) -> bool:
    """Whether a run has a complete description."""
    return exists(description_of(run).child(INDEX))


def read_described(run: Location) -> Described:
    """The description of a run.

    Raises:
        ConfigError: there is none.
        DataError: it is damaged or of another format version.
    """
    at = description_of(run)
    if not exists(at.child(INDEX)):
        raise ConfigError(f"{run.uri} is not described; do it with `raytrain-xai insight describe {run.uri}`")
    raw = _index(at)
    try:
        tensors = load(read_bytes(at.child(SUMS)))
        rule = RelationRule(**raw["rule"])
        return Described(
            at, _subject(raw["subject"]), tuple(raw["classes"]), tuple(raw["group_sizes"]),
            Description.from_tensors(tensors), Relations.from_tensors(tensors, rule),
        )  # fmt: skip
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise _damaged(at.child(SUMS)) from error


def read_relations(run: Location, fingerprint: str) -> Relations | None:
    """Parents and synonyms of the concepts of a run.

    Args:
        run: its folder.
        fingerprint: of the model that asks.
    Returns:
        None for a run that was not described, or with another checkpoint: its relations are of other concepts.
    """
    if not is_described(run):
        return None
    described = read_described(run)
    return described.relations if described.subject.fingerprint == fingerprint else None


def read_top_tokens(run: Location) -> TopTokens:
    """The strongest positions of the concepts of a run.

    Raises:
        ConfigError: the run is not described.
        DataError: the file is damaged.
    """
    concepts = read_described(run).subject.concepts
    at = description_of(run).child(TOKENS)
    try:
        found = load(read_bytes(at))
        code = SparseCode(found["code_values"], found["code_indices"], concepts)
        return TopTokens(found["values"], found["image"], found["position"], code)
    except (SafetensorError, KeyError) as error:
        raise _damaged(at) from error


def write_top_tokens(at: Location, top: TopTokens) -> None:
    """Store :class:`TopTokens` in the folder of a description."""
    tensors = {"values": top.values, "image": top.image, "position": top.position}
    tensors |= {"code_values": top.code.values, "code_indices": top.code.indices}
    write_bytes(at.child(TOKENS), save({name: value.contiguous() for name, value in tensors.items()}))


def write_described(described: Described) -> None:
    """Store sums and relations, and the index last."""
    at, relations = described.at, described.relations
    write_bytes(at.child(SUMS), save(described.sums.to_tensors() | relations.to_tensors()))
    content = {
        "format_version": FORMAT_VERSION,
        "subject": asdict(described.subject),
        "classes": described.classes,
        "group_sizes": described.group_sizes,
        "rule": asdict(relations.rule),
        "totals": totals(relations),
    }
    write_bytes(at.child(INDEX), (json.dumps(content, indent=1) + "\n").encode())


def totals(relations: Relations) -> dict[str, int]:
    """Numbers over all concepts: positions, active concepts, synonyms, children, parents and relations."""
    concepts = torch.arange(relations.num_latents)
    return {
        "positions": relations.positions,
        "active": int((relations.frequency > 0).sum()),
        "synonyms": int((relations.same_as != concepts).sum()),
        "children": len(relations.child.unique()),
        "parents": len(relations.parent.unique()),
        "relations": len(relations.child),
    }


def _index(at: Location) -> dict[str, Any]:
    try:
        raw = json.loads(read_bytes(at.child(INDEX)))
        version = raw["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(at.child(INDEX)) from error
    if version != FORMAT_VERSION:
        raise DataError(
            f"{at.uri} has format version {version}, this release reads {FORMAT_VERSION}; delete it and describe again"
        )
    return raw


def _subject(raw: Mapping[str, Any]) -> DescribedSubject:
    content: dict[str, Any] = dict(raw)
    for name in ("data", "data_fingerprints", "size"):
        content[name] = tuple(content[name])
    return DescribedSubject(**content)


def _damaged(at: Location) -> DataError:
    return DataError(f"{at.uri} is damaged; delete its folder and describe the run again")
