"""The report of concept runs: what is on it, what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raytrain_xai.config import parse_concept_config
from raytrain_xai.errors import CheckpointError, ConfigError
from raytrain_xai.report import concept_page
from raytrain_xai.report.concept_page import sparsity_text
from raytrain_xai.report.page import write_report
from raytrain_xai.run_folder import create_run, write_json
from raytrain_xai.storage import write_bytes

MakeRun = Callable[..., str]
CONCEPTS = {
    "variance_explained": 0.75, "l0": 4.0, "image_l0": 33.3, "carriers": 7.25, "dead": 5.0, "always_on": 1.0,
    "residual": 2e-6,
}  # fmt: skip


def make_concept_run(storage: Path, name: str, *, f1: float = 0.5, final: bool = True, **sections: Any) -> str:
    """A concept run of two epochs of ten steps with made-up numbers."""
    raw = {
        "job": "concepts",
        "name": name,
        "storage": str(storage),
        "network": "runs/<net>",
        "layer": "Mid3",
        "epochs": 2,
    }
    config = parse_concept_config({**raw, **sections})
    at = create_run(config)
    val = {"f1": f1, "map": 0.625, **CONCEPTS}
    log = [
        {"kind": "event", "event": "start", "step": 0, "epoch": 0, "attempt": 1, "time": 100.0},
        {"kind": "step", "step": 5, "epoch": 0, "squared_error": 0.8, "variance_explained": 0.1, "dead": 9},
        {"kind": "step", "step": 20, "epoch": 1, "squared_error": 0.3, "variance_explained": 0.7, "dead": 2},
        {"kind": "epoch", "step": 20, "epoch": 2, "val": val},
    ]
    lines = (json.dumps({"attempt": 1, "time": 130.0, **record}) + "\n" for record in log)
    write_bytes(at.child("metrics.jsonl"), "".join(lines).encode())
    if final:
        before = {"f1": 0.5625, "map": 0.625}
        metrics = {
            "val": val, "test": val, "before": {"val": before, "test": before}, "iou_threshold": None,
            "selected": {"step": 20, "epoch": 2},
            "dictionary": {"split": "test", "edges": [0.01, 0.1, 1.0], "counts": [40.0, 19.0]},
        }  # fmt: skip
        write_json(at.child("metrics.json"), metrics)
    return at.uri


@pytest.fixture(autouse=True)
def no_traces(monkeypatch: pytest.MonkeyPatch) -> None:
    """The runs of this file have made-up numbers and no weights; traces are tested in test_trace_section."""
    monkeypatch.setattr(concept_page, "build_trace_section", lambda runs, data: None)  # noqa: ARG005


def test_one_run(tmp_path: Path) -> None:
    run = make_concept_run(tmp_path, "mine", sae={"latents": 64, "k": 4})
    page = Path(write_report([run])).read_text()
    assert write_report([run]) == str(Path(run) / "report.html")
    assert Path(run, "report.html").read_text() == page, "the same twice"
    for text in ("56.2", "50.0", "-6.2", "+0.0", "75.0%", "33.3", "7.2", "2.0e-06", "64 concepts, TopK with k = 4"):
        assert text in page, text
    assert "runs/&lt;net&gt;" in page and "runs/<net>" not in page
    assert page.count("<svg") == 1 + 3 + 2, "histogram, three training and two validation curves (no accuracy here)"
    assert "30 s" in page and "http" not in page.replace("http-equiv", "")


def test_several_runs_are_compared(tmp_path: Path) -> None:
    runs = [make_concept_run(tmp_path, "a", sae={"k": 4}), make_concept_run(tmp_path, "b", f1=0.25, sae={"k": 8})]
    out = tmp_path / "both.html"
    assert write_report(runs, str(out)) == str(out)
    page = out.read_text()
    assert "2 concept runs compared" in page and "-31.2" in page
    assert "<code>sae.k</code>" in page and "<code>sae.latents</code>" not in page


def test_kinds_of_sparsity_have_words() -> None:
    config = parse_concept_config(
        {"job": "concepts", "name": "x", "network": "n", "layer": "Final", "sae": {"kind": "relu", "l1_weight": 0.5}}
    )
    assert sparsity_text(config.sae) == "ReLU, L1 × 0.5"


def test_what_cannot_be_shown_is_refused(tmp_path: Path, make_run: MakeRun, birds: str) -> None:
    run = make_concept_run(tmp_path, "a")
    classifier = make_run(tmp_path, "classifier", birds)
    with pytest.raises(ConfigError, match=r"classifier is no concept run like the others"):
        write_report([run, classifier])
    with pytest.raises(ConfigError, match="more than once"):
        write_report([run, run])
    with pytest.raises(CheckpointError, match="not finished"):
        write_report([make_concept_run(tmp_path, "b", final=False)])
    write_json(create_run(parse_concept_config(
        {"job": "concepts", "name": "c", "storage": str(tmp_path), "network": "n", "layer": "Final"}
    )).child("metrics.json"), {"selected": {"step": 0, "epoch": 0}, "imported": {}})  # fmt: skip
    with pytest.raises(ConfigError, match="was imported"):
        write_report([str(tmp_path / "c")])
