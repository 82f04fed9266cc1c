"""Concepts for people who look through them, against the tables read plainly."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from faulty_storage import at_random, faulty_storage

from raytrain_xai.concept_runs.catalogue_files import read_catalogue
from raytrain_xai.concept_runs.names import propose, rename
from raytrain_xai.errors import ConfigError, DataError, NotFoundError
from raytrain_xai.runners import catalogue as job
from raytrain_xai.runners.catalogue import build_catalogue
from raytrain_xai.runners.tasks import Crew
from raytrain_xai.sections import ResourcesConfig
from raytrain_xai.serving.catalogue_view import CatalogueView, open_views
from raytrain_xai.serving.concept_view import ConceptQuery, Sort
from raytrain_xai.serving.engine import Job, run_jobs
from raytrain_xai.serving.jobs import Question
from raytrain_xai.serving.live_names import LiveNames
from raytrain_xai.serving.picture_column import PictureColumn
from raytrain_xai.serving.served_model import ModelKey, RunAddress, ServedModel
from raytrain_xai.storage import locate, write_bytes, write_files

CONCEPTS = 24


@pytest.fixture(scope="module")
def run(concept_runs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A run with a catalogue of its training images, in row groups of 10 pictures; concepts 2 and 7 have names."""
    at = shutil.copytree(concept_runs["Mid2"], tmp_path_factory.mktemp("viewed") / "run").as_posix()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "_PICTURES_PER_READ", 10)
        build_catalogue(at, Crew(0, ResourcesConfig()), lambda _: None, split="train")
    propose(locate(at), {2: "Bird 1", 7: "car 1", 9: "car 2"})
    rename(locate(at), {7: "Wheel"}, CONCEPTS)
    return at


@pytest.fixture(scope="module")
def view(run: str) -> CatalogueView:
    return CatalogueView(locate(run))


@pytest.fixture(scope="module")
def tables(run: str) -> dict[str, list[dict[str, Any]]]:
    catalogue = read_catalogue(locate(run).child("catalogue"))
    return {name: catalogue.table(name).to_pylist() for name in ("concepts", "examples", "coactivation", "images")}


def test_what_a_layer_says_of_itself(view: CatalogueView, tables: dict[str, Any]) -> None:
    assert (view.layer, view.num_concepts, view.per_position, view.has_catalogue) == ("Mid2", CONCEPTS, 3, True)
    assert view.num_images == len(tables["images"])
    assert dict(view.names) == {2: "Bird 1", 7: "Wheel", 9: "car 2"}


@pytest.mark.parametrize(
    ("sort", "key"),
    [
        (None, lambda row: -(row["mean_contribution"] * row["answers"]) if row["answers"] else None),
        ("contribution", lambda row: -(row["mean_contribution"] * row["answers"]) if row["answers"] else None),
        ("frequency", lambda row: -row["frequency"]),
        ("entropy", lambda row: row["class_entropy"]),
        ("size", lambda row: row["spatial_size"]),
        ("id", lambda row: row["concept"]),
    ],
)
def test_every_order_and_unknown_values_last(
    view: CatalogueView, tables: dict[str, Any], sort: Sort | None, key: Any
) -> None:
    rows = tables["concepts"]
    expected = sorted(rows, key=lambda row: (key(row) is None, key(row) or 0.0, row["concept"]))
    assert view.find(ConceptQuery(sort=sort)) == [row["concept"] for row in expected]


def test_by_name_and_by_text(view: CatalogueView) -> None:
    assert view.find(ConceptQuery(sort="name"))[:4] == [2, 9, 7, 0]
    assert view.find(ConceptQuery("WHEEL")) == [7]
    assert view.find(ConceptQuery("car", sort="id")) == [9]  # the name that 7 was proposed is not its name any more
    assert view.find(ConceptQuery("2", sort="id")) == [2, 9, 12, 20, 21, 22, 23]
    assert view.find(ConceptQuery("nothing has this name")) == []


def test_concepts_of_a_class(view: CatalogueView, tables: dict[str, Any], run: str) -> None:
    classes = read_catalogue(locate(run).child("catalogue")).classes
    for number, name in enumerate(classes):
        sums = {
            row["concept"]: dict(zip(row["classes"], row["class_contributions"], strict=True))[number]
            for row in tables["concepts"]
            if number in row["classes"]
        }
        expected = sorted(sums, key=lambda k: (-sums[k], k))
        assert view.find(ConceptQuery(class_name=name)) == expected
        assert view.find(ConceptQuery(class_name=name, sort="id")) == sorted(expected)
    with pytest.raises(ConfigError, match="no class 'dragon'"):
        view.find(ConceptQuery(class_name="dragon"))


