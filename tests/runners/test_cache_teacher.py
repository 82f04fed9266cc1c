"""A teacher's answers as a job in this process: frozen equals live, interruption, mending, and what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from raytrain_xai.cli.main import cli
from raytrain_xai.config import RunConfig, dump_config, parse_config
from raytrain_xai.data import teacher_plan
from raytrain_xai.data.loader import TrainingData, load_samples
from raytrain_xai.data.run_data import open_run_data
from raytrain_xai.data.teacher_answers import TeacherAnswers
from raytrain_xai.distill.objective import DistillObjective
from raytrain_xai.distill.teacher import StoredTeacher
from raytrain_xai.errors import ConfigError, DataError, RunError
from raytrain_xai.models.zoo import build_network
from raytrain_xai.runners import cache_teacher as module
from raytrain_xai.runners.cache_teacher import cache_teacher
from raytrain_xai.runners.tasks import Crew
from raytrain_xai.runners.tutor import build_tutor
from raytrain_xai.sections import ResourcesConfig
from raytrain_xai.storage import Location, locate

Records = list[dict[str, Any]]
MakeConfig = Callable[..., RunConfig]
CPU = torch.device("cpu")


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    """24 images become 5 shards."""
    monkeypatch.setattr(teacher_plan, "_SHARD_IMAGES", 5)


@pytest.fixture(scope="session")
def teachers(birds: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """``distill.teacher`` of a B-cos and of a plain network with random weights and statistics of real images."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("teachers")
    batch, _ = load_samples(str(birds), "train", list(range(24)), 48)
    found: dict[str, str] = {}
    for name in ("bcos_resnet_tiny", "squeezenet1_1"):
        torch.manual_seed(0)
        network = build_network(name, 2, norm_statistics="batch").train()
        with torch.no_grad():
            network(batch.images)
        save_file(network.net.state_dict(), str(folder / f"{name}.safetensors"))
        found[name] = f"{name}={folder / name}.safetensors"
    return found


@pytest.fixture
def make_config(birds: Path, teachers: dict[str, str], tmp_path: Path) -> MakeConfig:
    """A student of the B-cos teacher; keyword arguments replace keys, dicts go one level deep."""

    def make(**changes: Any) -> RunConfig:
        raw: dict[str, Any] = {
            "name": "student", "storage": str(tmp_path / "runs"), "epochs": 1, "workers": 0, "batch_size": 8,
            "data": {"path": str(birds), "image_size": 48},
            "model": {"name": "bcos_resnet_tiny", "norm_statistics": "batch"},
            "evaluation": {"batch_size": 4, "select": "last"},
            "distill": {
                "teacher": teachers["bcos_resnet_tiny"], "cache": str(tmp_path / "answers"), "explanation_weight": 1.0
            },
        }  # fmt: skip
        for key, value in changes.items():
            raw[key] = {**raw.get(key, {}), **value} if isinstance(value, dict) else value
        return parse_config(raw)

    return make


def cache(config: RunConfig, **options: Any) -> Records:
    records: Records = []
    cache_teacher(config, options.pop("out", None), Crew(0, ResourcesConfig()), records.append, **options)
    return records


def place(config: RunConfig) -> Path:
    assert config.distill is not None and config.distill.cache is not None
    return Path(config.distill.cache)


