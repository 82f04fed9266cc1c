"""Scenes from annotations, and scenes in words."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raytrain_xai.captioning.scenes import Thing, category_names, read_scenes
from raytrain_xai.captioning.sentences import phrase, plural, sentence
from raytrain_xai.captioning.words import END, PAD, START, WordTable, join_words, split_words
from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.data.prepare import prepare
from raytrain_xai.data.sources import read_source
from raytrain_xai.errors import ConfigError


def thing(name: str, count: int = 1) -> Thing:
    return Thing(name, count, 1.0)


@pytest.mark.parametrize(
    ("name", "many"),
    [
        ("dog", "dogs"), ("bus", "buses"), ("couch", "couches"), ("toothbrush", "toothbrushes"), ("puppy", "puppies"),
        ("toy", "toys"), ("person", "people"), ("wine glass", "wine glasses"), ("sheep", "sheep"), ("box", "boxes"),
    ],
)  # fmt: skip
def test_plurals(name: str, many: str) -> None:
    assert plural(name) == many


@pytest.mark.parametrize(
    ("count", "text"), [(1, "an umbrella"), (2, "two umbrellas"), (4, "four umbrellas"), (5, "several umbrellas")]
)
def test_numbers_in_words(count: int, text: str) -> None:
    assert phrase(thing("umbrella", count)) == text


def test_scenes_are_lists_of_four_at_most() -> None:
    assert sentence((thing("dog"),)) == "a dog"
    assert sentence((thing("skis", 2), thing("person"))) == "two skis and a person"
    assert sentence((thing("scissors"),)) == "scissors"
    five = tuple(thing(name) for name in ("dog", "cat", "cow", "bus", "oven"))
    assert sentence(five) == "a dog, a cat, a cow and a bus"


def test_words_survive_numbers() -> None:
    table = WordTable.of(["a dog, two cats", "a teddy bear"])
    assert table.words == (",", "a", "bear", "cats", "dog", "teddy", "two")
    spoken = [split_words("A dog, two cats."), split_words("a teddy bear")]
    tokens = table.encode(spoken)
    assert tokens.tolist() == [[START, 4, 7, 3, 9, 6, END], [START, 4, 8, 5, END, PAD, PAD]]
    assert table.decode(tokens) == spoken
    assert join_words(spoken[0]) == "a dog, two cats"


def test_an_unknown_word_is_named() -> None:
    with pytest.raises(ConfigError, match="zebra: not among the 2 words"):
        WordTable.of(["a dog"]).encode([("a", "zebra")])


def test_scenes_say_what_is_annotated(objects: str) -> None:
    """Counts and areas of every image, against a loop over its boxes."""
    stored = StoredSplit(objects, "train")
    names = category_names(stored.info.classes, {})
    scenes = read_scenes(stored, names)
    assert len(scenes) == len(stored)
    notes = stored.annotations
    for row, scene in enumerate(scenes):
        own = range(notes.box_offsets[row], notes.box_offsets[row + 1])
        sizes = {name: 0.0 for name in names}
        counts = {name: 0 for name in names}
        for box in own:
            x0, y0, x1, y1 = notes.boxes[box].tolist()
            sizes[names[notes.box_labels[box]]] += (x1 - x0) * (y1 - y0)
            counts[names[notes.box_labels[box]]] += 1
        assert {thing.name: thing.count for thing in scene} == {name: n for name, n in counts.items() if n}
        assert sum(thing.area for thing in scene) == pytest.approx(1)
        for thing in scene:
            assert thing.area == pytest.approx(sizes[thing.name] / sum(sizes.values()), rel=1e-5)
        assert [thing.area for thing in scene] == sorted((thing.area for thing in scene), reverse=True)


def test_images_without_boxes_share_the_area(tmp_path: Path) -> None:
    for name in ("dog", "cat"):
        (tmp_path / "src" / "train" / name).mkdir(parents=True)
        Image.fromarray(np.full((32, 32, 3), 99, np.uint8)).save(tmp_path / "src" / "train" / name / "0.png")
    prepare(read_source("imagefolder", str(tmp_path / "src"), 0, {}), str(tmp_path / "stored"))
    stored = StoredSplit(str(tmp_path / "stored"), "train")
    scenes = read_scenes(stored, category_names(stored.info.classes, {"dog": "hound"}))
    assert set(scenes) == {(Thing("cat", 1, 1.0),), (Thing("hound", 1, 1.0),)}


def test_names_of_other_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match="names has bike; the classes of the data set are dog, cat"):
        category_names(("dog", "cat"), {"bike": "bicycle"})


def test_coco_and_voc_say_all_their_categories(shared_data: Path) -> None:
    """Every name of both data sets is said in the singular and the plural, and no plural is another name."""
    listed = (shared_data / "coco" / "annotations" / "instances_train.json").read_text(encoding="utf-8")
    names = [category["name"] for category in json.loads(listed)["categories"]]
    forms = [form for name in names for form in dict.fromkeys((name, plural(name)))]
    assert len(names) == 80 and len(forms) == len(set(forms))
    table = WordTable.of(forms)
    assert table.decode(table.encode([split_words(form) for form in forms])) == [split_words(form) for form in forms]
    assert torch.equal(table.encode([split_words("hot dogs")])[0, [0, -1]], torch.tensor([START, END]))
