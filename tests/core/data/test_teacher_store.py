"""Stored answers of a teacher: what is kept of them, and that nothing but a whole store of the right origin is read."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from raytrain_xai.config import RunConfig, parse_config
from raytrain_xai.data.dataset import open_dataset
from raytrain_xai.data.loader import TrainingData
from raytrain_xai.data.teacher_answers import TeacherAnswers
from raytrain_xai.data.teacher_plan import AnswerPlan, images_per_shard
from raytrain_xai.data.teacher_store import (
    check_place,
    check_store,
    claim_store,
    decode_maps,
    encode_maps,
    finish_store,
    read_manifest,
    write_shard,
)
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.storage import Location, locate
from raytrain_xai.types import Batch

PLAN = AnswerPlan(
    teacher_name="resnet18", teacher="a" * 64, classes=("x", "y", "z"), data="b" * 64, num_images=11, image_size=32,
    kind="weights", map_shape=(6, 8, 8), bits=16, images_per_shard=4,
)  # fmt: skip


def answers_to(plan: AnswerPlan) -> tuple[Tensor, Tensor]:
    """Random logits (n, C) and maps (n, D, h, w) of very different sizes."""
    generator = torch.Generator().manual_seed(0)
    size = 10 ** (torch.rand(plan.num_images, 1, 1, 1, generator=generator) * 12 - 8)
    maps = torch.randn(plan.num_images, *(plan.map_shape or (1, 1, 1)), generator=generator) * size
    return torch.randn(plan.num_images, len(plan.classes), generator=generator), maps


def store_at(at: Location, plan: AnswerPlan = PLAN) -> tuple[Tensor, Tensor]:
    """Write random answers; returns what was written."""
    logits, maps = answers_to(plan)
    claim_store(at, plan)
    records: list[Any] = []
    for shard in range(plan.num_shards):
        own = list(plan.images_of(shard))
        codes = None if plan.map_shape is None else encode_maps(maps[own], plan.bits)
        records.append(write_shard(at, plan, shard, logits[own], codes))
    finish_store(at, plan, records)
    return logits, maps


def test_codes_by_hand() -> None:
    maps = torch.tensor([[[[2.54, -1.0], [0.01, 0.0]]], [[[0.0, 0.0], [0.0, 0.0]]]])
    codes, scales = encode_maps(maps, 8)
    assert codes.dtype == torch.int8 and codes.tolist() == [[[[127, -50], [0, 0]]], [[[0, 0], [0, 0]]]]
    torch.testing.assert_close(scales, torch.tensor([0.02, 0.0]))
    codes, scales = encode_maps(maps, 16)
    assert codes.dtype == torch.float16 and scales.tolist() == pytest.approx([2.54, 0.0])
    torch.testing.assert_close(decode_maps(codes, scales), maps, rtol=2**-11, atol=0)


@pytest.mark.parametrize(("bits", "worst"), [(16, 1 - 1e-6), (8, 1 - 1e-3)])
def test_directions_survive_whatever_the_size(bits: int, worst: float) -> None:
    """Half precision itself ends at 6e-8 and 65504."""
    _, maps = answers_to(PLAN)
    sized = maps * torch.logspace(-20, 20, len(maps)).view(-1, 1, 1, 1)
    kept = decode_maps(*encode_maps(sized, bits))
    step = sized.abs().amax(dim=(1, 2, 3)) * (2**-11 if bits == 16 else 0.5 / 127)
    assert ((kept - sized).abs().amax(dim=(1, 2, 3)) <= step * 1.01).all()
    unit = sized.abs().amax(dim=(1, 2, 3), keepdim=True)
    cosine = torch.nn.functional.cosine_similarity((kept / unit).flatten(1), (sized / unit).double().flatten(1))
    assert cosine.min() > worst


@pytest.mark.parametrize("bits", [16, 8])
def test_any_images_are_read_in_any_order(tmp_path: Path, bits: int) -> None:
    plan = replace(PLAN, bits=bits)
    at = locate(str(tmp_path / "store"))
    logits, maps = store_at(at, plan)
    rows = np.array([10, 0, 3, 4, 7, 3])
    found = TeacherAnswers(at, with_maps=True).about(rows)
    assert torch.equal(found.logits, logits[rows])
    assert found.maps is not None and torch.equal(found.maps, decode_maps(*encode_maps(maps[rows], bits)))
    assert TeacherAnswers(at, with_maps=False).about(rows).maps is None
    assert plan.num_shards == 3 and plan.image_bytes == 3 * 4 + 4 + 6 * 64 * bits // 8
    files = sum(file.stat().st_size for file in (tmp_path / "store" / "shards").glob("*.safetensors"))
    assert 0 < files - plan.num_bytes < 3 * 512, "what is announced is what is taken, up to headers"


def test_a_store_on_s3_is_the_same(tmp_path: Path, s3_storage: str) -> None:
    places = locate(str(tmp_path / "store")), locate(s3_storage).child("store")
    for at in places:
        store_at(at)
    rows = np.array([9, 2, 2, 5])
    a, b = (TeacherAnswers(at, with_maps=True).about(rows) for at in places)
    assert torch.equal(a.logits, b.logits) and torch.equal(a.maps, b.maps)  # type: ignore[arg-type]


def test_logits_alone(tmp_path: Path) -> None:
    at = locate(str(tmp_path))
    plan = replace(PLAN, kind=None, map_shape=None)
    logits, _ = store_at(at, plan)
    found = TeacherAnswers(at, with_maps=False).about(np.arange(11))
    assert torch.equal(found.logits, logits) and found.maps is None
    assert plan.image_bytes == 12
    with pytest.raises(DataError, match="has no explanations of the teacher, only logits; write it again"):
        TeacherAnswers(at, with_maps=True)


def test_files_have_a_good_size() -> None:
    assert images_per_shard(1_281_167, 4000 + 4 + 2 * 6 * 224**2) == 313, "4096 files at most"
    assert images_per_shard(1_281_167, 4000 + 4 + 2 * 6 * 56**2) == 384, "16 MB"
    assert images_per_shard(1_281_167, 4000) == 512
    assert images_per_shard(7, 10**9) == 1


def test_nothing_but_a_whole_store_is_read(tmp_path: Path) -> None:
    at = locate(str(tmp_path / "store"))
    with pytest.raises(DataError, match="does not exist; run `raytrain-xai distill cache CONFIG`"):
        read_manifest(at)
    claim_store(at, PLAN)
    with pytest.raises(DataError, match="is not complete; run"):
        TeacherAnswers(at, with_maps=True)
    store_at(at)
    victim = tmp_path / "store" / "shards" / "00001.safetensors"
    good = victim.read_bytes()
    victim.write_bytes(good[:-1])
    with pytest.raises(DataError, match=r"00001.safetensors has \d+ bytes, its manifest says \d+; run .* to mend it"):
        TeacherAnswers(at, with_maps=True)
    other = locate(str(tmp_path / "other"))
    store_at(other, replace(PLAN, teacher="c" * 64))
    victim.write_bytes((tmp_path / "other" / "shards" / "00001.safetensors").read_bytes())
    with pytest.raises(DataError, match="00001.safetensors belongs to another store"):
        TeacherAnswers(at, with_maps=True)
    victim.write_bytes(b"x" * len(good))
    with pytest.raises(DataError, match="is no shard of a teacher's answers"):
        TeacherAnswers(at, with_maps=True)
    manifest = tmp_path / "store" / "manifest.json"
    raw = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**raw, "plan": {**raw["plan"], "format_version": 99}}))
    with pytest.raises(DataError, match="has format 99, this release reads 1"):
        read_manifest(at)
    for damage in ("{", "[]", "{}", json.dumps({**raw, "shards": raw["shards"][:2]})):
        manifest.write_text(damage)
        with pytest.raises(DataError, match="manifest.json is damaged"):
            read_manifest(at)


def test_a_place_is_free_or_of_this_very_store(tmp_path: Path) -> None:
    at = locate(str(tmp_path / "store"))
    check_place(at, PLAN)
    store_at(at)
    check_place(at, PLAN)
    with pytest.raises(DataError, match=r"holds other answers: teacher a{12} instead of c{12}, bits 16 instead of 8; "):
        check_place(at, replace(PLAN, teacher="c" * 64, bits=8))
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thing").touch()
    with pytest.raises(DataError, match=r"holds other things \(thing\); give a new folder with --out"):
        check_place(locate(str(tmp_path / "x")), PLAN)


MakeStored = Callable[..., tuple[RunConfig, AnswerPlan]]


@pytest.fixture
def make_stored(birds: str, tmp_path: Path) -> MakeStored:
    """``make_stored(**data)`` -> configuration that reads a store of random answers about all images, and its plan."""

    def make(**data: Any) -> tuple[RunConfig, AnswerPlan]:
        place, info = tmp_path / "answers", open_dataset(birds)
        plan = replace(PLAN, classes=info.classes, data=info.fingerprint, num_images=150)
        if not place.exists():
            store_at(locate(str(place)), plan)
        raw = {
            "name": "test", "epochs": 1, "seed": 5, "batch_size": 16, "model": {"name": "resnet18"},
            "data": {"path": birds, "image_size": 32, "shuffle_window": 64, **data},
            "distill": {"teacher": "t", "cache": str(place), "explanation_weight": 1.0},
            "evaluation": {"select": "last"},
        }  # fmt: skip
        return parse_config(raw), plan

    return make


def test_every_difference_to_what_a_run_asks_for_is_named(make_stored: MakeStored, multi: str) -> None:
    config, plan = make_stored()
    assert config.distill is not None and config.distill.cache is not None
    at, info = locate(config.distill.cache), open_dataset(config.data.path)
    assert check_store(at, config, info, "a" * 64, kind="weights").plan == plan
    assert check_store(at, config, info, "a" * 64, kind=None).plan == plan, "logits alone may be read"
    with pytest.raises(DataError, match="something else: kind weights instead of gradcam; write another one with"):
        check_store(at, config, info, "a" * 64, kind="gradcam")
    other, _ = make_stored(path=multi, image_size=64)
    with pytest.raises(DataError) as caught:
        check_store(at, other, open_dataset(multi), "c" * 64, kind="weights")
    for part in ("teacher a{12} instead of c{12}", "class 0 '", "data ", "image_size 32 instead of 64"):
        assert caught.match(part)
    train_size, _ = make_stored(train_size=48)
    with pytest.raises(DataError, match="image_size 32 instead of 48;"):
        check_store(at, train_size, info, "a" * 64, kind="weights")
    fewer = replace(info, classes=info.classes[:1])
    with pytest.raises(DataError, match="2 classes instead of 1;"):
        check_store(at, config, fewer, "a" * 64, kind="weights")


def batches(config: RunConfig, epoch: int = 0) -> list[Batch]:
    data = TrainingData(config, open_dataset(config.data.path), rank=0, world_size=1)
    return list(data.epoch(epoch))


@pytest.mark.parametrize("augment", ["none", "flip"])
@pytest.mark.parametrize("cache", [False, True])
def test_maps_are_mirrored_where_images_are(make_stored: MakeStored, augment: str, cache: bool) -> None:
    config, plan = make_stored(augment=augment, cache_decoded=cache)
    plain, _ = make_stored()
    logits, maps = answers_to(plan)
    whole = {int(i): image for b in batches(plain) for i, image in zip(b.index, b.images, strict=True)}
    mirrored = 0
    for batch in batches(config):
        assert batch.teacher is not None and batch.teacher.maps is not None
        assert torch.equal(batch.teacher.logits, logits[batch.index])
        for row, image, found in zip(batch.index, batch.images, batch.teacher.maps, strict=True):
            expected = decode_maps(*encode_maps(maps[row][None], 16))[0]
            if int(row) in whole:
                is_mirrored = not torch.equal(image, whole[int(row)])
                mirrored += is_mirrored
                assert torch.equal(found, expected.flip(-1) if is_mirrored else expected)
    assert (mirrored > 20) == (augment == "flip")


@pytest.mark.parametrize("data", [{"augment": "crop"}, {"augment": "shift", "repeats": 2}])
def test_decoding_processes_and_repeats_change_nothing(make_stored: MakeStored, data: dict[str, Any]) -> None:
    config, _ = make_stored(**data)
    parallel, _ = make_stored(**data, num_loader_workers=2)
    maps: list[Tensor] = []
    for a, b in zip(batches(config), batches(parallel), strict=True):
        assert a.teacher is not None and b.teacher is not None
        assert torch.equal(a.images, b.images) and torch.equal(a.teacher.logits, b.teacher.logits)
        assert torch.equal(a.teacher.maps, b.teacher.maps)  # type: ignore[arg-type]
        maps += list(a.teacher.maps)  # type: ignore[union-attr]
    assert len({m.numpy().tobytes() for m in maps}) >= len(maps) - 1, "each is moved in its own way"


def test_maps_that_nobody_compares_are_not_read(make_stored: MakeStored) -> None:
    config, _ = make_stored()
    assert config.distill is not None
    alone = config.model_copy(update={"distill": config.distill.model_copy(update={"explanation_weight": 0.0})})
    first = batches(alone)[0]
    assert first.teacher is not None and first.teacher.maps is None
    assert all(b.teacher is None for b in batches(config.model_copy(update={"distill": None})))


def test_a_store_about_other_images_is_noticed_where_they_are_read(make_stored: MakeStored, multi: str) -> None:
    make_stored()
    config, _ = make_stored(path=multi)
    with pytest.raises(DataError, match="is not about the images of"):
        batches(config)


@pytest.mark.parametrize(
    "change", [{"data": {"policy": "randaugment"}}, {"data": {"erase": 0.1}}, {"mixing": {"mixup_alpha": 0.2}}]
)
def test_augmentations_that_cannot_be_followed_are_refused(make_stored: MakeStored, change: dict[str, Any]) -> None:
    raw = make_stored()[0].model_dump(mode="json")
    changed = {**raw, **{section: {**raw[section], **values} for section, values in change.items()}}
    with pytest.raises(ConfigError, match="which follow crops, shifts and mirrors only: set"):
        parse_config(changed)
    changed["distill"]["cache"] = None
    parse_config(changed)
