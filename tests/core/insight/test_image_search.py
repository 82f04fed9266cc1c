"""Answers of the index against dense codes of all images."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_encoder import LATENTS, SmallEncoder, label_vectors, small_model
from torch import Tensor
from torch.nn import functional

from raytrain_xai.errors import CheckpointError, ConfigError, DataError, NotFoundError
from raytrain_xai.insight.image_index import ImageIndex, build_index
from raytrain_xai.insight.image_rows import ImageRows
from raytrain_xai.insight.model import InsightModel
from raytrain_xai.insight.search import concepts_named, search_concept, search_text
from raytrain_xai.storage import locate


@pytest.fixture(scope="module")
def model() -> InsightModel:
    model = small_model(SmallEncoder(image_size=48))
    model.sae.threshold.fill_(4)
    model.sae.requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def folder(model: InsightModel, birds: str, objects: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    at = locate(str(tmp_path_factory.mktemp("index")))
    build_index(model, ImageRows([birds, objects], "val", 48), "val", at)
    return at.uri


@pytest.fixture(scope="module")
def dense(model: InsightModel, birds: str, objects: str) -> tuple[list[tuple[str, str]], Tensor, Tensor]:
    """(data, id) of the images, their dense codes (N, P, K) and reconstructions (N, P, D)."""
    rows = ImageRows([birds, objects], "val", 48)
    images = torch.cat([batch.images for _, batch in rows.read(range(len(rows)))])
    code = model.codes(images)[0].dense()
    said = code @ model.sae.dictionary + model.sae.decoder_bias
    origins = [rows.origin(row) for row in range(len(rows))]
    return [(origin.data, origin.id) for origin in origins], code, said


def test_a_concept_finds_its_strongest_images(folder: str, dense: tuple[list[tuple[str, str]], Tensor, Tensor]) -> None:
    places, code, _ = dense
    index = ImageIndex(locate(folder))
    peaks = code.amax(dim=1)
    assert (peaks == 0).any() and index.about.images == len(places) == 12
    for concept in range(LATENTS):
        hits = search_concept(index, [concept], 4)
        expected = sorted((float(p) for p in peaks[:, concept] if p > 0), reverse=True)[:4]
        assert [hit.score for hit in hits] == pytest.approx(expected)
        for hit in hits:
            image = places.index((hit.data, hit.id))
            column, row = round(hit.box[0] * 6), round(hit.box[1] * 6)
            assert float(code[image, row * 6 + column, concept]) == pytest.approx(hit.score)


def test_concepts_of_one_meaning_are_searched_together(
    folder: str, dense: tuple[list[tuple[str, str]], Tensor, Tensor]
) -> None:
    places, code, _ = dense
    hits = search_concept(ImageIndex(locate(folder)), [2, 5, 9], 12)
    peaks = code.amax(dim=1)[:, [2, 5, 9]].amax(dim=1)
    assert len({(hit.data, hit.id) for hit in hits}) == len(hits) == int((peaks > 0).sum())
    assert all(peaks[places.index((hit.data, hit.id))] == pytest.approx(hit.score) for hit in hits)


def test_a_text_finds_images_by_the_exact_mean_cosine(
    folder: str, model: InsightModel, dense: tuple[list[tuple[str, str]], Tensor, Tensor]
) -> None:
    places, code, said = dense
    text = label_vectors(1)[0]
    expected = (functional.normalize(said, dim=2) @ text).mean(dim=1)
    hits = search_text(ImageIndex(locate(folder)), model, text, 12, top=LATENTS)
    assert [hit.score for hit in hits] == pytest.approx(expected.sort(descending=True).values.tolist(), abs=1e-5)
    for hit in hits:
        image = places.index((hit.data, hit.id))
        inverse = 1 / said[image].norm(dim=1)
        bias = float(inverse.mean() * (model.sae.decoder_bias @ text))
        assert sum(hit.concepts.values()) + bias == pytest.approx(hit.score, abs=1e-5)
        strongest = next(iter(hit.concepts))
        own = (code[image, :, strongest] * inverse).mean() * (model.sae.dictionary[strongest] @ text)
        assert float(own) == pytest.approx(hit.concepts[strongest], abs=1e-5)


def test_names_are_found_whatever_their_case() -> None:
    names = {3: "Dog", 5: "horse", 8: "dog"}
    assert concepts_named(names, " dog") == [3, 8]
    with pytest.raises(NotFoundError, match="there are horse"):
        concepts_named(names, "hores")


def test_wrong_questions_are_refused(folder: str, model: InsightModel, tmp_path: Path) -> None:
    index = ImageIndex(locate(folder))
    with pytest.raises(NotFoundError, match=f"no concept {LATENTS}"):
        search_concept(index, [LATENTS])
    with pytest.raises(CheckpointError, match="write it again"):
        search_text(index, replace(model, fingerprint="another"), label_vectors(1)[0])
    with pytest.raises(DataError, match="shape"):
        search_text(index, model, torch.zeros(3))
    with pytest.raises(ConfigError, match="no index"):
        ImageIndex(locate(str(tmp_path)))
    for name in ("about.json", "images.parquet"):
        (tmp_path / name).write_bytes((Path(folder) / name).read_bytes())
    (tmp_path / "postings.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(DataError, match="damaged"):
        search_concept(ImageIndex(locate(str(tmp_path))), [0])
