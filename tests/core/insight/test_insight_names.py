"""Names for the concepts of a described run, and how they are judged by class masks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from click.testing import CliRunner
from small_encoder import LATENTS, SmallEncoder, random_images, small_model
from torch import Tensor
from torch.nn import functional

from raytrain_xai.cli.main import cli
from raytrain_xai.concept_runs.names import read_names, rename
from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.relations import relations
from raytrain_xai.concepts.sparse_sums import SparseSums
from raytrain_xai.concepts.top_tokens import unpack_tokens
from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.data.loader import load_samples
from raytrain_xai.errors import ConfigError, DataError
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
from raytrain_xai.insight.description import NUM_TOKENS, Description, describe_images
from raytrain_xai.insight.naming import NamingRule, name_concepts, write_naming
from raytrain_xai.insight.naming_score import read_labels, score_names
from raytrain_xai.insight.observing import write_table
from raytrain_xai.language.kinds import kind_of
from raytrain_xai.language.prompts import FAMILIES, embed_terms
from raytrain_xai.language.text_cache import TextCache
from raytrain_xai.language.vocabulary import Vocabulary
from raytrain_xai.storage import locate

WORDS = Vocabulary("words", ("dog", "grass", "running", "a very long name", "red"), "1")
MORE = Vocabulary("more", ("cat", "dog", "blue"), "2")
"""One word is in both."""


def described_model(folder: Path) -> tuple[Described, SparseCode]:
    """A small model described on random images, as its folder would hold it."""
    model = small_model()
    code, size = model.codes(random_images(6, 32, 48))
    code = replace(code, values=code.values * ((code.indices != 4) & (code.indices != 9)))  # two are never active
    labels = torch.arange(24).remainder(3).to(torch.uint8).expand(6, -1)
    sums = describe_images(code, 0, labels, 2)
    _, token = unpack_tokens(sums.tokens)
    flat = SparseCode(code.values.flatten(0, 1), code.indices.flatten(0, 1), LATENTS)
    own = flat.rows(token.clamp(min=0).flatten())
    values = own.values.unflatten(0, token.shape) * (token >= 0)[..., None]
    subject = DescribedSubject("small", "0" * 64, LATENTS, ("d",), "train", ("f",), 32, None, size, 6)
    groups = (10, 30)
    made = relations(sums.seen, model.sae.groups_of(torch.arange(LATENTS)))
    top = SparseCode(values, own.indices.unflatten(0, token.shape), LATENTS)
    return Described(locate(str(folder)), subject, ("cat", "dog"), groups, sums, made), top


@pytest.fixture
def small(tmp_path: Path) -> tuple[Described, SparseCode]:
    return described_model(tmp_path)


def best_terms(vectors: Tensor, families: tuple[str, ...]) -> list[str]:
    """The nearest of all terms, one concept and one template after the other."""
    encoder, terms = SmallEncoder(), [*WORDS.terms, *MORE.terms]
    names: list[str] = []
    for vector in vectors:
        scores: dict[str, float] = {}
        for term in terms:
            for family in families:
                mean = torch.stack([encoder.text([text.format(term)])[0] for text in FAMILIES[family]]).mean(dim=0)
                scores[term] = max(scores.get(term, -1), float(functional.cosine_similarity(vector, mean, dim=0)))
        names.append(max(scores, key=lambda term: scores[term]))
    return names


def test_row_names_equal_a_plain_search(small: tuple[Described, SparseCode]) -> None:
    described, top = small
    model, rule = small_model(), NamingRule("row", ("plain", "verb"), closeness=1)
    found = name_concepts(model, described, top, [WORDS, MORE], rule=rule)
    alive = (described.relations.frequency > 0).nonzero().flatten().tolist()
    assert alive == [k for k in range(LATENTS) if k not in (4, 9)] == list(found.names)
    assert [found.names[k][0] for k in alive] == best_terms(model.sae.dictionary[alive].detach(), ("plain", "verb"))
    for k in alive:
        best = [terms[0] for terms in found.candidates[k].values()]
        assert [len(terms) for terms in found.candidates[k].values()] == [5, 3]
        assert found.names[k][1] == max(score for _, score in best)


def test_general_terms_may_take_over(small: tuple[Described, SparseCode]) -> None:
    """Of the terms that compete, the most general one over both vocabularies gives the name."""
    described, top = small
    model, texts = small_model(), embed_terms(SmallEncoder(), [*WORDS.terms, *MORE.terms], FAMILIES["plain"])
    alone = name_concepts(model, described, top, [WORDS, MORE], rule=NamingRule("row", ("plain",), closeness=1))
    wide = name_concepts(model, described, top, [WORDS, MORE], rule=NamingRule("row", ("plain",), closeness=0.5))
    assert wide.candidates == alone.candidates
    terms, likeness = [*WORDS.terms, *MORE.terms], texts @ texts.T
    general = likeness.clamp(min=0).pow(3).mean(dim=1).tolist()
    for k, (name, score) in wide.names.items():
        scores = (texts @ model.sae.dictionary[k].detach()).tolist()
        best = max(scores)
        assert score == pytest.approx(scores[terms.index(name)], abs=1e-6)
        if best > 0:
            like = likeness[scores.index(best)].tolist()
            compete = [t for t in range(8) if scores[t] >= 0.5 * best and like[t] >= scores[t] - 1e-7]
            assert general[terms.index(name)] == pytest.approx(max(general[t] for t in compete))
    assert sum(wide.names[k] != alone.names[k] for k in alone.names) >= 3


def test_names_are_proposals(small: tuple[Described, SparseCode], tmp_path: Path) -> None:
    described, top = small
    run = locate(str(tmp_path))
    naming = name_concepts(small_model(), described, top, [WORDS], rule=NamingRule(families=("plain",)))
    first, second = list(naming.names)[:2]
    rename(run, {first: "my own"}, LATENTS)
    write_naming(run, naming)
    assert read_names(run) == {k: name for k, (name, _) in naming.names.items()} | {first: "my own"}
    stored = json.loads((tmp_path / "insight/naming.json").read_text(encoding="utf-8"))
    assert stored["variant"] == "whole" and stored["vocabularies"] == {"words": "1"}
    name, score = naming.names[second]
    entry = stored["concepts"][str(second)]
    assert (entry["name"], entry["score"]) == (name, pytest.approx(score, abs=1e-4))
    assert name in [term for term, _ in entry["candidates"]["words"]]


def test_a_cache_spares_the_encoder(small: tuple[Described, SparseCode], tmp_path: Path) -> None:
    described, top = small
    cache, rule = TextCache(locate(str(tmp_path / "texts"))), NamingRule(families=("plain",))
    first = name_concepts(small_model(), described, top, [WORDS], rule=rule, cache=cache)

    class Mute(SmallEncoder):
        def text(self, texts: object) -> Tensor:
            raise AssertionError(f"{texts} is encoded again")

    assert name_concepts(small_model(Mute()), described, top, [WORDS], rule=rule, cache=cache) == first


def test_what_does_not_belong_together_is_refused(small: tuple[Described, SparseCode]) -> None:
    described, top = small
    other = replace(described, subject=replace(described.subject, fingerprint="1" * 64))
    with pytest.raises(ConfigError, match="described with another checkpoint or encoder; describe it again"):
        name_concepts(small_model(), other, top, [WORDS], rule=NamingRule())
    for lists in ([], [WORDS, WORDS]):
        with pytest.raises(ConfigError, match="one or more vocabularies of different names"):
            name_concepts(small_model(), described, top, lists, rule=NamingRule())
    with pytest.raises(ConfigError, match="closeness in"):
        NamingRule(closeness=0)
    with pytest.raises(ConfigError, match="one or more template families"):
        NamingRule(families=())
    with pytest.raises(ConfigError, match="no template family 'nouns'"):
        NamingRule(families=("nouns",))


def judged_description(rows: list[list[float]]) -> Description:
    """Activation (K, C + 1) of concepts on the background and C classes; 100, 50 and 50 patches of them."""
    code = SparseCode(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64), len(rows))
    empty = describe_images(code, 0, torch.zeros(1, 1, dtype=torch.uint8), len(rows[0]) - 1)
    values = torch.tensor(rows).flatten().double()
    on_class = SparseSums(torch.arange(len(values)), torch.stack([values.ceil(), values], dim=1))
    return replace(empty, class_positions=torch.tensor([100, 50, 50]), on_class=on_class)


def test_names_are_judged_by_where_concepts_point() -> None:
    rows = [[1.0, 3.0, 0.0], [3.0, 1.0, 0.0], [1.0, 0.0, 9.0], [0.0, 0.0, 5.0], [9.0, 0.0, 1.0]]
    labels = torch.tensor([
        [1, 1, 1, 0, 0, 255, 255, 255],  # 3 of 5 on cats
        [1, 0, 0, 0, 2, 255, 255, 255],  # 1 of 5
        [2, 2, 2, 2, 2, 2, 2, 2],
        [2, 2, 2, 2, 255, 255, 255, 255],  # too few are known
        [0, 0, 0, 0, 0, 0, 1, 2],
    ], dtype=torch.uint8)  # fmt: skip
    names = {0: "tabby cat", 1: "kitten", 2: "grass", 3: "Saluki, dog", 4: "sky"}
    score = score_names(names, labels, judged_description(rows), ("cat", "dog"))
    assert [(one.concept, one.kind, one.pointing, one.inside, one.chance) for one in score.judged] == [
        (0, "cat", 0.6, 0.75, 0.25), (1, "cat", 0.2, 0.25, 0.25),
    ]  # fmt: skip
    assert [name.fits for name in score.judged] == [True, False]
    assert score.specific == {0: "cat", 2: "dog"}
    assert score.named_so == {0} and (score.fitting, score.found) == (0.5, 0.5)


def test_the_command(small: tuple[Described, SparseCode], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the files of a description to names.json and pages; names of people stay, text vectors are kept."""
    described, top = small
    described = replace(described, at=description_of(locate(str(tmp_path))))
    image, position = top.values.amax(dim=-1).topk(NUM_TOKENS, dim=1), torch.zeros(LATENTS, NUM_TOKENS)
    write_top_tokens(described.at, TopTokens(image.values, image.indices, position.long(), top))
    write_table(described.at.child(PICTURES), pa.table({name: [] for name in PICTURE_SCHEMA.names}, PICTURE_SCHEMA))
    unmasked = torch.zeros_like(described.sums.class_positions)
    write_described(replace(described, sums=replace(described.sums, images=torch.zeros(LATENTS, 8, dtype=torch.int64),
                                                    class_positions=unmasked)))  # fmt: skip
    (tmp_path / "config.yaml").write_text("job: concepts\n", encoding="utf-8")
    (tmp_path / "pets.txt").write_text("dog\ncat\n", encoding="utf-8")
    monkeypatch.setattr("raytrain_xai.insight.model.load_insight", lambda *_, **__: small_model())
    rename(locate(str(tmp_path)), {0: "my own"}, LATENTS)
    words = ["--vocabulary", str(tmp_path / "pets.txt"), "--templates", "plain", "--variant", "own"]
    done = CliRunner().invoke(cli, ["insight", "name", str(tmp_path), *words])
    assert done.exit_code == 0, done.output
    assert "38 of 40 concepts have a name, the others were never active" in done.output
    assert done.output.rstrip().endswith("names.html") and (tmp_path / "insight/tree.html").exists()
    names = read_names(locate(str(tmp_path)))
    assert names.pop(0) == "my own" and len(names) == 37 and set(names.values()) == {"dog", "cat"}
    assert list((tmp_path / "insight/texts").rglob("*.safetensors"))
    other = CliRunner().invoke(cli, ["insight", "name", str(tmp_path), "--vocabulary", "pets"])
    assert isinstance(other.exception, DataError) and "one of common, coco, imagenet, voc" in str(other.exception)


