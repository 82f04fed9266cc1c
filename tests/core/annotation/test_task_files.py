"""Task files as CVAT and Label Studio take them, and the images they are about."""

from __future__ import annotations

import io
import json
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from raytrain_xai.annotation.asked import ask
from raytrain_xai.annotation.looks import Look, look_at
from raytrain_xai.annotation.suggest import suggest
from raytrain_xai.annotation.task_files import labelling_config, upright_file, write_task_files
from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.data.decode import decode_rgb
from raytrain_xai.data.image_names import image_stem
from raytrain_xai.data.loader import load_samples
from raytrain_xai.errors import CheckpointError
from raytrain_xai.explain import Explainer
from raytrain_xai.guidance.metrics import energy_pointing_game
from raytrain_xai.storage import list_names, locate, read_bytes


@pytest.fixture(scope="module")
def run(objects: str, make_run, tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_run(tmp_path_factory.mktemp("runs"), "net", objects, model="bcos_resnet_tiny", image_size=32)


@pytest.fixture(scope="module")
def stored(objects: str) -> StoredSplit:
    return StoredSplit(objects, "train")


def test_tasks_name_the_images_in_order(run: str, stored: StoredSplit, tmp_path: Path) -> None:
    order = suggest(run, strategy="lowest_confidence", seed=0, budget=5)
    write_task_files(locate(str(tmp_path / "to do")), order, stored)
    tasks = json.loads((tmp_path / "to do/label_studio/tasks.json").read_text())
    assert [task["data"]["id"] for task in tasks] == list(order.ids)
    assert [task["data"]["rank"] for task in tasks] == [1, 2, 3, 4, 5]
    assert [task["data"]["score"] for task in tasks] == list(order.scores or ())
    assert all(set(task) == {"data"} for task in tasks)
    for name, task in zip(order.ids, tasks, strict=True):
        prefix, _, file = task["data"]["image"].rpartition("/")
        assert prefix == "/data/local-files/?d=to%20do/images"
        assert file.rpartition(".")[0] == image_stem(name)
        [row] = stored.find([name])
        assert (tmp_path / "to do/images" / file).read_bytes() == stored.encoded(int(row))[0]


def test_labels_are_the_classes(run: str, stored: StoredSplit, tmp_path: Path) -> None:
    write_task_files(locate(str(tmp_path)), suggest(run, strategy="random", seed=0, budget=1), stored)
    labels = json.loads((tmp_path / "cvat/labels.json").read_text())
    assert labels == [{"name": name, "type": "rectangle", "attributes": []} for name in stored.info.classes]
    view = ElementTree.parse(tmp_path / "label_studio/config.xml").getroot()
    image, boxes = view
    assert (image.tag, image.get("value")) == ("Image", "$image")
    assert (boxes.tag, boxes.get("toName")) == ("RectangleLabels", image.get("name"))
    assert [label.get("value") for label in boxes] == list(stored.info.classes)


def test_names_of_classes_may_have_any_characters() -> None:
    names = ['5" <disk> & more', "o'clock", "Käse"]
    boxes = ElementTree.fromstring(labelling_config(names))[1]
    assert [label.get("value") for label in boxes] == names


def test_predictions_are_marked_and_in_percent(run: str, stored: StoredSplit, tmp_path: Path) -> None:
    order = suggest(run, strategy="random", seed=0, budget=1)
    [name] = order.ids
    [row] = stored.find(order.ids)
    width, height = stored.annotations.size[row].tolist()
    boxes = torch.tensor([[0, 0, 9.0, 9.0], [width / 4, height / 2, width * 0.75, height * 1.0]])
    looks = {name: Look(int(row), name, (1, 2), (0.49, 0.75), boxes)}  # the first class is not found
    write_task_files(locate(str(tmp_path)), order, stored, looks, "net step-00000020")
    [task] = json.loads((tmp_path / "label_studio/tasks.json").read_text())
    assert "annotations" not in task
    [prediction] = task["predictions"]
    assert (prediction["model_version"], prediction["score"]) == ("net step-00000020", 0.75)
    [result] = prediction["result"]
    assert result["score"] == 0.75
    assert (result["original_width"], result["original_height"]) == (width, height)
    config = ElementTree.parse(tmp_path / "label_studio/config.xml").getroot()
    assert (result["to_name"], result["from_name"]) == (config[0].get("name"), config[1].get("name"))
    assert result["type"] == "rectanglelabels"
    assert result["value"] == {
        "x": 25.0, "y": 50.0, "width": 50.0, "height": 50.0, "rotation": 0,
        "rectanglelabels": [stored.info.classes[2]],
    }  # fmt: skip


def test_nothing_found_is_nothing_predicted(run: str, stored: StoredSplit, tmp_path: Path) -> None:
    order = suggest(run, strategy="random", seed=0, budget=1)
    looks = {order.ids[0]: Look(0, order.ids[0], (1,), (0.2,), torch.tensor([[0, 0, 9.0, 9.0]]))}
    write_task_files(locate(str(tmp_path)), order, stored, looks, "net step-00000020")
    [task] = json.loads((tmp_path / "label_studio/tasks.json").read_text())
    assert set(task) == {"data"}


def test_looks_explain_every_class_of_an_image(run: str, objects: str, stored: StoredSplit) -> None:
    """Against the explainer, image by image; and the box of a class holds the middle of its evidence."""
    ids = stored.annotations.ids.to_pylist()[5:12]
    asked = ask(run, stored, which="selected", device="cpu")
    looks = list(look_at(asked, stored, ids))
    assert [look.id for look, _ in looks] == ids
    for look, maps in looks:
        batch, _ = load_samples(objects, "train", [look.id], 32)
        assert look.labels == tuple(batch.labels[0].nonzero().flatten().tolist())
        names = [asked.explainer.classes[label] for label in look.labels]
        explained = {one.index: one for one in asked.explainer(batch.images, names=names, top=0)[0].classes}
        for number, label in enumerate(look.labels):
            assert look.probabilities[number] == pytest.approx(explained[label].probability, rel=1e-5)
            torch.testing.assert_close(maps[number], explained[label].attribution, atol=1e-5, rtol=1e-4)
        assert (look.boxes >= 0).all()
        assert (look.boxes <= 48).all()  # stored images have 48 pixels, the network sees 32
        region = _pixels(look.boxes * 32 / 48, 32)
        assert (energy_pointing_game(maps, region) >= 0.88).all()  # 5 % are left out along each axis, pixels are whole


def test_looks_of_a_broken_network_are_refused(run: str, stored: StoredSplit) -> None:
    asked = ask(run, stored, which="selected", device="cpu")
    with torch.no_grad():
        next(asked.explainer.network.parameters()).fill_(float("nan"))
    with pytest.raises(CheckpointError, match="non-finite"):
        list(look_at(asked, stored, stored.annotations.ids.to_pylist()[:1]))


def _pixels(boxes: torch.Tensor, size: int) -> torch.Tensor:
    """(n, S, S) bool: pixels that a box touches."""
    edge = torch.arange(size)
    x0, y0, x1, y1 = (side[:, None] for side in boxes.unbind(dim=1))
    across, down = (edge + 1 > x0) & (edge < x1), (edge + 1 > y0) & (edge < y1)
    return down[:, :, None] & across[:, None, :]


def test_boxes_are_in_pixels_of_the_whole_picture(run: str, stored: StoredSplit) -> None:
    """A network that sees the middle 32 of 40 pixels, of an image of 48: its boxes lie between 4.8 and 43.2."""
    asked = ask(run, stored, which="selected", device="cpu")
    whole = asked.explainer
    cut = Explainer(
        whole.network, classes=whole.classes, image_size=32, method=whole.method, layer=whole.layer, shorter=40
    )
    for look, _ in look_at(type(asked)(cut, "net", "step", 4), stored, stored.annotations.ids.to_pylist()[:6]):
        assert float(look.boxes.min()) >= 4.8 - 1e-4
        assert float(look.boxes.max()) <= 43.2 + 1e-4


def test_turned_photographs_leave_as_they_are_read(make_turned: bytes) -> None:
    """EXIF says "turn by 90 degrees", which tools obey and data sets do not: the file that leaves has no EXIF."""
    data, suffix = upright_file(make_turned)
    assert suffix == "png"
    with Image.open(io.BytesIO(data)) as image:
        assert len(image.getexif()) == 0
        assert np.array_equal(np.asarray(image), decode_rgb(make_turned))


@pytest.fixture
def make_turned() -> bytes:
    picture = Image.effect_noise((20, 10), 60).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize(("format", "suffix"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("BMP", "bmp")])
def test_other_files_leave_unchanged(format: str, suffix: str) -> None:
    buffer = io.BytesIO()
    Image.effect_noise((20, 10), 60).convert("RGB").save(buffer, format=format)
    assert upright_file(buffer.getvalue()) == (buffer.getvalue(), suffix)


def test_a_bucket_serves_its_images_itself(run: str, stored: StoredSplit, s3_storage: str) -> None:
    folder = locate(s3_storage).child("todo")
    order = suggest(run, strategy="random", seed=0, budget=2)
    write_task_files(folder, order, stored)
    tasks = json.loads(read_bytes(folder.child("label_studio", "tasks.json")))
    files = list_names(folder.child("images"))
    assert sorted(task["data"]["image"] for task in tasks) == [f"s3://bucket/runs/todo/images/{file}" for file in files]
    assert len(files) == 2
