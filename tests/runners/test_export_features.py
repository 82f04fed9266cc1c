"""Feature export in this process and to S3: what is written, interruption, mending, and disks that are too small."""

from __future__ import annotations

import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from raytrain_xai.cli.main import cli
from raytrain_xai.concept_config import ConceptRunConfig
from raytrain_xai.concept_runs.network import adopt_network
from raytrain_xai.concepts.positions import sampled_vectors
from raytrain_xai.config import dump_config, parse_concept_config
from raytrain_xai.data.feature_shards import FeatureStore, Segment
from raytrain_xai.data.loader import load_samples
from raytrain_xai.errors import ConfigError, DataError, RunError
from raytrain_xai.features import plan as feature_plan
from raytrain_xai.features.source import open_vectors
from raytrain_xai.runners import export_features as module
from raytrain_xai.runners.export_features import export_features
from raytrain_xai.runners.job import Launch
from raytrain_xai.storage import Location, locate, read_bytes

Records = list[dict[str, Any]]
MakeExport = Callable[..., ConceptRunConfig]
LAYERS = ("Mid2", "Final")


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """24 images become 5 shards."""
    monkeypatch.setattr(feature_plan, "IMAGES_PER_SHARD", 5)


@pytest.fixture
def make_export(birds: Path, tmp_path: Path) -> MakeExport:
    """A concept run of a network with random weights; ``seed`` is of these weights."""
    from safetensors.torch import save_file

    from raytrain_xai.models.zoo import build_network

    def make(store: str | None = None, seed: int = 0, **changes: Any) -> ConceptRunConfig:
        weights = tmp_path / f"weights-{seed}.safetensors"
        torch.manual_seed(seed)
        save_file(build_network("bcos_resnet_tiny", 2).net.state_dict(), str(weights))
        raw: dict[str, Any] = {
            "job": "concepts", "name": "c", "network": f"bcos_resnet_tiny={weights}", "data": str(birds),
            "layer": "Mid2", "image_size": 48, "workers": 0, "batch_size": 16, "sae": {"latents": 8, "k": 2},
            "features": {"store": store or str(tmp_path / "store"), "per_image": 3}, "evaluation": {"batch_size": 4},
        }  # fmt: skip
        return parse_concept_config({**raw, **changes})

    return make


def export(config: ConceptRunConfig, layers: tuple[str, ...] = LAYERS) -> Records:
    records: Records = []
    export_features(config, layers, Launch("local", records.append))
    return records


def stores(config: ConceptRunConfig) -> dict[str, Location]:
    assert config.features.store is not None
    return {tap: locate(config.features.store).child(tap) for tap in LAYERS}


def contents(config: ConceptRunConfig) -> dict[str, bytes]:
    names = ["manifest.json", *(f"shards/{shard:05d}.safetensors" for shard in range(5))]
    return {
        f"{tap}/{name}": read_bytes(at.child(*name.split("/"))) for tap, at in stores(config).items() for name in names
    }


def test_shards_hold_the_drawn_vectors_of_every_image(make_export: MakeExport, birds: Path) -> None:
    """Against the images taken one by one in their stored order."""
    config = make_export()
    records = export(config)
    network = adopt_network(config).network
    batch, _ = load_samples(str(birds), "train", list(range(24)), 48)
    how: Any = {"sampling": "contribution", "seed": 512, "epoch": 0}
    drawn = [
        sampled_vectors(network, image[None], torch.tensor([row]), dict.fromkeys(LAYERS, 3), **how)
        for row, image in enumerate(batch.images)
    ]
    for tap in LAYERS:
        opened = FeatureStore(stores(config)[tap])
        shards = opened.manifest.shards
        assert [shard.rows for shard in shards] == [15, 15, 15, 15, 12]
        parts = opened.rows([Segment(shard, 0, record.rows) for shard, record in enumerate(shards)])
        found = torch.cat([part.float() * opened.unit(shard) for shard, part in enumerate(parts)])
        expected = torch.cat([vectors[tap][0] for vectors in drawn])
        views = torch.randn(opened.manifest.plan.dim, 5, generator=torch.Generator().manual_seed(0))
        a, b = ((rows @ views).sort(dim=0).values for rows in (found, expected))
        torch.testing.assert_close(a, b, rtol=2e-3, atol=2e-3 * float(b.abs().max()))
        assert opened.manifest.scale == pytest.approx(float(expected.square().sum(dim=1).mean().sqrt()), rel=1e-5)
        neighbours = torch.cdist(found[:15], expected).argmin(dim=1).div(3, rounding_mode="floor")
        assert (neighbours[1:] == neighbours[:-1]).sum() < 8, "vectors of an image do not stay together"
    first = records[0]["message"]
    assert first.startswith("Mid2: 72 vectors of ") and first.endswith("0 of 5 shards are there")
    assert records[-1]["kind"] == "tasks" and records[-1]["done"] == records[-1]["total"] == 24


