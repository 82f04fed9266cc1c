from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raytrain_xai.data.dataset import StoredSplit, open_dataset
from raytrain_xai.data.decode import read_mask
from raytrain_xai.data.manifest import Manifest, read_manifest
from raytrain_xai.data.prepare import prepare, select_classes
from raytrain_xai.data.records import Box, Content, Entry, Source
from raytrain_xai.data.scenes import SceneOptions, read_scenes_birds, read_scenes_multi
from raytrain_xai.data.voc import read_voc
from raytrain_xai.errors import DataError
from raytrain_xai.storage import locate


@dataclass(frozen=True)
class Given:
    """A recipe with its content at hand; ``image`` defaults to 20 x 10 pixels."""

    boxes: tuple[Box, ...] = ()
    mask: tuple[tuple[int, ...], ...] | None = None
    image: bytes | None = None

    def load(self) -> Content:
        mask = None if self.mask is None else np.array(self.mask, dtype=np.uint8)
        buffer = io.BytesIO()
        Image.new("RGB", (20, 10), (50, 100, 150)).save(buffer, format="PNG")
        return Content(self.image or buffer.getvalue(), self.boxes, mask)


def source_of(*recipes: Given, labels: tuple[int, ...] = (0,), split: str = "train") -> Source:
    entries = [Entry(f"r{i}", f"file{i}", labels, recipe) for i, recipe in enumerate(recipes)]
    return Source("test", "multilabel", ("cat", "dog"), None, {split: entries}, options={})


def write(tmp_path: Path, *recipes: Given) -> Manifest:
    return prepare(source_of(*recipes), str(tmp_path / "out"))


def test_good_record_is_stored_as_it_is(tmp_path: Path) -> None:
    mask = tuple(tuple(2 if 3 <= x < 9 else 255 if x == 9 else 0 for x in range(20)) for _ in range(10))
    recipe = Given((Box(1, 3.0, 0.0, 9.25, 10.0), Box(0, 0.0, 1.5, 2.0, 4.0)), mask)
    manifest = write(tmp_path, recipe)
    assert manifest.bad_records == ()
    assert manifest.dropped_boxes == 0
    stored = StoredSplit(str(tmp_path / "out"), "train")
    image, encoded_mask = stored.encoded(0)
    assert image == recipe.load().image
    assert encoded_mask is not None
    assert np.array_equal(read_mask(encoded_mask), np.array(mask))
    notes = stored.annotations
    assert notes.boxes.tolist() == [[3.0, 0.0, 9.25, 10.0], [0.0, 1.5, 2.0, 4.0]]
    assert notes.box_labels.tolist() == [1, 0]
    assert notes.size.tolist() == [[20, 10]]
    assert notes.groups.tolist() == [-1]


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (Given((Box(0, 5, 2, 3, 8),)), r"box \(5, 2, 3, 8\) is inverted"),
        (Given((Box(0, 5, 8, 7, 2),)), "is inverted"),
        (Given((Box(0, float("nan"), 2, 3, 8),)), "is inverted"),
        (Given((Box(0, 5, 2, 21.5, 8),)), "reaches outside the image of 20 x 10"),
        (Given((Box(0, -2, 2, 3, 8),)), "reaches outside"),
        (Given((Box(0, 50, 2, 60, 8),)), "reaches outside"),
        (Given(image=b"GIF89a nothing"), "not a readable"),
        (Given(image=Given().load().image[:-30]), "damaged PNG"),
        (Given(mask=((0, 0), (0, 0))), "mask of 2 x 2 for an image of 20 x 10"),
        (Given(mask=((3,) * 20,) * 10), "mask value 3 names no class"),
    ],
)
def test_bad_record_is_listed_and_the_good_one_written(tmp_path: Path, recipe: Given, reason: str) -> None:
    manifest = write(tmp_path, Given(), recipe)
    (bad,) = manifest.bad_records
    assert (bad.split, bad.file) == ("train", "file1")
    assert re.search(reason, bad.reason)
    assert manifest.rows("train") == 1
    assert read_manifest(locate(str(tmp_path / "out"))) == manifest


def test_boxes_one_pixel_over_the_edge_are_cut_and_thin_ones_dropped(tmp_path: Path) -> None:
    boxes = (Box(0, -0.5, 2, 3, 10.9), Box(0, 4, 4, 4, 9), Box(1, 4, 4, 8, 4.9), Box(1, 6, 6, 7, 7))
    manifest = write(tmp_path, Given(boxes))
    assert manifest.dropped_boxes == 2
    assert StoredSplit(str(tmp_path / "out"), "train").annotations.boxes.tolist() == [[0, 2, 3, 10], [6, 6, 7, 7]]


def test_missing_image_and_empty_split(devkit, tmp_path: Path) -> None:
    devkit.add("train", "a", [("cat", (1, 1, 9, 9))])
    devkit.add("train", "b", [("cat", (1, 1, 9, 9))])
    devkit.add("val", "c", [("cat", (30, 1, 90, 9))])
    (devkit.root / "JPEGImages" / "b.jpg").unlink()
    (devkit.root / "ImageSets" / "Main" / "test.txt").touch()
    manifest = prepare(read_voc(str(devkit.root), 2007), str(tmp_path / "out"))
    reasons = {bad.split: bad.reason for bad in manifest.bad_records if bad.file == bad.split}
    assert reasons == {"val": "the split has no good image", "test": "the split has no good image"}
    records = [bad for bad in manifest.bad_records if bad.file != bad.split]
    assert [Path(bad.file).name for bad in records] == ["b.jpg", "c.jpg"]
    assert "missing file" in records[0].reason
    assert "reaches outside" in records[1].reason
    assert list(manifest.splits) == ["train"]
    assert manifest.rows("train") == 1


