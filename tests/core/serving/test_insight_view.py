"""Concepts of a described encoder, whose numbers can be counted in the head; see ``write_colour_run``."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from colours import write_colour_run
from PIL import Image

from raytrain_xai.errors import ConfigError, DataError, NotFoundError
from raytrain_xai.serving.catalogue_view import open_views
from raytrain_xai.serving.concept_view import ConceptQuery, ConceptView
from raytrain_xai.serving.insight_view import LAYER
from raytrain_xai.storage import delete_tree, locate


@pytest.fixture
def run(tmp_path: Path) -> str:
    return write_colour_run(tmp_path)


@pytest.fixture
def view(run: str) -> ConceptView:
    views = open_views([run])
    assert list(views) == [LAYER]
    return views[LAYER]


def test_parents_children_and_how_sure_they_are(view: ConceptView) -> None:
    # P_D(0|1) = 3/3; P_D(0|2) = 6/7; 7/11 and 3/11 the other way
    whole = view.relatives(0)
    assert whole.parents == {} and whole.synonyms == ()
    assert list(whole.children) == [1, 2]
    assert list(whole.children.values()) == pytest.approx([1.0, 6 / 7])
    part = view.relatives(2)
    assert part.parents == pytest.approx({0: 6 / 7}) and part.children == {}
    assert part.num_children == {0: 2}
    assert view.relatives(3).parents == {}


def test_trees_begin_where_nothing_is_above(view: ConceptView) -> None:
    assert view.find(ConceptQuery(roots=True)) == [0]
    assert view.find(ConceptQuery(parent=0)) == [2, 1]  # the more frequent one first
    assert view.find(ConceptQuery(parent=0, sort="id")) == [1, 2]
    assert view.find(ConceptQuery(parent=0, text="1")) == [1]
    assert view.find(ConceptQuery(parent=1)) == []
    with pytest.raises(NotFoundError, match="no concept 9; there are concepts 0 to 3"):
        view.find(ConceptQuery(parent=9))


def test_order_and_search(view: ConceptView) -> None:
    assert view.find(ConceptQuery()) == [0, 2, 1, 3]
    view.rename(1, "sunset")
    assert view.find(ConceptQuery(sort="name")) == [0, 1, 2, 3]
    assert view.find(ConceptQuery("SUN")) == [1]
    with pytest.raises(ConfigError, match="sorted by frequency, name, id, not by entropy"):
        view.find(ConceptQuery(sort="entropy"))
    with pytest.raises(ConfigError, match="belong to no class"):
        view.find(ConceptQuery(class_name="sky"))


def test_rows_tell_frequency_and_what_lies_below(view: ConceptView) -> None:
    first, last = view.rows([0, 3])
    assert (first.name, first.named_by, first.statistics) == ("red", "catalogue", {"frequency": 5 / 12})
    assert first.labels == pytest.approx({"sky": 6 / 11, "background": 5 / 11})
    assert list(first.labels) == ["sky", "background"]
    assert (last.name, last.named_by, last.labels, last.examples) == ("concept 3", "nobody", {}, 0)
    [(partner, overlap), other] = view.partners(0)
    assert (partner, overlap) == (1, pytest.approx(2 / 5))  # of 5 + 2 - 2 patches
    assert other == (2, pytest.approx(2 / 6))


def test_examples_show_the_strongest_patch_of_each_image(view: ConceptView) -> None:
    assert [one.activation for one in view.examples(0)] == [4, 3, 2, 1]
    assert [one.activation for one in view.examples(2)] == [5, 1, 1]
    place = np.asarray(Image.open(io.BytesIO(view.map(2, 0))))
    assert place.tolist() == [[0, 255]]  # the second patch of image 2
    assert np.asarray(Image.open(io.BytesIO(view.map(2, 1)))).tolist() == [[255, 0]]
    for rank, image in enumerate((2, 3, 4)):
        red = np.asarray(Image.open(io.BytesIO(view.photograph(2, rank))))[16, 4, 0]
        assert abs(int(red) - 60 * image) < 8
        assert view.photograph(2, rank) == view.image(image)
    with pytest.raises(NotFoundError, match="no example 3 of concept 2; it has 3"):
        view.photograph(2, 3)
    with pytest.raises(NotFoundError, match="no example image 5; this model has 5"):
        view.image(5)


def test_a_run_that_was_not_described_has_names_only(run: str) -> None:
    delete_tree(locate(run).child("insight"))
    view = open_views([run])[LAYER]
    assert not view.has_catalogue and not view.has_relations and view.num_images == 0
    assert view.find(ConceptQuery()) == [0, 1, 2, 3]
    assert view.relatives(0).children == {} and view.examples(0) == [] and view.partners(0) == []
    assert view.rows([0])[0].name == "red"
    for query in (ConceptQuery(parent=0), ConceptQuery(roots=True), ConceptQuery(sort="frequency")):
        with pytest.raises(ConfigError, match="was not described"):
            view.find(query)


def test_damaged_pictures_are_named(run: str) -> None:
    file = Path(locate(run).child("insight").child("pictures.parquet").uri.removeprefix("file://"))
    file.write_bytes(b"no table")
    with pytest.raises(DataError, match="pictures.parquet is damaged"):
        open_views([run])