@pytest.mark.parametrize(("teacher", "kind"), [("bcos_resnet_tiny", "weights"), ("squeezenet1_1", "gradcam")])
def test_frozen_is_live_where_nothing_is_augmented(
    make_config: MakeConfig, teachers: dict[str, str], teacher: str, kind: str
) -> None:
    """Logits to rounding (batches are others), maps to 11 bits; so are the loss and what it tells the student."""
    config = make_config(distill={"teacher": teachers[teacher]}, model={"name": teacher})
    cache(config)
    info = open_run_data(config.data, config.seed)
    torch.manual_seed(1)
    student = build_network(teacher, 2, norm_statistics="batch").train()
    tutor = build_tutor(student, config, info, CPU)
    assert tutor is not None and tutor.measures.kind == kind
    objectives = [
        DistillObjective(student, who, config) for who in (tutor.measures, StoredTeacher(tutor.measures.kind))
    ]
    batch = next(iter(TrainingData(config, info, rank=0, world_size=1).epoch(0)))
    live, frozen = tutor.measures(batch, with_maps=True), batch.teacher
    assert frozen is not None and frozen.maps is not None and live.maps is not None
    torch.testing.assert_close(frozen.logits, live.logits, rtol=1e-5, atol=1e-5)
    largest = live.maps.abs().amax(dim=(1, 2, 3), keepdim=True)
    assert ((frozen.maps - live.maps).abs() <= 2**-11 * live.maps.abs() + 1e-5 * largest).all()
    outputs = [objective.eval()(batch, 0, 1) for objective in objectives]
    for name, rounding in (("kd_sum", 1e-5), ("exp_sum", 2**-11)):
        torch.testing.assert_close(outputs[0].sums[name], outputs[1].sums[name], rtol=rounding, atol=1e-5)
    gradients = [
        torch.cat([g.flatten() for g in torch.autograd.grad(output.loss, [*student.parameters()])])
        for output in outputs
    ]
    assert (gradients[0] - gradients[1]).norm() <= 2e-3 * gradients[0].norm()


def test_maps_are_averaged_over_areas(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config()
    cache(config)
    records = cache(config, out=str(tmp_path / "small"), size=8, bits=8)
    full, small = (TeacherAnswers(locate(str(at)), with_maps=True) for at in (place(config), tmp_path / "small"))
    rows = torch.arange(24).numpy()
    a, b = full.about(rows), small.about(rows)
    assert torch.equal(a.logits, b.logits) and a.maps is not None and b.maps is not None
    pooled = a.maps.unflatten(3, (8, 6)).unflatten(2, (8, 6)).mean(dim=(3, 5))
    limit = pooled.abs().amax(dim=(1, 2, 3), keepdim=True) * (0.5 / 127 + 1e-3)
    assert ((b.maps - pooled).abs() <= limit).all()
    first = records[0]["message"]
    assert "24 images: logits of 2 classes and weights maps 6 x 8 x 8 in 8 bits, 396 bytes each, take 0.0 MB" in first
    assert first.endswith("0 of 5 shards are there")
    assert full.plan.map_shape == (6, 48, 48) and small.plan.map_shape == (6, 8, 8)


def test_without_explanations_only_logits_are_kept(make_config: MakeConfig) -> None:
    config = make_config(distill={"explanation_weight": 0.0}, data={"shots": 2})
    cache(config)
    plan = TeacherAnswers(locate(str(place(config))), with_maps=False).plan
    assert plan.kind is None and plan.map_shape is None and plan.image_bytes == 8
    assert plan.num_images == 24, "whatever the shots"


def test_an_interrupted_job_goes_on_and_a_finished_store_is_mended(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, straight = make_config(), tmp_path / "straight"
    cache(config, out=str(straight))
    real, written = module.write_shard, list[int]()

    def write_or_die(at: Location, plan: Any, shard: int, *answers: Any) -> Any:
        if shard == 3 and len(written) == 3:
            raise Killed
        written.append(shard)
        return real(at, plan, shard, *answers)

    monkeypatch.setattr(module, "write_shard", write_or_die)
    with pytest.raises(Killed):
        cache(config)
    with pytest.raises(DataError, match="is not complete; run `raytrain-xai distill cache CONFIG`"):
        TeacherAnswers(locate(str(place(config))), with_maps=True)
    written.append(-1)
    records = cache(config)
    assert written == [0, 1, 2, -1, 3, 4] and "3 of 5 shards are there" in records[0]["message"]

    def contents(at: Path) -> dict[str, bytes]:
        return {file.name: file.read_bytes() for file in at.rglob("*.*")}

    good = contents(straight)
    assert contents(place(config)) == good and len(good) == 12
    assert [r["kind"] for r in cache(config)] == ["event"], "nothing is done again"
    victim = place(config) / "shards" / "00001.safetensors"
    victim.write_bytes(victim.read_bytes()[:-1] + b"x")
    cache(config)
    assert written[6:] == [1] and contents(place(config)) == good


def test_a_full_disk_is_known_before_anything_is_written(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=24 * (8 + 4 + 6 * 24 * 24)))
    with pytest.raises(ConfigError, match=r"and .* has 0.1 MB free; --size 24 --bits 8 fits; or give a larger disk"):
        cache(config)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=24))
    with pytest.raises(ConfigError, match="0.0 MB free; give a larger disk or an s3:// address with --out"):
        cache(config)
    assert not place(config).exists()