def test_an_interrupted_export_goes_on(
    make_export: MakeExport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = make_export(), make_export(str(tmp_path / "broken"))
    export(straight)
    real, calls = module.write_shard, 0

    def write_or_die(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:  # in the middle of the third task
            raise Killed
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_shard", write_or_die)
        with pytest.raises(Killed):
            export(broken)
    with pytest.raises(DataError, match="Mid2 is not finished: run"):
        open_vectors(broken, adopt_network(broken), rank=0, world_size=1, device=torch.device("cpu"))
    written: list[tuple[str, int]] = []

    def write(at: Location, plan: Any, shard: int, vectors: torch.Tensor) -> Any:
        written.append((plan.tap, shard))
        return real(at, plan, shard, vectors)

    monkeypatch.setattr(module, "write_shard", write)
    records = export(broken)
    assert written == [("Final", 2), ("Mid2", 3), ("Final", 3), ("Mid2", 4), ("Final", 4)]
    assert records[1]["message"].endswith("2 of 5 shards are there")
    assert contents(broken) == contents(straight)


def test_a_finished_store_is_verified_and_mended(make_export: MakeExport) -> None:
    config = make_export()
    export(config)
    good = contents(config)
    assert [r["kind"] for r in export(config)] == ["event", "event"], "nothing is done again"
    victim = Path(stores(config)["Final"].path) / "shards" / "00001.safetensors"
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(DataError, match="00001.safetensors has .* export again to mend it"):
        FeatureStore(stores(config)["Final"])
    export(config)
    FeatureStore(stores(config)["Final"])
    assert {name for name, content in contents(config).items() if content != good[name]} <= {
        "Final/manifest.json", "Final/shards/00001.safetensors"
    }, "only rounding may differ: this time one layer was exported alone"  # fmt: skip


def test_a_full_disk_is_known_before_anything_is_written(
    make_export: MakeExport, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_export(features={"store": make_export().features.store, "per_image": 3})
    dims = {tap: feature_plan.plan_features(config, adopt_network(config), tap).dim for tap in LAYERS}
    usage = namedtuple("usage", ["total", "used", "free"])
    one = 24 * 2 * sum(dims.values())  # bytes of one position of every image, both layers
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 3 * one - 1))
    with pytest.raises(
        ConfigError, match="set features.per_image to 2 or less, or set features.store to a larger disk"
    ):
        export(config)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, one - 1))
    with pytest.raises(ConfigError, match=r"free; set features.store to a larger disk or an s3:// address"):
        export(config)
    assert not Path(stores(config)["Mid2"].path).exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(0, 0, 3 * one))
    export(config)


def test_wrong_input_is_refused(make_export: MakeExport) -> None:
    config = make_export()
    with pytest.raises(ConfigError, match="no layer 'Mid9'; did you mean Mid"):
        export(config, ("Mid9",))
    with pytest.raises(ConfigError, match="layer=Input is the image itself"):
        export(config, ("Input",))
    with pytest.raises(ConfigError, match="features.store is not set"):
        export(make_export(features={}))
    with pytest.raises(DataError, match="has no split 'dev'; set features.split to train or val or test"):
        export(make_export(features={"store": config.features.store, "split": "dev"}))
    export(config)
    with pytest.raises(DataError, match="Mid2 holds other features: network [0-9a-f]{12} instead of [0-9a-f]{12};"):
        export(make_export(seed=1))


def test_workers_that_write_elsewhere_are_noticed(make_export: MakeExport, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the store is a folder that only looks the same on every node."""
    config, real = make_export(), module.write_shard

    def write(at: Location, *args: Any) -> Any:
        return real(locate(f"{at.path}-of-another-node"), *args)

    monkeypatch.setattr(module, "write_shard", write)
    with pytest.raises(
        RunError, match="^5 shards that workers wrote are not in .*Mid2 here; use storage all nodes share$"
    ):
        export(config)


def test_features_that_are_not_finite_stop_the_export(make_export: MakeExport, birds: Path) -> None:
    from safetensors.torch import load_file, save_file

    config = make_export()
    file = config.network.partition("=")[2]
    weights = load_file(file)
    weights["conv1.linear.weight"][0, 0, 0, 0] = float("nan")
    save_file(weights, file)
    ids = load_samples(str(birds), "train", list(range(24)), 48)[1]
    with pytest.raises(
        DataError, match="features of bcos_resnet_tiny at Mid2 are not finite for image '(.*)'"
    ) as caught:
        export(config, ("Mid2",))
    assert str(caught.value).split("'")[1] in ids


def test_the_command_exports_and_verifies(make_export: MakeExport, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(dump_config(make_export()))
    for _ in range(2):
        done = CliRunner().invoke(cli, ["concepts", "features", str(file), "--layer", "Final", "--workers", "0"])
        assert done.exit_code == 0, done.output
        assert "vectors of" in done.output and "Final: 72 vectors" in done.output.splitlines()[-2]
    assert (tmp_path / "store" / "Final" / "manifest.json").is_file() and not (tmp_path / "store" / "Mid2").exists()
    file.write_text("{name: x, epochs: 1, data: {path: x}, model: {name: resnet18}}")
    refused = CliRunner().invoke(cli, ["concepts", "features", str(file)])
    assert isinstance(refused.exception, ConfigError) and "job: concepts" in str(refused.exception)