def test_rows_hold_the_statistics(view: CatalogueView, tables: dict[str, Any], run: str) -> None:
    classes = read_catalogue(locate(run).child("catalogue")).classes
    rows = view.rows([9, 2, 0, 7])
    assert [(row.id, row.name, row.named_by) for row in rows] == [
        (9, "car 2", "catalogue"), (2, "Bird 1", "catalogue"), (0, "concept 0", "nobody"), (7, "Wheel", "user"),
    ]  # fmt: skip
    for row in rows:
        stored = tables["concepts"][row.id]
        assert row.statistics == {
            name: stored[name]
            for name in (
                "images", "frequency", "class_entropy", "spatial_size", "mean_contribution", "always_on",
            )
        }  # fmt: skip
        assert list(row.labels.items()) == [
            (classes[k], share) for k, share in zip(stored["labels"], stored["label_shares"], strict=True)
        ]
        assert sum(abs(share) for share in row.classes.values()) == pytest.approx(1.0 if stored["classes"] else 0.0)
        assert [share > 0 for share in row.classes.values()] == [value > 0 for value in stored["class_contributions"]]
        assert row.examples == sum(example["concept"] == row.id for example in tables["examples"])


def test_examples_partners_and_pictures(view: CatalogueView, tables: dict[str, Any], run: str) -> None:
    classes = read_catalogue(locate(run).child("catalogue")).classes
    images = {image["row"]: image for image in tables["images"]}
    for k in range(CONCEPTS):
        own = [example for example in tables["examples"] if example["concept"] == k]
        found = view.examples(k)
        assert [(e.activation, e.contribution) for e in found] == [(e["activation"], e["contribution"]) for e in own]
        assert [e.labels for e in found] == [tuple(classes[i] for i in images[e["row"]]["labels"]) for e in own]
        assert [e.answer for e in found] == [classes[images[e["row"]]["answer"]] for e in own]
        for rank, example in enumerate(own):
            assert view.map(k, rank) == example["map"]
            assert view.photograph(k, rank) == images[example["row"]]["jpeg"]
        partners = [(row["partner"], row["overlap"]) for row in tables["coactivation"] if row["concept"] == k]
        assert view.partners(k) == partners
    assert [view.image(n) for n in range(view.num_images)] == [image["jpeg"] for image in tables["images"]]


def test_what_does_not_exist(view: CatalogueView) -> None:
    for call in (view.examples, view.partners, lambda k: view.rows([k]), lambda k: view.rename(k, "x")):
        for k in (-1, CONCEPTS):
            with pytest.raises(NotFoundError, match=f"no concept {k}; Mid2 has concepts 0 to 23"):
                call(k)
    for rank in (-1, 16):
        with pytest.raises(NotFoundError, match=f"no example {rank} of concept 0; it has"):
            view.map(0, rank)
    with pytest.raises(NotFoundError, match="no example image 24"):
        view.image(24)


def test_a_run_without_catalogue_has_names_only(concept_runs: dict[str, str]) -> None:
    view = CatalogueView(locate(concept_runs["Final"]))
    assert (view.has_catalogue, view.num_images) == (False, 0)
    assert view.find(ConceptQuery()) == list(range(CONCEPTS))
    assert view.find(ConceptQuery("concept")) == []
    [row] = view.rows([3])
    assert (row.name, row.statistics, row.examples, row.labels) == ("concept 3", {}, 0, {})
    assert view.examples(3) == view.partners(3) == []
    for query in (ConceptQuery(sort="size"), ConceptQuery(class_name="bird")):
        with pytest.raises(ConfigError, match="Final has no catalogue"):
            view.find(query)
    with pytest.raises(NotFoundError, match="no example 0 of concept 3; it has 0"):
        view.photograph(3, 0)
    with pytest.raises(NotFoundError, match="no example image 0; this model has 0"):
        view.image(0)


def test_views_of_concept_runs_only(concept_runs: dict[str, str], objects: str, make_run: Any, tmp_path: Path) -> None:
    plain = make_run(tmp_path, "plain", objects)
    views = open_views([concept_runs["Mid2"], plain, concept_runs["Final"]])
    assert list(views) == ["Mid2", "Final"]
    with pytest.raises(ConfigError, match="is not a run"):
        open_views([str(tmp_path / "nowhere")])


def test_renaming_and_its_history(concept_runs: dict[str, str], tmp_path: Path) -> None:
    run = shutil.copytree(concept_runs["Final"], tmp_path / "run").as_posix()
    view, elsewhere = CatalogueView(locate(run)), LiveNames(locate(run), every_s=0.0)
    view.rename(5, "  paw ")
    assert (view.name(5), elsewhere.get(5), view.rows([5])[0].named_by) == ("paw", "paw", "user")
    view.rename(5, "")
    assert (view.name(5), dict(elsewhere)) == ("concept 5", {})
    assert [(change.before, change.after) for change in view.history(5)] == [("", "paw"), ("paw", "")]
    assert view.history(4) == []
    with pytest.raises(ConfigError, match="at most 80 printable characters"):
        view.rename(5, "a\x00b")


