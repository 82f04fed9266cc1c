"""Names for the concepts of a described run, and how they are judged by class masks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small_encoder import LATENTS, SmallEncoder, random_images, small_model
from torch import Tensor
from torch.nn import functional

from raytrain_xai.concept_runs.names import read_names, rename
from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.relations import relations
from raytrain_xai.concepts.sparse_sums import SparseSums
from raytrain_xai.concepts.top_tokens import unpack_tokens
from raytrain_xai.errors import ConfigError
from raytrain_xai.insight.described import Described, DescribedSubject
from raytrain_xai.insight.description import Description, describe_images
from raytrain_xai.insight.naming import NamingRule, name_concepts, write_naming
from raytrain_xai.insight.naming_score import score_names
from raytrain_xai.language.kinds import kind_of
from raytrain_xai.language.prompts import FAMILIES
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


def test_a_broad_term_takes_over_where_it_is_close(small: tuple[Described, SparseCode]) -> None:
    described, top = small
    model = small_model()
    alone = name_concepts(model, described, top, [WORDS, MORE], rule=NamingRule("row", ("plain",), closeness=1))
    broad = name_concepts(model, described, top, [WORDS, MORE], rule=NamingRule("row", ("plain",), closeness=0.6))
    assert broad.candidates == alone.candidates
    scores = {
        k: {term: score for terms in found.values() for term, score in terms} for k, found in broad.candidates.items()
    }
    close = {k: {term for term in own if own[term] >= 0.6 * max(own.values())} for k, own in scores.items()}
    frequency = described.relations.frequency.tolist()
    for k, (name, score) in broad.names.items():
        assert score == scores[k][name]
        if max(scores[k].values()) > 0:
            covers = {term: sum(frequency[i] for i in close if term in close[i]) for term in close[k]}
            assert covers[name] == max(covers.values())
    assert sum(broad.names[k] != alone.names[k] for k in alone.names) >= 3


def test_names_are_proposals(small: tuple[Described, SparseCode], tmp_path: Path) -> None:
    described, top = small
    run = locate(str(tmp_path))
    naming = name_concepts(small_model(), described, top, [WORDS], rule=NamingRule(families=("plain",)))
    first, second = list(naming.names)[:2]
    rename(run, {first: "my own"}, LATENTS)
    write_naming(run, naming)
    assert read_names(run) == {k: name for k, (name, _) in naming.names.items()} | {first: "my own"}
    stored = json.loads((tmp_path / "insight/naming.json").read_text(encoding="utf-8"))
    assert stored["variant"] == "weighted" and stored["vocabularies"] == {"words": "1"}
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


def judged_description(rows: list[list[float]], counts: list[list[int]]) -> Description:
    """Activation (K, C + 1) and active positions (K, C + 1) of concepts; 100, 50 and 50 labelled positions."""
    code = SparseCode(torch.zeros(1, 1, 1), torch.zeros(1, 1, 1, dtype=torch.int64), len(rows))
    empty = describe_images(code, 0, torch.zeros(1, 1, dtype=torch.uint8), len(rows[0]) - 1)
    sums = torch.stack([torch.tensor(counts).flatten(), torch.tensor(rows).flatten()], dim=1).double()
    cells = torch.arange(len(sums))
    return replace(empty, class_positions=torch.tensor([100, 50, 50]), on_class=SparseSums(cells, sums))


def test_names_are_judged_by_where_concepts_are_active() -> None:
    rows = [[1.0, 3.0, 0.0], [3.0, 1.0, 0.0], [1.0, 0.0, 9.0], [0.0, 0.0, 5.0], [9.0, 0.0, 1.0]]
    counts = [[10, 20, 0], [30, 10, 0], [5, 0, 50], [0, 0, 19], [40, 0, 5]]
    names = {0: "tabby cat", 1: "kitten", 2: "grass", 3: "Saluki, dog", 4: "sky"}
    score = score_names(names, judged_description(rows, counts), ("cat", "dog"))
    assert [(name.concept, name.kind, name.inside, name.chance) for name in score.judged] == [
        (0, "cat", 0.75, 0.25), (1, "cat", 0.25, 0.25),
    ]  # fmt: skip  # 3 is active at too few positions, 2 and 4 have names of no class
    assert [name.fits for name in score.judged] == [True, False]
    assert (score.fitting, score.inside) == (0.5, 0.5)
    assert score.specific == {0: "cat", 2: "dog"} and score.named_so == {0} and score.found == 0.5


def test_classes_of_one_kind_count_together() -> None:
    """Sofas of one data set and couches of another: neither has half of the activation, both together have .8."""
    rows, counts = [[1.0, 2.0, 2.0]], [[10, 20, 20]]
    score = score_names({0: "settee"}, judged_description(rows, counts), ("sofa", "couch"))
    assert [(name.kind, name.inside, name.chance) for name in score.judged] == [("sofa", 0.8, 0.5)]
    assert score.specific == {0: "sofa"} and score.named_so == {0}


def test_names_cannot_be_judged_without_masks() -> None:
    description = replace(judged_description([[0.0] * 3], [[0] * 3]), class_positions=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ConfigError, match="no image of the description has one"):
        score_names({0: "dog"}, description, ("cat", "dog"))


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
