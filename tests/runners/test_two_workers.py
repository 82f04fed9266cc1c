"""Two workers compute what one computes on the joint batch, and agree with each other."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import gloo
import pytest
import safetensors.torch
import torch
from torch import Tensor, multiprocessing

from raytrain_xai.checkpoint import read_checkpoint
from raytrain_xai.config import RunConfig, parse_config
from raytrain_xai.storage import locate

SQUEEZENET: dict[str, Any] = {
    "model": {"name": "squeezenet1_1", "weights": "imagenet", "norm_statistics": "frozen"},
    "guidance": {"attribution": "gradcam", "layer": "Final", "weight": 0.5},
}
STEPS: dict[str, dict[str, Any]] = {
    "bcos-input-frozen": {"model": {"norm_statistics": "frozen"}, "guidance": {"weight": 0.5}},
    "bcos-input-batch": {"model": {"norm_statistics": "batch"}, "guidance": {"weight": 0.5}},
    "bcos-input-mean": {"guidance": {"weight": 0.5, "reduction": "mean", "annotated_fraction": 0.3}},
    "bcos-accumulate": {
        "model": {"norm_statistics": "frozen"}, "guidance": {"weight": 0.5}, "accumulate": 2,
    },
    "gradcam-final": SQUEEZENET,
    "unguided": {"guidance": {"weight": 0.0}},
    "bcosified": {
        "model": {"name": "bcosified_squeezenet1_1", "norm_statistics": "frozen"}, "guidance": {"weight": 0.5},
        "bcosify": {"calibration_images": 8, "distil_epochs": 0},
    },
    "mixed-frozen": {
        "model": {"norm_statistics": "frozen"}, "guidance": {"weight": 0.0}, "loss": {"name": "off_label_bce"},
        "mixing": {"mixup_alpha": 0.2, "cutmix_alpha": 1.0}, "data": {"repeats": 2, "policy": "trivialaugment"},
    },
    "uneven-batch": {  # shares of 4 and 3, as an elastic run may have them
        "model": {"norm_statistics": "batch"}, "guidance": {"weight": 0.5}, "batch_size": 7,
        "resources": {"min_workers": 1},
    },
    "uneven-mixed": {  # of 3 pairs and 2
        "model": {"norm_statistics": "frozen"}, "guidance": {"weight": 0.0}, "batch_size": 10,
        "mixing": {"mixup_alpha": 0.2}, "loss": {"name": "off_label_bce"}, "resources": {"min_workers": 1},
    },
}  # fmt: skip
LOCAL: dict[str, Any] = {
    "model": {"name": "resnet18", "norm_statistics": "local"}, "guidance": {"weight": 0.0, "attribution": "ixg"},
}  # fmt: skip


def make(birds: Path, storage: Path, name: str, changes: dict[str, Any]) -> RunConfig:
    raw: dict[str, Any] = {
        "name": name, "storage": str(storage), "epochs": 2, "workers": 2, "batch_size": 8,
        "data": {"path": str(birds), "image_size": 48, "augment": "crop"},
        "model": {"name": "bcos_resnet_tiny", "norm_statistics": "batch"}, "optim": {"lr": 1e-3},
        "guidance": {"weight": 0.05, "annotated_fraction": 0.5},
        "tracking": {"log_every_steps": 1, "tensorboard": False},
    }  # fmt: skip
    for key, value in changes.items():
        raw[key] = {**raw.get(key, {}), **value} if isinstance(value, dict) else value
    return parse_config(raw)


@pytest.fixture(scope="module")
def two(birds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with what two gloo processes computed."""
    at = tmp_path_factory.mktemp("two")
    asked = {
        "steps": {name: dump(make(birds, at, name, changes)) for name, changes in STEPS.items()},
        "validation": dump(make(birds, at, "validation", {})),
        "local": dump(make(birds, at, "local", LOCAL)),
        "non_finite": dump(make(birds, at, "non-finite", {})),
        "run": dump(make(birds, at, "run", {})),
    }
    (at / "asked.json").write_text(json.dumps(asked))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(gloo.main, (port, str(at)), nprocs=gloo.WORLD_SIZE)
    return at


def dump(config: RunConfig) -> dict[str, Any]:
    return config.model_dump(mode="json")


def answers(two: Path, rank: int) -> dict[str, Any]:
    return json.loads((two / f"answers-{rank}.json").read_text())


