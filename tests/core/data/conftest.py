"""Small data sets in the layouts that users have, and an S3 server on loopback."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raytrain_xai.data.prepare import prepare
from raytrain_xai.data.scenes import SceneOptions, read_scenes_birds, read_scenes_multi


def jpeg(width: int, height: int, seed: int = 0) -> bytes:
    """A JPEG of random colours."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG")
    return buffer.getvalue()


@pytest.fixture
def make_jpeg() -> Callable[..., bytes]:
    return jpeg


def voc_xml(objects: list[tuple[str, tuple[object, ...]]]) -> str:
    parts = [
        f"<object><name>{name}</name><difficult>1</difficult>"
        f"<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part>"
        f"<bndbox><xmin>{b[0]}</xmin><ymin>{b[1]}</ymin><xmax>{b[2]}</xmax><ymax>{b[3]}</ymax></bndbox></object>"
        for name, b in objects
    ]
    return f"<annotation>{''.join(parts)}</annotation>"


class Devkit:
    """A VOC devkit that grows image by image."""

    def __init__(self, parent: Path, year: int = 2007) -> None:
        self.root = parent / "VOCdevkit" / f"VOC{year}"
        for folder in ("Annotations", "JPEGImages", "ImageSets/Main", "SegmentationClass"):
            (self.root / folder).mkdir(parents=True)

    def add(self, split: str, image_id: str, objects: list[tuple[str, tuple[object, ...]]], size=(40, 30)) -> None:
        (self.root / "JPEGImages" / f"{image_id}.jpg").write_bytes(jpeg(*size))
        (self.root / "Annotations" / f"{image_id}.xml").write_text(voc_xml(objects))
        self.list(split, image_id)

    def list(self, split: str, image_id: str) -> None:
        with (self.root / "ImageSets" / "Main" / f"{split}.txt").open("a") as file:
            file.write(f"{image_id}\n")

    def add_mask(self, image_id: str, mask: np.ndarray) -> None:
        picture = Image.fromarray(mask)
        picture.putpalette([0, 0, 0] * 256)
        picture.save(self.root / "SegmentationClass" / f"{image_id}.png")


@pytest.fixture
def devkit(tmp_path: Path) -> Devkit:
    return Devkit(tmp_path)


@pytest.fixture(scope="session")
def birds(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Stored scenes-birds: 150 / 37 / 75 images of 32 px in shards of 90 rows (two row groups)."""
    folder = str(tmp_path_factory.mktemp("stored") / "birds")
    prepare(read_scenes_birds(None, SceneOptions(num_train=150, size=32)), folder, shard_rows=90)
    return folder


@pytest.fixture(scope="session")
def multi(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Stored scenes-multi: 40 / 10 / 20 images of 64 px."""
    folder = str(tmp_path_factory.mktemp("stored") / "multi")
    prepare(read_scenes_multi(None, SceneOptions(num_train=40, size=64)), folder, shard_rows=16)
    return folder


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """HOST:PORT of an S3 server with the bucket ``bucket``, and credentials in the environment."""
    boto3 = pytest.importorskip("boto3")
    server_module = pytest.importorskip("moto.server")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.delenv("AWS_ENDPOINT_URL", raising=False)
        server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        boto3.client("s3", endpoint_url=f"http://{host}:{port}").create_bucket(Bucket="bucket")
        yield f"{host}:{port}"
        server.stop()
