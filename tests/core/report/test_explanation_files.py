"""``raytrain-xai explain``: files, the index, and inputs that nobody vouches for."""

from __future__ import annotations

import json
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.explain import Explainer
from raytrain_xai.models.zoo import build_network
from raytrain_xai.report.explanation_files import collect_images, distinct_names, write_explanations
from raytrain_xai.report.overlay import overlay_heatmap

CLASSES = ("cat", "dog/wolf", "dog wolf")


def make_explainer(name: str, method: str, layer: str) -> Explainer:
    torch.manual_seed(0)
    network = build_network(name, len(CLASSES), weights=None, norm_statistics="frozen")
    return Explainer(network, classes=CLASSES, image_size=32, method=method, layer=layer, origin="somewhere/step-1")


@pytest.fixture(scope="module")
def bcos() -> Explainer:
    return make_explainer("bcos_resnet_tiny", "bcos", "Input")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures of different sizes, and a file that is none of our business."""
    rng = np.random.default_rng(0)
    for name, height, width in (("b.png", 40, 60), ("a.jpg", 32, 32)):
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not a picture")
    return tmp_path


def test_folders_give_their_pictures_in_order_and_no_file_comes_twice(folder: Path) -> None:
    found = collect_images([str(folder), str(folder / "b.png")])
    assert found == [folder / "a.jpg", folder / "b.png"]


def png_of(width: int, height: int) -> bytes:
    """A PNG whose header promises an image of this size, with next to no data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_every_bad_input_is_listed_at_once(folder: Path) -> None:
    (folder / "cut.jpg").write_bytes((folder / "a.jpg").read_bytes()[:-200])
    (folder / "bomb.png").write_bytes(png_of(20_000, 20_000))
    (folder / "text.png").write_text("hello")
    (folder / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        collect_images([str(folder), str(folder / "gone.jpg"), str(folder / "empty"), str(folder / "notes.txt")])
    message = str(caught.value)
    assert "6 bad inputs" in message
    for part in (
        "cut.jpg: damaged",
        "bomb.png: more than 50000000 pixels",
        "text.png: not a readable",
        "gone.jpg",
        "notes.txt",
    ):
        assert part in message, part
    assert f"{folder / 'empty'}: a folder without pictures" in message
    assert "a.jpg:" not in message


def test_index_and_pictures_agree(bcos: Explainer, folder: Path, tmp_path: Path) -> None:
    files = collect_images([str(folder)])
    out = tmp_path / "out"
    index = write_explanations(bcos, files, out, names=["cat"], top=1)
    assert json.loads((out / "explanations.json").read_text()) == index
    assert {
        key: index[key] for key in ("format_version", "model", "weights", "attribution", "image_size", "classes")
    } == {
        "format_version": 1,
        "model": "bcos_resnet_tiny",
        "weights": "somewhere/step-1",
        "attribution": {"method": "bcos", "layer": "Input"},
        "image_size": 32,
        "classes": list(CLASSES),
    }
    sizes = [(image["file"], image["width"], image["height"]) for image in index["images"]]
    assert sizes == [(str(folder / "a.jpg"), 32, 32), (str(folder / "b.png"), 60, 40)]
    named = {"explanations.json"}
    for image, file in zip(index["images"], files, strict=True):
        [expected] = bcos([Image.open(file).convert("RGB")], names=["cat"])
        assert image["logits"] == pytest.approx(dict(zip(CLASSES, expected.logits.tolist(), strict=True)), abs=1e-5)
        for entry in image["explanations"]:
            assert entry["logit"] == image["logits"][entry["class"]]
            assert entry["probability"] == pytest.approx(1 / (1 + np.exp(-entry["logit"])))
            assert 0 <= entry["positive_share"] <= 1
            assert 0 <= entry["completeness_residual"] < 1e-4
            named |= {entry["overlay"], entry["rgba"]}
            assert Image.open(out / entry["overlay"]).size == (image["width"], image["height"])
            rgba = Image.open(out / entry["rgba"])
            assert (rgba.mode, rgba.size) == ("RGBA", (image["width"], image["height"]))
    assert {path.name for path in out.iterdir()} == named


def test_overlay_is_the_heatmap_of_the_explained_class(bcos: Explainer, folder: Path, tmp_path: Path) -> None:
    file = folder / "b.png"
    write_explanations(bcos, [file], tmp_path / "out", names=["cat"], top=0)
    picture = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)
    [explanation] = bcos([Image.open(file)], names=["cat"], top=0)
    expected = overlay_heatmap(picture[None], explanation.classes[0].attribution[None])[0].numpy()
    assert np.array_equal(np.array(Image.open(tmp_path / "out" / "b.cat.png")), expected)


def test_a_network_that_is_not_bcos_has_no_colour_explanation(folder: Path, tmp_path: Path) -> None:
    explainer = make_explainer("squeezenet1_1", "gradcam", "Final")
    index = write_explanations(explainer, [folder / "a.jpg"], tmp_path / "out", names=[], top=1)
    [entry] = index["images"][0]["explanations"]
    assert (entry["rgba"], entry["completeness_residual"]) == (None, None)
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".json", ".png"]


def test_equal_stems_and_classes_that_look_alike_do_not_overwrite(
    bcos: Explainer, folder: Path, tmp_path: Path
) -> None:
    (folder / "sub").mkdir()
    (folder / "sub" / "a.jpg").write_bytes((folder / "a.jpg").read_bytes())
    out = tmp_path / "out"
    write_explanations(bcos, [folder / "a.jpg", folder / "sub" / "a.jpg"], out, names=[], top=3)
    overlays = sorted(path.name for path in out.glob("*.png") if ".rgba." not in path.name)
    assert overlays == sorted(
        f"{stem}.{name}.png" for stem in ("a", "a-2") for name in ("cat", "dog_wolf", "dog_wolf-2")
    )


def test_distinct_names() -> None:
    assert distinct_names(["a b", "a/b", "A_B", "../x", "", "é"]) == ["a_b", "a_b-2", "A_B-3", "_x", "_", "é"]


def test_large_pictures_are_shown_at_1024_pixels(bcos: Explainer, tmp_path: Path) -> None:
    Image.new("RGB", (2048, 1000), (10, 200, 30)).save(tmp_path / "large.png")
    index = write_explanations(bcos, [tmp_path / "large.png"], tmp_path / "out", names=["cat"], top=0)
    assert (index["images"][0]["width"], index["images"][0]["height"]) == (2048, 1000)
    assert Image.open(tmp_path / "out" / "large.cat.png").size == (1024, 500)


def test_out_must_be_a_folder_of_its_own(bcos: Explainer, folder: Path) -> None:
    with pytest.raises(ConfigError, match="is a file"):
        write_explanations(bcos, [folder / "a.jpg"], folder / "notes.txt", names=[], top=1)
    with pytest.raises(ConfigError, match="holds the pictures"):
        write_explanations(bcos, [folder / "a.jpg"], folder, names=[], top=1)