def relative_error(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """‖a - b‖ / ‖b‖ over all tensors together."""
    difference = sum((a[name].double() - b[name].double()).square().sum() for name in b)
    return float(torch.as_tensor(difference).sqrt() / torch.stack([b[n].double().norm() for n in b]).norm())


# float64 shows that the two are the same computation; in float32 normalisation over a small batch amplifies rounding.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("name", STEPS)
def test_two_workers_make_the_step_of_one(
    two: Path, birds: Path, name: str, dtype: torch.dtype, tolerance: float
) -> None:
    shares = [safetensors.torch.load_file(two / f"{name}-{dtype}-{rank}.safetensors") for rank in (0, 1)]
    one = one_step(birds, two, {**STEPS[name]}, dtype)
    assert sorted(torch.cat([s["index"] for s in shares]).tolist()) == sorted(one["index"].tolist())
    gradients = gradients_of(one)
    assert len(gradients) > 20 and all(v.norm() > 0 and v.dtype == dtype for v in gradients.values())
    assert relative_error(shares[0], gradients) < tolerance
    assert all(torch.equal(shares[0][k], shares[1][k]) for k in gradients)
    statistics = {k: v for k, v in one.items() if k.startswith("buffer") and v.is_floating_point()}
    if statistics:
        assert relative_error(shares[0], statistics) < tolerance
        assert all(torch.equal(shares[0][k], shares[1][k]) for k in statistics)
    for key in ("sum cls_sum", "sum loc_sum", "sum count", "sum guided_count"):
        assert float(shares[0][key] + shares[1][key]) == pytest.approx(float(one[key]), rel=tolerance)
    mean_loss = (shares[0]["sum loss"] + shares[1]["sum loss"]) / 2
    assert float(mean_loss) == pytest.approx(float(one["sum loss"]), rel=tolerance)


@pytest.mark.parametrize("name", [name for name in STEPS if name.endswith(("frozen", "final", "accumulate"))])
def test_without_batch_statistics_float32_agrees_to_a_millionth(two: Path, birds: Path, name: str) -> None:
    share = safetensors.torch.load_file(two / f"{name}-{torch.float32}-0.safetensors")
    assert relative_error(share, gradients_of(one_step(birds, two, STEPS[name], torch.float32))) < 1e-6


def test_guidance_is_part_of_the_compared_step(birds: Path, two: Path) -> None:
    """Control: without it the gradients differ by far more than the tolerance."""
    guided, plain = (one_step(birds, two, {"guidance": {"weight": w}}, torch.float32) for w in (0.5, 0.0))
    assert relative_error(guided, gradients_of(plain)) > 1e-2


def one_step(birds: Path, storage: Path, changes: dict[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """The step of a single worker on the joint batch."""
    torch.set_num_threads(1)
    return gloo.first_step(make(birds, storage, "one", {**changes, "workers": 1}), 0, 1, dtype)


def gradients_of(step: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in step.items() if " " not in name and name != "index"}


def test_both_workers_end_with_the_same_evaluation_as_one(two: Path, birds: Path) -> None:
    torch.set_num_threads(1)
    one = gloo.validation(make(birds, two, "validation", {"workers": 1}), 0, 1)
    first, second = (answers(two, rank)["validation"] for rank in (0, 1))
    assert first == second
    assert first == pytest.approx(one, abs=1e-6)
    assert {"epg", "iou", "f1", "worst_group"} <= first.keys()


def test_local_statistics_differ_in_training_and_are_those_of_worker_0_in_evaluation(two: Path) -> None:
    first, second = (answers(two, rank)["local"] for rank in (0, 1))
    assert first["before"] != second["before"]
    assert first["after"] == second["after"] == first["before"]
    assert first["metrics"] == second["metrics"]


def test_values_travel_whole(two: Path) -> None:
    for rank in (0, 1):
        got = answers(two, rank)
        assert got["broadcast"] == 0
        assert got["gathered_json"] == [[0], [1, 1]]
        assert got["gathered_tensors"] == [[[], 0.1], [[0, 1, 2], 0.1]]


def test_a_nan_on_one_worker_stops_both_before_the_update(two: Path) -> None:
    messages = [answers(two, rank)["non_finite"] for rank in (0, 1)]
    assert messages[0] == messages[1]
    assert "non-finite loss part loss at step 1" in messages[0]
    bundle = json.loads((two / "non-finite" / "failure" / "step-00000001.json").read_text())
    assert [w["first_bad"] for w in bundle["workers"]] == [None, "loss part loss"]
    assert len(bundle["sample_ids"]) == 8 and len(set(bundle["sample_ids"])) == 8
    assert not (two / "non-finite" / "checkpoints").exists()


def test_a_run_of_two_writes_one_set_of_files(two: Path) -> None:
    log = [json.loads(line) for line in (two / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in log if r["kind"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert len(list((two / "run" / "attempts").iterdir())) == 1
    assert {"val", "test"} <= json.loads((two / "run" / "metrics.json").read_text()).keys()
    assert read_checkpoint(locate(str(two / "run" / "checkpoints" / "step-00000006"))).state["epoch"] == 2