def test_nothing_good_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no good record in test: .*file0: not a readable"):
        write(tmp_path, Given(image=b"x"))
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_voc_mask_survives_the_way(devkit, tmp_path: Path) -> None:
    devkit.add("train", "a", [("cat", (1, 1, 20, 30))])
    mask = np.zeros((30, 40), dtype=np.uint8)
    mask[:, :20], mask[0] = 8, 255
    devkit.add_mask("a", mask)
    prepare(read_voc(str(devkit.root), 2007), str(tmp_path / "out"))
    stored = StoredSplit(str(tmp_path / "out"), "train").encoded(0)[1]
    assert stored is not None
    assert np.array_equal(read_mask(stored), mask)


def test_finished_data_set_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    write(tmp_path, Given(), Given())
    with pytest.raises(DataError, match="--overwrite"):
        write(tmp_path, Given())
    prepare(source_of(Given()), str(tmp_path / "out"), overwrite=True)
    assert open_dataset(str(tmp_path / "out")).splits == {"train": 1}


def test_folder_with_other_things_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(DataError, match=r"holds other things \(thesis.tex\)"):
        write(tmp_path, Given())


class Stop(Exception):
    pass


def stop_after(count: int):
    calls = iter(range(1, count + 1))

    def progress(_images: int) -> None:
        if next(calls) == count:
            raise Stop

    return progress


def test_interrupted_run_continues_and_gives_the_same_data(tmp_path: Path) -> None:
    source = read_scenes_birds(None, SceneOptions(num_train=40, size=32))
    whole = prepare(source, str(tmp_path / "whole"), shard_rows=10)
    dest = tmp_path / "parts"
    with pytest.raises(Stop):
        prepare(source, str(dest), shard_rows=10, progress=stop_after(3))
    written = {f: f.stat().st_mtime_ns for f in dest.rglob("*.parquet")}
    assert len(written) == 3
    with pytest.raises(DataError, match="is not finished"):
        open_dataset(str(dest))
    torn = dest / "train" / "part-00001.parquet"
    torn.write_bytes(torn.read_bytes()[:-100])
    assert prepare(source, str(dest), shard_rows=10) == whole
    kept = {f for f, time in written.items() if f.stat().st_mtime_ns == time}
    assert kept == {dest / "train" / "part-00000.parquet", dest / "train" / "part-00002.parquet"}


def test_shards_of_another_plan_are_not_mixed_in(tmp_path: Path) -> None:
    dest = str(tmp_path / "out")
    options = SceneOptions(num_train=40, size=32)
    with pytest.raises(Stop):
        prepare(read_scenes_birds(None, options), dest, shard_rows=4, progress=stop_after(8))
    other = read_scenes_birds(None, replace(options, seed=1))
    manifest = prepare(other, dest, shard_rows=10)
    assert manifest.fingerprint() == prepare(other, str(tmp_path / "fresh"), shard_rows=10).fingerprint()
    assert len(list((tmp_path / "out").rglob("*.parquet"))) == 4 + 1 + 2


def test_processes_and_order_change_nothing(tmp_path: Path) -> None:
    source = read_scenes_multi(None, SceneOptions(num_train=24, size=32))
    one = prepare(source, str(tmp_path / "one"), shard_rows=8)
    seen: list[int] = []
    two = prepare(source, str(tmp_path / "two"), shard_rows=8, workers=2, progress=seen.append)
    assert one == two
    assert sum(seen) == 24 + 6 + 12


def test_rare_classes_are_dropped_from_labels_boxes_and_masks() -> None:
    mask = ((0, 1, 2, 255) * 5,) * 10
    both = Given((Box(0, 0, 0, 5, 5), Box(1, 5, 5, 10, 10)), mask)
    splits = {
        "train": [Entry("a", "a", (0, 1), both), Entry("b", "b", (1,), both), Entry("c", "c", (0,), Given())],
        "val": [Entry("d", "d", (0, 1), Given()), Entry("e", "e", (), None, problem="torn")],
    }
    source = Source("test", "multilabel", ("cat", "dog", "cow"), None, splits, options={})
    assert select_classes(source, 0) is source
    chosen = select_classes(replace(source, splits={**splits, "train": [*splits["train"], splits["train"][1]]}), 3)
    assert chosen.classes == ("dog",)
    assert "cat (2), cow (0); 1 images" in chosen.notes[0]
    assert [e.labels for e in chosen.splits["train"]] == [(0,), (0,), (0,)]
    assert [e.id for e in chosen.splits["val"]] == ["d", "e"]
    recipe = chosen.splits["train"][0].recipe
    assert recipe is not None
    content = recipe.load()
    assert content.boxes == (Box(0, 5, 5, 10, 10),)
    assert content.mask is not None
    assert content.mask[0, :4].tolist() == [0, 255, 1, 255]
    with pytest.raises(DataError, match="no class has 9 training images; the largest has 2"):
        select_classes(source, 9)


def test_bad_files_mended_after_an_interruption_are_read_again(devkit, tmp_path: Path) -> None:
    for number in range(4):
        devkit.add("train", f"t{number}", [("cat", (1, 1, 9, 9))])
    image = devkit.root / "JPEGImages" / "t0.jpg"
    whole = image.read_bytes()
    image.write_bytes(b"torn")
    with pytest.raises(Stop):
        prepare(read_voc(str(devkit.root), 2007), str(tmp_path / "out"), shard_rows=2, progress=stop_after(1))
    image.write_bytes(whole)
    manifest = prepare(read_voc(str(devkit.root), 2007), str(tmp_path / "out"), shard_rows=2)
    assert manifest.bad_records == ()
    assert manifest.rows("train") == 4