def test_classes_of_one_kind_count_together() -> None:
    """Sofas of one data set and couches of another: neither has half of the patches, both together have .8."""
    labels = torch.tensor([[1, 1, 2, 2, 0]], dtype=torch.uint8)
    score = score_names({0: "settee"}, labels, judged_description([[1.0, 2.0, 2.0]]), ("sofa", "couch"))
    assert [(one.kind, one.pointing, one.inside, one.chance) for one in score.judged] == [("sofa", 0.8, 0.8, 0.5)]
    assert score.specific == {0: "sofa"} and score.named_so == {0}


def test_labels_of_the_strongest_patches(objects: str, small: tuple[Described, SparseCode]) -> None:
    """Read by image, out of order and with gaps, against one image after the other."""
    described = small[0]
    stored = StoredSplit(objects, "train")
    subject = replace(
        described.subject, data=(objects,), data_fingerprints=(stored.info.fingerprint,), image_size=48, size=(6, 6)
    )
    described = replace(described, subject=subject)
    image, position = torch.tensor([[5, 0, -1], [23, 5, 5]]), torch.tensor([[0, 35, -1], [14, 7, 35]])
    code = SparseCode(torch.zeros(2, 3, 1), torch.zeros(2, 3, 1, dtype=torch.int64), 2)
    found = read_labels(described, TopTokens(torch.ones(2, 3), image, position, code))
    batch, _ = load_samples(objects, "train", list(range(24)), 48)
    assert batch.masks is not None and len(set(found.flatten().tolist())) > 2
    expected = [
        [255 if row < 0 else int(batch.masks[row, 8 * (at // 6) + 4, 8 * (at % 6) + 4])
         for row, at in zip(rows, places, strict=True)]
        for rows, places in zip(image.tolist(), position.tolist(), strict=True)
    ]  # fmt: skip
    assert found.tolist() == expected
    changed = replace(described, subject=replace(subject, data_fingerprints=("other",)))
    with pytest.raises(ConfigError, match="changed since small was described; describe it again"):
        read_labels(changed, TopTokens(torch.ones(2, 3), image, position, code))


def test_names_cannot_be_judged_without_masks() -> None:
    description = replace(judged_description([[0.0] * 3]), class_positions=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ConfigError, match="no image of the description has one"):
        score_names({0: "dog"}, torch.zeros(1, 8, dtype=torch.uint8), description, ("cat", "dog"))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("dog", "dog"), ("puppy", "dog"), ("Saluki, dog", "dog"), ("black dog", "dog"), ("hot dog", "hot dog"),
        ("prairie dog", "prairie dog"), ("dingo, wild dog", "dingo, wild dog"), ("tiger, wild cat", "tiger, wild cat"),
        ("Persian cat", "cat"), ("tvmonitor", "tv monitor"), ("TV", "tv monitor"), ("aeroplane", "airplane"),
        ("dining_table", "dining table"), ("zebra", "zebra"), ("dog bed", "dog bed"), ("group of people", "person"),
        ("", ""), ("couch", "sofa"), ("sea lion", "sea lion"),
    ],
)  # fmt: skip
def test_what_a_name_says_a_thing_is(name: str, kind: str) -> None:
    assert kind_of(name) == kind