def test_wrong_input_is_refused(make_config: MakeConfig, teachers: dict[str, str], tmp_path: Path) -> None:
    config = make_config()
    with pytest.raises(ConfigError, match="--size 20 does not divide the side of the maps, 48 cells; choices: 48, 24,"):
        cache(config, size=20)
    with pytest.raises(ConfigError, match="has no section distill; set distill.teacher"):
        cache(config.model_copy(update={"distill": None}))
    with pytest.raises(ConfigError, match="give --out FOLDER or s3://BUCKET/PATH, or set distill.cache"):
        cache(make_config(distill={"cache": None}))
    with pytest.raises(ConfigError, match="follow crops, shifts and mirrors only"):
        cache(make_config(distill={"cache": None}, data={"erase": 0.5}), out=str(tmp_path / "x"))
    cache(config)
    with pytest.raises(DataError, match=r"holds other answers: .*teacher [0-9a-f]{12} instead of [0-9a-f]{12}"):
        cache(make_config(model={"name": "squeezenet1_1"}, distill={"teacher": teachers["squeezenet1_1"]}))
    with pytest.raises(DataError, match="holds other answers: bits 16 instead of 8;"):
        cache(config, bits=8)


def test_answers_that_are_not_finite_stop_the_job(make_config: MakeConfig, tmp_path: Path, birds: Path) -> None:
    from safetensors.torch import load_file, save_file

    config = make_config()
    assert config.distill is not None
    weights = load_file(config.distill.teacher.partition("=")[2])
    weights["conv1.linear.weight"][0, 0, 0, 0] = float("nan")
    save_file(weights, str(tmp_path / "bad.safetensors"))
    bad = make_config(distill={"teacher": f"bcos_resnet_tiny={tmp_path / 'bad.safetensors'}"})
    with pytest.raises(DataError, match="the answer of bcos_resnet_tiny is not finite for image '(.*)'") as caught:
        cache(bad)
    assert str(caught.value).split("'")[1] in load_samples(str(birds), "train", list(range(24)), 48)[1]


def test_workers_that_write_elsewhere_are_noticed(make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the store is a folder that only looks the same on every node."""
    config, real = make_config(), module.write_shard

    def write(at: Location, *answers: Any) -> Any:
        return real(locate(f"{at.path}-of-another-node"), *answers)

    monkeypatch.setattr(module, "write_shard", write)
    with pytest.raises(RunError, match="^5 shards that workers wrote are not in .* here; use storage all nodes share$"):
        cache(config)


def test_the_command_writes_and_verifies(make_config: MakeConfig, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(dump_config(make_config()))
    for _ in range(2):
        done = CliRunner().invoke(cli, ["distill", "cache", str(file), "--bits", "8", "--size", "8"])
        assert done.exit_code == 0, done.output
        assert done.output.splitlines()[-2:] == [
            "24 answers of 396 bytes in 5 shards", f"written to {tmp_path / 'answers'}; set distill.cache to it"
        ]  # fmt: skip


@pytest.mark.ray
@pytest.mark.timeout(240)
def test_two_workers_write_the_bytes_of_one_process(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With maps so large that 24 images are two shards: the workers know nothing of a smaller limit set here."""
    monkeypatch.undo()
    config, threads = make_config(data={"image_size": 320}), torch.get_num_threads()
    torch.set_num_threads(1)  # as each worker has
    try:
        cache(config, out=str(tmp_path / "alone"))
    finally:
        torch.set_num_threads(threads)
    records: Records = []
    two = Crew(2, ResourcesConfig(), address="local")
    _, manifest = cache_teacher(config, str(tmp_path / "shared"), two, records.append)
    alone, shared = (
        {str(file.relative_to(at)): file.read_bytes() for file in at.rglob("*.*")}
        for at in (tmp_path / "alone", tmp_path / "shared")
    )
    assert alone == shared and len(manifest.shards) == 2
    assert {file for file in shared if file.endswith(".safetensors")} == {
        f"shards/{number:05d}.safetensors" for number in range(2)
    }
    assert [r["done"] for r in records if r["kind"] == "tasks"][-1] == 24