def test_names_are_looked_up_again_after_a_while_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("raytrain_xai.serving.live_names.time.monotonic", lambda: clock[0])
    run = locate(str(tmp_path))
    names = LiveNames(run, every_s=2.0)
    rename(run, {1: "a"}, 10)
    clock[0] += 1.9
    assert names.get(1) is None
    clock[0] += 0.2
    assert (names[1], len(names)) == ("a", 1)
    names.refresh()
    rename(run, {2: "b"}, 10)
    assert dict(names) == {1: "a"}
    assert names.refresh().names == {1: "a", 2: "b"}


def test_known_names_stay_while_the_storage_fails(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = locate(str(tmp_path))
    rename(run, {1: "a"}, 10)
    names = LiveNames(run, every_s=0.0)
    (tmp_path / "names.json").write_text("{")
    assert names[1] == "a"
    assert "names of concepts cannot be read again" in caplog.text
    (tmp_path / "names.json").unlink()
    rename(run, {1: "b"}, 10)
    assert names[1] == "b"


def test_only_a_row_group_is_read_and_the_last_ones_are_kept(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at = locate(run).child("catalogue", "examples.parquet")
    expected = pq.read_table(at.path)["map"].to_pylist()
    reads: list[int] = []
    plain = pq.ParquetFile.read_row_group

    def counted(self: pq.ParquetFile, i: int, **options: Any) -> Any:
        reads.append(i)
        return plain(self, i, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    column = PictureColumn(at, "map", kept_bytes=1)
    for row in (0, 9, 10, 11, 0, len(expected) - 1):
        assert column.read(row) == expected[row]
    assert reads == [0, 1, 0, (len(expected) - 1) // 10]
    reads.clear()
    roomy = PictureColumn(at, "map")
    for row in (0, 10, 0, 10):
        assert roomy.read(row) == expected[row]
    assert reads == [0, 1]


def test_a_file_that_was_written_again_is_read_again(run: str, tmp_path: Path) -> None:
    file = Path(shutil.copy(locate(run).child("catalogue", "examples.parquet").path, tmp_path))
    column = PictureColumn(locate(str(file)), "map")
    table = pq.read_table(file)
    assert column.read(12) == table["map"][12].as_py()
    pq.write_table(table, file, row_group_size=7)
    assert column.read(12) == table["map"][12].as_py()
    file.write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"examples\.parquet is damaged"):
        column.read(12)


def test_many_threads_see_the_same(view: CatalogueView, tables: dict[str, Any]) -> None:
    wrong: list[int] = []

    def look(seed: int) -> None:
        for step in range(30):
            k = (seed * 7 + step * 5) % CONCEPTS
            own = [example["map"] for example in tables["examples"] if example["concept"] == k]
            if [view.map(k, rank) for rank in range(len(own))] != own:
                wrong.append(k)

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.timeout(60)
def test_a_run_on_s3(run: str, view: CatalogueView, s3_storage: str) -> None:
    """Two services look at one bucket; the name that one gives shows in the other."""
    at = locate(s3_storage).child("run")
    for file in sorted(path for path in Path(run).rglob("*") if path.is_file()):
        parts = file.relative_to(run).parts
        if parts[0] in ("config.yaml", "names.json", "names", "catalogue"):
            write_bytes(at.child(*parts), file.read_bytes())
    here, there = CatalogueView(at), CatalogueView(at)
    assert here.find(ConceptQuery()) == view.find(ConceptQuery())
    assert [here.map(5, rank) for rank in range(3)] == [view.map(5, rank) for rank in range(3)]
    assert here.photograph(5, 0) == view.photograph(5, 0)
    here.rename(11, "seen from both")
    assert there.names.refresh().names[11] == "seen from both"
    assert there.find(ConceptQuery("FROM BOTH")) == [11]


def test_weights_and_catalogue_come_straight_from_a_bucket_that_fails(
    run: str, view: CatalogueView, s3_storage: str
) -> None:
    """Every fifth request fails; what is served is what the run on disk serves."""
    server = s3_storage.partition("endpoint_override=")[2].partition("&")[0]
    quiet = locate(s3_storage).child("run")
    files = (path for path in Path(run).rglob("*") if path.is_file())
    write_files(quiet, ((path.relative_to(run).as_posix(), path.read_bytes()) for path in files))
    with faulty_storage(server, at_random(0.2, ("500", "503", "reset", "truncate"))) as proxy:
        at = locate(quiet.uri.replace(server, proxy.address))
        there, here = (ServedModel.load(ModelKey("m", "1"), RunAddress(uri)) for uri in (at.uri, run))
        question = Question("trace", classes=1, top=3)
        images = torch.randint(256, (2, 3, 48, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        remote, local = (run_jobs([Job(model, images, question)])[0] for model in (there, here))
        assert not isinstance(remote, Exception) and not isinstance(local, Exception)
        assert [answer.logits.tolist() for answer in remote] == [answer.logits.tolist() for answer in local]
        catalogue = CatalogueView(at)
        assert catalogue.find(ConceptQuery()) == view.find(ConceptQuery())
        assert catalogue.map(5, 0) == view.map(5, 0)
        assert catalogue.photograph(5, 0) == view.photograph(5, 0)
        assert sum(proxy.faults().values()) > 5
