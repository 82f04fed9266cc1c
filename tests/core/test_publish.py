"""Published runs: every command works on them, they hold what they should and nothing else, and pulls are verified."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

from raytrain_xai import publish
from raytrain_xai.checkpoint import Checkpoint, load_network, read_checkpoint, write_checkpoint
from raytrain_xai.cli.models_publish import publish_command, pull_command
from raytrain_xai.errors import CheckpointError, ConfigError, DataError
from raytrain_xai.evaluation import measure_run, write_metrics
from raytrain_xai.explain import Explainer
from raytrain_xai.models.zoo import build_network
from raytrain_xai.publish import publish_run, pull
from raytrain_xai.report.page import write_report
from raytrain_xai.runners.train import Launch, resume_run
from raytrain_xai.storage import exists, list_names, locate, read_bytes, write_bytes

RUN_FILES = {"config.yaml", "metrics.json", "metrics.jsonl", "pareto.json", "README.md", "card.json"}
STEP = "checkpoints/step-00000020"
MESSAGE = "cannot reach https://alice:secret@tracking.example/x"


@pytest.fixture(scope="module")
def run(make_run: Any, objects: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """With an optimiser state and averaged weights, and access keys where a message or a state may hold them."""
    uri = make_run(tmp_path_factory.mktemp("runs"), "objects", objects, model="bcos_resnet_tiny")
    log = locate(uri).child("metrics.jsonl")
    told = {"kind": "event", "event": "told", "message": MESSAGE, "step": 0, "epoch": 0, "attempt": 1, "time": 1001.0}
    write_bytes(log, read_bytes(log) + json.dumps(told).encode() + b"\n")
    folder = locate(uri).child("checkpoints", "step-00000020")
    plain = read_checkpoint(folder)
    state = plain.state | {"config": {"storage": "s3://KEY:secret%2F1@bucket/runs"}}
    ema = {name: value * 0.5 for name, value in plain.model.items()}
    content = Checkpoint(20, plain.model, {"fc.linear.weight/exp_avg": torch.ones(3)}, state, ema)
    write_checkpoint(locate(uri).child("checkpoints"), content, lambda: None)
    return uri


@pytest.fixture(scope="module")
def published(run: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dest = tmp_path_factory.mktemp("public") / "objects"
    result = invoke(publish_command, run, dest, "--license", "CC-BY-4.0", "--pictures", 3)
    assert result.output.startswith(f"published: {dest}, 13 files\n")
    return dest


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(published, tmp_path / "copy"))


def invoke(command: Any, *arguments: object) -> Result:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result


def files_of(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


def test_it_holds_one_checkpoint_the_card_and_their_checksums(published: Path, run: str) -> None:
    names = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")
    found = files_of(published)
    assert {re.sub(r"/\d\d-.*", "/", file) for file in found - {"SHA256SUMS"}} == {
        *RUN_FILES, "pictures/", *(f"{STEP}/{name}" for name in names),
    }  # fmt: skip
    assert len([file for file in found if file.startswith("pictures/")]) == 3
    done = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=published, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count(": OK\n") == len(found) - 1
    checkpoint = read_checkpoint(locate(str(published)).child(*STEP.split("/")))
    assert not checkpoint.optimizer
    assert not checkpoint.ema
    trained = read_checkpoint(locate(run).child(*STEP.split("/")))
    assert checkpoint.model.keys() == trained.ema.keys()
    assert all(torch.equal(value, trained.ema[name]) for name, value in checkpoint.model.items())


def test_no_access_keys_leave_the_house(published: Path) -> None:
    for file in files_of(published):
        assert b"secret" not in (published / file).read_bytes(), file
    assert "cannot reach https://tracking.example/x" in (published / "metrics.jsonl").read_text()
    state = json.loads((published / STEP / "state.json").read_text())
    assert state["config"]["storage"] == "s3://bucket/runs"


def test_every_command_takes_it_as_a_run(published: Path, run: str, tmp_path: Path) -> None:
    copy = tmp_path / "pulled"
    assert f"pulled: {copy}, 13 files verified" in invoke(pull_command, published, copy).output
    original, measured = (measure_run(uri, device=torch.device("cpu")) for uri in (run, str(copy)))
    assert measured.metrics == original.metrics
    write_metrics(str(copy), measured)
    write_report([str(copy)])
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    target = torch.tensor([2])
    expected, found = (Explainer.load(uri).attribute(images, target)[1].maps for uri in (run, str(copy)))
    assert torch.equal(found, expected)
    started = build_network("bcos_resnet_tiny", 8, weights=str(copy)).net.state_dict()
    assert all(torch.equal(value, load_network(run)[0].net.state_dict()[name]) for name, value in started.items())
    # The files of evaluations and reports are no part of it: it is still whole, and can be handed on.
    assert invoke(pull_command, published, copy).output.startswith("was there already: ")
    assert files_of(tmp_path / "pulled") - files_of(published) > {"report.html"}
    pull(str(copy), str(tmp_path / "again"))
    assert files_of(tmp_path / "again") == files_of(published)


def test_equal_runs_give_equal_publications(published: Path, run: str, tmp_path: Path) -> None:
    publish_run(run, str(tmp_path / "second"), license_name="CC-BY-4.0", num_pictures=3)
    assert (tmp_path / "second" / "SHA256SUMS").read_bytes() == (published / "SHA256SUMS").read_bytes()
    assert publish_run(run, str(published), license_name="CC-BY-4.0", num_pictures=3).was_there


def test_card_says_what_the_run_is(published: Path, run: str) -> None:
    card = json.loads((published / "card.json").read_text())
    final = json.loads(Path(run, "metrics.json").read_text())
    assert card["metrics"] == {"val": final["val"], "test": final["test"]}
    assert (card["license"], card["task"], card["measured_at"]) == ("CC-BY-4.0", "multilabel", {"step": 20, "epoch": 2})
    assert card["data"]["images"] == {"train": 24, "val": 6, "test": 12}
    assert card["weights"]["sha256"] == hashlib.sha256((published / card["weights"]["file"]).read_bytes()).hexdigest()
    text = (published / "README.md").read_text()
    assert text.startswith('---\nlicense: "CC-BY-4.0"\n')
    for expected in (
        "| F1 | 75.0 | 70.0 |", "| EPG | 50.0 | 45.0 |", "24 train, 6 val, 12 test", "bcos_resnet_tiny", "epoch 2",
        "add up to it", "Intended use and limits", "Licence of the weights: CC-BY-4.0",
    ):  # fmt: skip
        assert expected in text, expected
    assert len(card["pictures"]) == 3
    for picture in card["pictures"]:
        assert f"]({picture['file']})" in text
        strip = Image.open(io.BytesIO((published / picture["file"]).read_bytes()))
        assert strip.size == (3 * 224 + 2 * 6, 224)  # photograph, heatmap, explanation in colour
        assert picture["class"] in card["classes"]


def test_card_without_pictures_needs_no_data(make_run: Any, birds: str, tmp_path: Path) -> None:
    data = shutil.copytree(birds, tmp_path / "data")
    hostile = "<b>*|x`"
    run = make_run(
        tmp_path, "birds", str(data), guidance={"attribution": "gradcam", "layer": "Final"},
        test={"f1": 0.5, "worst_group": 0.25, f"group_{hostile}": 0.5},
    )  # fmt: skip
    shutil.rmtree(data)
    with pytest.raises(DataError, match=r"no example pictures: .*does not exist.*--data.*--pictures 0"):
        publish_run(run, str(tmp_path / "public"), license_name="MIT")
    publish_run(run, str(tmp_path / "public"), license_name="MIT", num_pictures=0)
    text = (tmp_path / "public" / "README.md").read_text()
    assert "![" not in text
    assert r"| \<b\>\*\|x\` | – | 50.0 |" in text
    assert "worst group: accuracy of the sub-population" in text
    assert "Grad-CAM" in text
    assert "It always answers with one of its classes" in text


def test_interrupted_pull_leaves_nothing_and_goes_on(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, copied = publish.write_bytes, []

    def breaks(at: Any, content: bytes) -> None:
        if len(copied) == 5:
            raise KeyboardInterrupt
        copied.append(at.path)
        real(at, content)

    monkeypatch.setattr(publish, "write_bytes", breaks)
    with pytest.raises(KeyboardInterrupt):
        pull(str(published), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    assert list_names(locate(str(tmp_path))) == []
    first = set(copied)
    # One of the copied files is damaged meanwhile: it is copied again, the four others are not.
    damaged = sorted(first)[0]
    Path(damaged).write_bytes(b"half")
    monkeypatch.setattr(publish, "write_bytes", lambda at, content: (copied.append(at.path), real(at, content)))
    copied.clear()
    pull(str(published), str(tmp_path / "run"))
    assert first & set(copied) == {damaged}
    assert files_of(tmp_path / "run") == files_of(published)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (f"{STEP}/model.safetensors", b"\0" * 99, r"model\.safetensors is damaged.* 99 bytes .*SHA256SUMS says"),
        ("README.md", None, r"README\.md is missing"),
        ("SHA256SUMS", None, r"is no published run: it has no SHA256SUMS.*models publish"),
        ("SHA256SUMS", b"nonsense\n", r"SHA256SUMS is damaged: line 1"),
        ("SHA256SUMS", b"0" * 64 + b"  ../escape\n", r"line 1 .* of this folder"),
        ("SHA256SUMS", b"0" * 64 + b"  /etc/passwd\n", r"line 1 .* of this folder"),
        ("SHA256SUMS", b"0" * 64 + b"  c:\\x\n", r"line 1 .* of this folder"),
        ("SHA256SUMS", b"0" * 64 + b"  config.yaml\n", r"without metrics\.json, .*card\.json"),
    ],
)
def test_damaged_sources_are_named_and_nothing_is_made(
    copy: Path, tmp_path: Path, file: str, content: bytes | None, message: str
) -> None:
    if content is None:
        (copy / file).unlink()
    else:
        (copy / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        pull(str(copy), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_taken_places_and_unfinished_runs_are_refused(run: str, published: Path, copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is taken: it holds a run"):
        pull(str(published), run)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(ConfigError, match="is taken: it holds something else"):
        publish_run(run, str(tmp_path / "other"), license_name="MIT", num_pictures=0)
    assert files_of(tmp_path / "other") == {"thesis.tex"}
    with pytest.raises(DataError, match=r"thesis\.tex"):
        pull(str(published), str(tmp_path / "other" / "thesis.tex"))
    (copy / "README.md").write_text("changed")
    with pytest.raises(CheckpointError, match=r"README\.md is damaged"):
        pull(str(published), str(copy))
    with pytest.raises(ConfigError, match="needs a licence"):
        publish_run(run, str(tmp_path / "x"), license_name=" ")
    with pytest.raises(ConfigError, match="published run, which has no optimiser state.*model.weights="):
        resume_run(str(published), [], Launch("local", print))
    (copy / "metrics.json").unlink()
    with pytest.raises(CheckpointError, match="not finished"):
        publish_run(str(copy), str(tmp_path / "x"), license_name="MIT")


def test_through_s3(published: Path, s3_storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = locate(s3_storage).child("objects")
    real = publish.write_bytes

    def breaks(at: Any, content: bytes) -> None:
        if at.path.endswith("config.yaml"):
            raise KeyboardInterrupt
        real(at, content)

    monkeypatch.setattr(publish, "write_bytes", breaks)
    with pytest.raises(KeyboardInterrupt):
        pull(str(published), remote.uri)
    assert not exists(remote.child("config.yaml"))  # so no command takes it for a run
    assert not exists(remote.child("SHA256SUMS"))
    monkeypatch.undo()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "t")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "t")
    assert not pull(str(published), remote.uri).was_there
    assert pull(str(published), remote.uri).was_there
    assert read_bytes(remote.child("pictures", list_names(remote.child("pictures"))[0]))[:2] == b"\xff\xd8"
    pull(remote.uri, str(tmp_path / "back"))
    assert files_of(tmp_path / "back") == files_of(published)
    assert (tmp_path / "back" / "SHA256SUMS").read_bytes() == (published / "SHA256SUMS").read_bytes()
