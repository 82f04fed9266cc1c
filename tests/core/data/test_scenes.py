from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raytrain_xai.data.compose import Placement, Scene
from raytrain_xai.data.records import Box
from raytrain_xai.data.scenes import SceneOptions, embedded_scenes, read_scenes_birds, read_scenes_multi
from raytrain_xai.errors import DataError


@pytest.mark.parametrize(("correlation", "matching"), [(0.95, 190), (1.0, 200), (0.5, 100), (0.0, 0)])
def test_correlation_is_exact_in_train_and_test_is_balanced(correlation: float, matching: int) -> None:
    source = read_scenes_birds(None, SceneOptions(num_train=400, correlation=correlation))
    train = Counter(e.group for e in source.splits["train"])
    assert train[0] == train[3] == matching
    assert train[1] == train[2] == 200 - matching
    assert len(source.splits["val"]) == 100
    assert Counter(e.group for e in source.splits["test"]) == {0: 50, 1: 50, 2: 50, 3: 50}
    assert all(e.labels == (e.group // 2,) for split in source.splits.values() for e in split if e.group is not None)


def test_backgrounds_follow_the_group() -> None:
    for entry in read_scenes_birds(None, SceneOptions(num_train=80)).splits["train"]:
        assert isinstance(entry.recipe, Scene)
        assert entry.group is not None
        assert entry.recipe.background.parent.name == ("land", "water")[entry.group % 2]


def test_scenes_are_a_function_of_the_options() -> None:
    options = SceneOptions(num_train=16, size=48)
    for read in (read_scenes_birds, read_scenes_multi):
        first, again = read(None, options).splits, read(None, options).splits
        assert first == again
        assert first["train"] != read(None, replace(options, seed=1)).splits["train"]
        recipe = first["train"][3].recipe
        assert recipe is not None
        assert recipe.load().image == recipe.load().image


def test_unseen_objects_and_backgrounds() -> None:
    def used(entries, part) -> set[Path]:
        return {item for e in entries for item in part(e.recipe)}

    for read in (read_scenes_birds, read_scenes_multi):
        splits = read(None, SceneOptions(num_train=400, unseen=True)).splits
        for part in (lambda s: [s.background], lambda s: [o.cutout for o in s.objects]):
            known = used([*splits["train"], *splits["val"]], part)
            assert known
            assert not known & used(splits["test"], part)
        seen = read(None, SceneOptions(num_train=400)).splits
        assert used(seen["train"], lambda s: [s.background]) == used(seen["test"], lambda s: [s.background])


def test_multi_scenes_hold_one_to_four_visible_objects() -> None:
    source = read_scenes_multi(None, SceneOptions(num_train=120, size=96))
    assert source.classes == ("bird", "bovine", "fish", "flower", "fruit", "insect", "vegetable", "vehicle")
    counts: Counter[int] = Counter()
    for entry in source.splits["train"][:60]:
        assert isinstance(entry.recipe, Scene)
        content = entry.recipe.load()
        counts[len(content.boxes)] += 1
        assert len(content.boxes) == len(entry.recipe.objects)
        assert {b.label for b in content.boxes} == set(entry.labels)
        assert content.mask is not None
        assert set(np.unique(content.mask).tolist()) - {0} == {label + 1 for label in entry.labels}
        for box in content.boxes:
            assert 0 <= box.x0 < box.x1 <= 96
            assert max(box.x1 - box.x0, box.y1 - box.y0) >= 0.15 * 96
    assert set(counts) == {1, 2, 3, 4}


def write_cutout(path: Path, colour: tuple[int, int, int]) -> Path:
    """An opaque square of 20 x 20 inside a clear frame of 30 x 30."""
    pixels = np.zeros((30, 30, 4), dtype=np.uint8)
    pixels[5:25, 5:25] = (*colour, 255)
    Image.fromarray(pixels).save(path)
    return path


def test_composition_by_hand(tmp_path: Path) -> None:
    """Two squares, the second in front, on a grey ground: exact boxes and mask of what is seen."""
    Image.new("RGB", (80, 60), (128, 128, 128)).save(tmp_path / "ground.png")
    red = write_cutout(tmp_path / "red.png", (255, 0, 0))
    blue = write_cutout(tmp_path / "blue.png", (0, 0, 255))
    objects = (
        Placement(red, 0, x=0.25, y=0.5, length=0.5, angle=0.0, is_mirrored=False, brightness=1.0),
        Placement(blue, 2, x=0.5, y=0.5, length=0.5, angle=0.0, is_mirrored=True, brightness=1.0),
    )
    content = Scene(tmp_path / "ground.png", (1.0, 0.5, 0.5), False, 1.0, 60, objects).load()
    # frames of 30 px (scale 1) at x 0..30 and 15..45, y 15..45; squares at 5..25 and 20..40; blue hides from x = 20 on
    assert content.boxes == (Box(0, 5, 20, 20, 40), Box(2, 20, 20, 40, 40))
    expected = np.zeros((60, 60), dtype=np.uint8)
    expected[20:40, 5:20], expected[20:40, 20:40] = 1, 3
    assert content.mask is not None
    assert np.array_equal(content.mask, expected)
    pixels = np.asarray(Image.open(io.BytesIO(content.image))).astype(int)
    assert np.abs(pixels[30, 12] - (255, 0, 0)).max() < 12
    assert np.abs(pixels[30, 32] - (0, 0, 255)).max() < 12
    assert np.abs(pixels[5, 5] - (128, 128, 128)).max() < 6


def test_hidden_object_gets_no_box(tmp_path: Path) -> None:
    Image.new("RGB", (60, 60)).save(tmp_path / "ground.png")
    cutout = write_cutout(tmp_path / "red.png", (255, 0, 0))
    one = Placement(cutout, 0, x=0.5, y=0.5, length=0.5, angle=0.0, is_mirrored=False, brightness=1.0)
    content = Scene(tmp_path / "ground.png", (1.0, 0.0, 0.0), False, 1.0, 60, (one, replace(one, label=1))).load()
    assert [b.label for b in content.boxes] == [1]


def test_every_embedded_file_is_there_and_named_in_its_table() -> None:
    root = embedded_scenes()
    listed = {
        row.split(",")[0] for t in ("cutouts", "backgrounds") for row in (root / f"{t}.csv").read_text().splitlines()
    }
    files = {f.relative_to(root).as_posix() for f in root.rglob("*") if f.suffix in (".png", ".jpg")}
    assert len(files) == 153 + 20
    assert files <= listed
    assert (root / "README.md").is_file()


@pytest.mark.parametrize("options", [SceneOptions(num_train=4), SceneOptions(correlation=1.2), SceneOptions(size=8)])
def test_impossible_options_are_refused(options: SceneOptions) -> None:
    with pytest.raises(DataError):
        read_scenes_birds(None, options)


def test_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leave SRC out"):
        read_scenes_multi(str(tmp_path), SceneOptions())
