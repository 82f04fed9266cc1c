"""Descriptions of runs: what is found is what a plain pass finds, also after an interruption and with two workers."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from colours import NEVER, colour_config, colour_model
from PIL import Image
from safetensors.torch import load_file

from raytrain_xai.checkpoint import Checkpoint, write_checkpoint
from raytrain_xai.cli.main import cli
from raytrain_xai.concepts.relations import RelationRule
from raytrain_xai.config import parse_insight_config
from raytrain_xai.data.loader import load_samples
from raytrain_xai.errors import ConfigError, DataError
from raytrain_xai.insight.described import TopTokens, read_described, read_relations, read_top_tokens
from raytrain_xai.insight.model import build_matryoshka, encoder_state
from raytrain_xai.language.encoder import load_encoder
from raytrain_xai.report.tree_page import write_hierarchy
from raytrain_xai.run_folder import write_config, write_json
from raytrain_xai.runners import describe as module
from raytrain_xai.runners.describe import describe_run
from raytrain_xai.runners.tasks import Crew
from raytrain_xai.sections import ResourcesConfig
from raytrain_xai.storage import locate

ALONE = Crew(0, ResourcesConfig(gpus_per_worker=0))
RULE = RelationRule(0.6, 5, 1.0)
Describe = Callable[..., Any]


@pytest.fixture
def describe(birds: str, objects: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Describe:
    """Describe a run of colours on two data sets of 24 images, five of them in a task."""
    write_config(locate(str(tmp_path / "colours")), colour_config(str(tmp_path)))
    monkeypatch.setattr(module, "load_insight", lambda *_, **__: colour_model())
    monkeypatch.setattr(module, "_IMAGES_PER_TASK", 5)

    def run(**changes: Any) -> Any:
        options = {"data": (str(objects), str(birds)), "split": "train", "rule": RULE} | changes
        return describe_run(str(tmp_path / "colours"), ALONE, lambda _: None, **options)

    return run


def all_codes(birds: str, objects: str) -> torch.Tensor:
    """(768, 4): codes of the 16 patches of 48 images."""
    images = [load_samples(path, "train", list(range(24)), 32)[0].images for path in (str(objects), str(birds))]
    code, _ = colour_model().codes(torch.cat(images))
    return code.dense().flatten(0, 1)


def test_found_by_a_plain_pass(describe: Describe, birds: str, objects: str, tmp_path: Path) -> None:
    made = describe()
    z = all_codes(birds, objects)
    active = z > 1e-3
    assert made.subject.num_images == 48
    assert made.subject.size == (4, 4)
    assert made.classes[-2:] == ("landbird", "waterbird")
    assert made.sums.seen.frequency.tolist() == active.sum(dim=0).tolist()
    torch.testing.assert_close(made.sums.seen.mass, z.double().sum(dim=0), rtol=1e-12, atol=0)
    red_with_green = z[:, 0].double() @ active[:, 1].double()
    source, target, _, mass = made.sums.seen.directed()
    found = mass[(source == 0) & (target == 1)]
    torch.testing.assert_close(found, red_with_green[None], rtol=1e-12, atol=0)
    top = read_top_tokens(locate(str(tmp_path / "colours")))
    check_top(top, z)


def check_top(top: TopTokens, z: torch.Tensor) -> None:
    code = top.code.dense()
    for concept in range(3):
        order = z[:, concept].argsort(descending=True, stable=True)[:30]
        assert top.values[concept].tolist() == z[order, concept].tolist()
        assert (top.image[concept] * 16 + top.position[concept]).tolist() == order.tolist()
        torch.testing.assert_close(code[concept], z[order], rtol=0, atol=1e-6)
    assert top.image[NEVER].tolist() == top.position[NEVER].tolist() == [-1] * 30
    assert not bool(code[NEVER].any())


def test_files(describe: Describe, tmp_path: Path, objects: str) -> None:
    made = describe()
    run = locate(str(tmp_path / "colours"))
    again = read_described(run)
    assert again.subject == made.subject
    assert again.relations.child.tolist() == made.relations.child.tolist()
    assert again.groups.tolist() == [0, 1, 1, 1]
    known = read_relations(run, made.subject.fingerprint)
    assert known is not None and known.rule == RULE
    assert read_relations(run, "another checkpoint") is None
    pictures = made.pictures().to_pydict()
    assert pictures["row"] == sorted(set(pictures["row"]))
    assert {row < 24 for row in pictures["row"]} == {True, False}
    assert [data == str(objects) for data in pictures["data"]] == [row < 24 for row in pictures["row"]]
    assert Image.open(io.BytesIO(pictures["jpeg"][0])).size == (96, 96)
    assert not list((tmp_path / "colours" / "insight").glob("parts-*"))


def test_interrupted_and_resumed(describe: Describe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = describe()
    folder = tmp_path / "colours" / "insight"
    expected = {name: load_file(folder / name) for name in ("relations.safetensors", "tokens.safetensors")}
    shutil.rmtree(folder)
    work, keys = module._work, []

    def breaks(plan: Any, source: Any, task: Any) -> Any:
        if len(keys) == 12:
            raise DataError("the disk is full")
        keys.append(task.key)
        return work(plan, source, task)

    monkeypatch.setattr(module, "_work", breaks)
    with pytest.raises(DataError, match="the disk is full"):
        describe()
    assert not (folder / "relations.json").exists()
    monkeypatch.setattr(module, "_work", lambda *given: (keys.append(given[2].key), work(*given))[1])
    resumed = describe()
    assert len(keys) == len(set(keys)), "nothing was done twice"
    assert resumed.subject == whole.subject
    for name, tensors in expected.items():
        found = load_file(folder / name)
        assert all(torch.equal(found[key], value) for key, value in tensors.items())


def test_another_rule_needs_no_pass(describe: Describe, monkeypatch: pytest.MonkeyPatch) -> None:
    describe()
    monkeypatch.setattr(module, "run_tasks", lambda *_, **__: pytest.fail("a pass over the images"))
    strict = describe(rule=RelationRule(0.6, 100_000, 1.0))
    assert len(strict.relations.child) == 0


def test_a_description_of_something_else_stays(describe: Describe, birds: str) -> None:
    describe()
    with pytest.raises(ConfigError, match=r"describes something else \(other data fingerprints, num images\)"):
        describe(data=(str(birds),))
    with pytest.raises(ConfigError, match="other split"):
        describe(split="val")


def test_no_data(describe: Describe) -> None:
    with pytest.raises(ConfigError, match="name data sets with --data"):
        describe(data=())


def test_nothing_active(describe: Describe, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = colour_model()
    silent.sae.threshold.fill_(1e6)
    monkeypatch.setattr(module, "load_insight", lambda *_, **__: replace(silent))
    with pytest.raises(DataError, match="no concept of .* is active in split train"):
        describe()


def test_damaged_and_foreign_files(describe: Describe, tmp_path: Path) -> None:
    run = locate(str(tmp_path / "colours"))
    with pytest.raises(ConfigError, match="insight describe"):
        read_described(run)
    describe()
    index, sums = (tmp_path / "colours" / "insight" / name for name in ("relations.json", "relations.safetensors"))
    sums.write_bytes(sums.read_bytes()[:100])
    with pytest.raises(DataError, match=r"relations\.safetensors is damaged"):
        read_described(run)
    index.write_text(json.dumps(json.loads(index.read_text()) | {"format_version": 99}))
    with pytest.raises(DataError, match="format version 99, this release reads 1"):
        read_described(run)


def test_page_holds_everything(describe: Describe, tmp_path: Path) -> None:
    describe()
    run = locate(str(tmp_path / "colours"))
    write_json(run.child("names.json"), {"proposed": {"0": "</script><b>red", "1": "green"}})
    page = Path(write_hierarchy(run)).read_text()
    assert 'src="http' not in page and "href=" not in page
    assert "</script><b>red" not in page, "names cannot end the script"
    data = json.loads(page.split("const TREE = ")[1].split(";\n")[0])
    assert data["concepts"]["id"] == [0, 1, 2]
    assert data["concepts"]["name"] == ["</script><b>red", "green", ""]
    assert {row for own in data["concepts"]["shown"] for row, _ in own} <= {int(row) for row in data["pictures"]}
    graph = json.loads((tmp_path / "colours" / "insight" / "hierarchy.json").read_text())
    assert {"name": "green", "id": 1}.items() <= graph["nodes"][1].items() if graph["nodes"] else not graph["edges"]


def test_commands(describe: Describe, tmp_path: Path, objects: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the command line; ``bird`` is the one class of the scenes that COCO knows."""
    assert describe is not None  # the run is there, its model too
    monkeypatch.setattr("raytrain_xai.insight.model.load_insight", lambda *_, **__: colour_model({0: "red"}))
    run = str(tmp_path / "colours")
    told = ["describe", run, "--data", str(objects), "--min-positions", "5", "--threshold", "0.6"]
    done = CliRunner().invoke(cli, ["insight", *told, "--gpus-per-worker", "0"], catch_exceptions=False)
    assert "3 of 4 concepts are active on 24 images" in done.output
    assert done.output.endswith("tree.html\n")
    done = CliRunner().invoke(cli, ["insight", "tree-score", run, "--max-images", "10"], catch_exceptions=False)
    assert "chance" in done.output and "of the evidence for a class is absorbed, on 8 images" in done.output
    score = json.loads((tmp_path / "colours" / "insight" / "tree_score.json").read_text())
    assert score["images"] == 8
    assert {one["name"] for one in score["classes"]} <= set(read_described(locate(run)).classes)


