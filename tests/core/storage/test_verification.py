"""Reading everything that is stored and finding the one bit that changed, wherever it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from raytrain_xai.cli.main import cli
from raytrain_xai.data import feature_store, teacher_store
from raytrain_xai.data.dataset import StoredSplit
from raytrain_xai.data.feature_store import FeaturePlan
from raytrain_xai.data.prepare import prepare
from raytrain_xai.data.sources import read_source
from raytrain_xai.data.teacher_plan import AnswerPlan
from raytrain_xai.errors import CheckpointError, ConfigError, DataError
from raytrain_xai.publish import publish_run
from raytrain_xai.sealed import seal, unseal
from raytrain_xai.storage import locate
from raytrain_xai.verification import verify

MakeRun = Callable[..., str]
FEATURES = FeaturePlan(
    tap="Mid2", dim=4, size=(2, 3), per_image=2, sampling="contribution", seed=0, network_name="net",
    network="a" * 64, data="d" * 64, split="train", num_images=5, images_per_shard=2, image_size=48, eval_resize=None,
)  # fmt: skip
ANSWERS = AnswerPlan(
    teacher_name="resnet18", teacher="a" * 64, classes=("x", "y"), data="b" * 64, num_images=3, image_size=32,
    kind="weights", map_shape=None, bits=16, images_per_shard=2,
)  # fmt: skip


def flip(file: Path, place: int) -> None:
    """Change one bit."""
    content = bytearray(file.read_bytes())
    content[place] ^= 4
    file.write_bytes(content)


def make_features(folder: Path, _: MakeRun) -> None:
    at = locate(str(folder))
    feature_store.claim_store(at, FEATURES)
    rows = [torch.randn(2 * len(FEATURES.images_of(shard)), 4) for shard in range(FEATURES.num_shards)]
    shards = [feature_store.write_shard(at, FEATURES, shard, own) for shard, own in enumerate(rows)]
    feature_store.finish_store(at, FEATURES, shards)


def make_answers(folder: Path, _: MakeRun) -> None:
    at = locate(str(folder))
    teacher_store.claim_store(at, ANSWERS)
    sizes = [len(ANSWERS.images_of(shard)) for shard in range(ANSWERS.num_shards)]
    shards = [teacher_store.write_shard(at, ANSWERS, k, torch.randn(size, 2), None) for k, size in enumerate(sizes)]
    teacher_store.finish_store(at, ANSWERS, shards)


def make_data(folder: Path, _: MakeRun) -> None:
    prepare(read_source("scenes-birds", None, 0, {"num_train": 24, "size": 48}), str(folder), shard_rows=10)


def make_published(folder: Path, make_run: MakeRun) -> None:
    make_data(folder.with_name("data"), make_run)
    run = make_run(folder.parent, "trained", str(folder.with_name("data")))
    publish_run(run, str(folder), license_name="CC0-1.0", num_pictures=1)


@pytest.mark.parametrize(
    ("make", "parts", "damaged"),
    [
        (make_features, 3, "shards/00001.safetensors"),
        (make_answers, 2, "shards/00001.safetensors"),
        (make_data, 6, "train/part-00001.parquet"),
        (make_published, None, "metrics.json"),
    ],
    ids=["features", "answers", "data", "published"],
)
def test_one_bit_in_one_file(
    tmp_path: Path, make_run: MakeRun, make: Callable[[Path, MakeRun], None], parts: int | None, damaged: str
) -> None:
    folder = tmp_path / "stored"
    make(folder, make_run)
    whole = CliRunner().invoke(cli, ["storage", "verify", str(folder)], catch_exceptions=False)
    assert whole.exit_code == 0 and whole.output.endswith("parts, all as they were written\n")
    assert parts is None or whole.output.startswith(f"{folder}: {parts} parts")
    flip(folder / damaged, (folder / damaged).stat().st_size // 2)
    assert [verdict.name for verdict in verify(locate(str(folder))) if verdict.problem] == [damaged]
    done = CliRunner().invoke(cli, ["storage", "verify", str(folder)])
    assert isinstance(done.exception, DataError | CheckpointError)
    assert "1 of" in str(done.exception) and f"damaged: {damaged}: " in done.stderr
    (folder / damaged).unlink()
    assert [verdict.name for verdict in verify(locate(str(folder))) if verdict.problem] == [damaged]


def test_places_without_anything_to_verify(tmp_path: Path, make_run: MakeRun, birds: str) -> None:
    with pytest.raises(ConfigError, match="holds neither config.yaml nor manifest.json; give a run"):
        list(verify(locate(str(tmp_path))))
    (tmp_path / "manifest.json").write_text("[")
    with pytest.raises(DataError, match="manifest.json is damaged"):
        list(verify(locate(str(tmp_path))))
    run = Path(make_run(tmp_path, "run", birds))
    for manifest in run.glob("checkpoints/*/manifest.json"):
        manifest.unlink()
    with pytest.raises(ConfigError, match="no complete checkpoint yet"):
        list(verify(locate(str(run))))


def test_a_bit_of_an_image_is_found_when_its_row_is_read(tmp_path: Path) -> None:
    """Sizes, footer and annotations are all right, so only the checksum of the page can tell."""
    make_data(tmp_path, lambda: "")
    split = StoredSplit(str(tmp_path), "train")
    image, _ = split.encoded(12)
    file = tmp_path / "train" / "part-00001.parquet"
    flip(file, file.read_bytes().index(image) + len(image) // 2)
    damaged = StoredSplit(str(tmp_path), "train")
    assert damaged.encoded(3)[0] == split.encoded(3)[0]
    with pytest.raises(DataError, match="damaged Parquet data: .*CRC checksum verification failed"):
        damaged.encoded(12)


def test_sealed_tensors_come_back_or_are_refused() -> None:
    tensors = {
        "a": torch.randn(3, 4).half(),
        "b": torch.arange(5),
        "empty": torch.zeros(0, 2),
        "one": torch.tensor(2.5),
    }
    content = seal(tensors)
    assert content == seal(dict(reversed(tensors.items())))
    back = unseal(content)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], value) and back[name].dtype == value.dtype for name, value in tensors.items())
    for place in (len(content) - 1, content.index(b'"a"') + 1):
        changed = bytearray(content)
        changed[place] ^= 1
        with pytest.raises(ValueError, match="differs from its checksum"):
            unseal(bytes(changed))
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        unseal(content[:-3])
    header = json.dumps({"x": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode()
    with pytest.raises(ValueError, match="it has no checksum"):
        unseal(len(header).to_bytes(8, "little") + header + b"\0")