@pytest.mark.ray
def test_two_workers_find_what_one_process_finds(birds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_IMAGES_PER_TASK", 6)
    encoder = load_encoder("embedded")
    config = parse_insight_config({
        "job": "concepts", "name": "one", "storage": str(tmp_path), "encoder": "embedded", "data": [str(birds)],
        "image_size": 64, "sae": {"latents": 32, "k": 4, "group_fractions": [0.25, 0.75]},
    })  # fmt: skip
    torch.manual_seed(0)
    sae = build_matryoshka(config, encoder.dim)
    at = locate(str(tmp_path / "one"))
    write_config(at, config)
    state = {"step": 1, "epoch": 1, "step_in_epoch": 0, "history": [], "mlflow_id": None}
    state |= encoder_state(config, encoder)
    write_checkpoint(at.child("checkpoints"), Checkpoint(1, sae.state_dict(), {}, state), lambda: None)
    write_json(at.child("metrics.json"), {"selected": {"step": 1, "epoch": 1}})
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker: more of them order sums differently
    describe_run(str(tmp_path / "one"), ALONE, lambda _: None, rule=RULE)
    torch.set_num_threads(threads)
    crew = Crew(2, ResourcesConfig(cpus_per_worker=1))
    monkeypatch.chdir(tmp_path)
    describe_run("two", crew, lambda _: None, rule=RULE)
    for name in ("relations.safetensors", "tokens.safetensors"):
        one, two = (load_file(tmp_path / run / "insight" / name) for run in ("one", "two"))
        assert all(torch.equal(one[key], two[key]) for key in one | two), name
    assert read_described(locate("two")).sums.seen.frequency.any()
